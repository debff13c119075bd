# SPDX-License-Identifier: Apache-2.0
"""Latent codes from files, such as those of projected photographs."""

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ..errors import UserError, reading
from ..models import Generator

_KIND = "latent codes"


def read_codes(path: Path, G: Generator) -> Tensor:
    """Returns the codes "w" of a .safetensors or .npz file, float32 ws [N, num_ws, w_dim].

    There they are [N, num_ws, w_dim], [num_ws, w_dim], or [w_dim] for one code in all layers.

    Raises:
        UserError: The file can't be read, or holds no codes of this generator.
    """
    with reading(path, _KIND):
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                w = torch.from_numpy(np.asarray(arrays["w"], dtype=np.float32))
        else:
            w = safetensors.torch.load_file(path)["w"].float()
        if w.shape == (G.w_dim,):
            w = w.repeat(G.num_ws, 1)
        if w.ndim == 2:
            w = w[None]
        if w.ndim != 3 or w.shape[1:] != (G.num_ws, G.w_dim) or len(w) == 0:
            raise UserError(
                f"{path} holds codes of another generator: their shape is {list(w.shape)}, and this network takes "
                f"[N, {G.num_ws}, {G.w_dim}]."
            )
        if not w.isfinite().all():
            raise UserError(f"{path} holds codes that are not finite.")
        return w
