# SPDX-License-Identifier: Apache-2.0
"""Latent codes from files, such as those of projected photographs, with the noise that belongs to them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor

from ..errors import UserError, reading
from ..models import Generator

_KIND = "latent codes"
# Beginning of the names of noise maps in a file; what follows is the name of the buffer that they take the place of.
_NOISE = "noise."


@dataclass(frozen=True)
class StoredCodes:
    """Latent codes of a generator.

    Attributes:
        ws: The codes, float32 [N, num_ws, w_dim].
        noise: Noise maps [R, R] by the names of the synthesis network's buffers; none: the network's own.
        fingerprint: Of the weights that they were found with, as `identify` returns it; None: the file doesn't say.
    """

    ws: Tensor
    noise: dict[str, Tensor]
    fingerprint: str | None = None

    @torch.no_grad()
    def give_noise(self, G: Generator) -> None:
        """Puts these noise maps in the place of the generator's own."""
        buffers = dict(G.synthesis.named_buffers())
        for name, value in self.noise.items():
            buffers[name].copy_(value)


def read_codes(path: Path, G: Generator) -> StoredCodes:
    """Returns the codes "w" of a .safetensors or .npz file, and the noise maps of the former.

    There the codes are [N, num_ws, w_dim], [num_ws, w_dim], or [w_dim] for one code in all layers.

    Raises:
        UserError: The file can't be read, or holds no codes of this generator.
    """
    with reading(path, _KIND):
        noise: dict[str, Tensor] = {}
        fingerprint = None
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                w = torch.from_numpy(np.asarray(arrays["w"], dtype=np.float32))
        else:
            with safetensors.safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("hsr", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            w = tensors["w"].float()
            fingerprint = header.get("fingerprint")
            noise = {name.removeprefix(_NOISE): value for name, value in tensors.items() if name.startswith(_NOISE)}
        if w.shape == (G.w_dim,):
            w = w.repeat(G.num_ws, 1)
        if w.ndim == 2:
            w = w[None]
        if w.ndim != 3 or w.shape[1:] != (G.num_ws, G.w_dim) or len(w) == 0:
            raise UserError(
                f"{path} holds codes of another generator: their shape is {list(w.shape)}, and this network takes "
                f"[N, {G.num_ws}, {G.w_dim}]."
            )
        shapes = {name: buffer.shape for name, buffer in G.synthesis.named_buffers()}
        for name, value in noise.items():
            if shapes.get(name) != value.shape:
                raise UserError(f"{path} holds noise of another generator: {name} of shape {list(value.shape)}.")
        if not all(values.isfinite().all() for values in (w, *noise.values())):
            raise UserError(f"{path} holds codes that are not finite.")
        return StoredCodes(w, noise, fingerprint)
