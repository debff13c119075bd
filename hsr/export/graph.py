# SPDX-License-Identifier: Apache-2.0
"""The generator as an exported file has it: named inputs with a batch of any size, truncation among them."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hsr_kernels import use_backend

from ..models import Generator
from ..tensors import one_hot

OUTPUT = "images"
# Samples of the batch that the program is traced with. PyTorch treats a single sample as a case of its own.
TRACED_BATCH = 2


class _ImagesFromZ(nn.Module):
    def __init__(self, G: Generator, noise_mode: str) -> None:
        super().__init__()
        self.G, self.noise_mode = G, noise_mode

    def forward(self, z: Tensor, truncation_psi: Tensor) -> Tensor:
        return self._images(self.G.mapping(z), truncation_psi)

    def _images(self, ws: Tensor, truncation_psi: Tensor) -> Tensor:
        return self.G.synthesis(self.G.mapping.truncate(ws, truncation_psi), self.noise_mode)


class _ImagesFromZAndClass(_ImagesFromZ):
    def forward(self, z: Tensor, c: Tensor, truncation_psi: Tensor) -> Tensor:  # type: ignore[override]
        return self._images(self.G.mapping(z, c), truncation_psi)


class _ImagesFromW(_ImagesFromZ):
    def forward(self, ws: Tensor, truncation_psi: Tensor) -> Tensor:  # type: ignore[override]
        return self._images(ws, truncation_psi)


@dataclass(frozen=True)
class Graph:
    """A generator, and what its exported files are to contain.

    Attributes:
        G: The generator, on the CPU.
        classes: The labels of its classes, in its order.
        source: "z" for latent codes and classes as inputs, "w" for a code per layer.
        noise_mode: "const" or "none".
    """

    G: Generator
    classes: tuple[int, ...]
    source: str
    noise_mode: str

    def inputs(self, batch: int, psi: float, seed: int = 0) -> dict[str, Tensor]:
        """Draws inputs by their names, in the program's order.

        z [batch, z_dim] and one-hot c [batch, c_dim], which only a network with classes has; or ws
        [batch, num_ws, w_dim]; and truncation_psi, a scalar tensor.
        """
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(batch, self.G.z_dim, generator=generator)
        c = one_hot(torch.arange(batch) % max(self.G.c_dim, 1), self.G.c_dim)
        codes = {"z": z} if c is None else {"z": z, "c": c}
        if self.source == "w":
            # Each layer has a code of its own, which finds layers that take another one's.
            of_layers = torch.randn(self.G.num_ws, *z.shape, generator=generator)
            codes = {"ws": torch.stack([self.G.mapping.map(z_of_layer, c) for z_of_layer in of_layers], dim=1)}
        return codes | {"truncation_psi": torch.tensor(psi)}

    @torch.no_grad()
    def images(self, inputs: dict[str, Tensor]) -> Tensor:
        """Returns the images [batch, 3, R, R] that the generator itself makes of the inputs."""
        psi = float(inputs["truncation_psi"])
        if self.source == "w":
            return self.G.synthesis(self.G.mapping.truncate(inputs["ws"], psi), self.noise_mode)
        return self.G(inputs["z"], inputs.get("c"), truncation_psi=psi, noise_mode=self.noise_mode)

    def trace(self) -> torch.export.ExportedProgram:
        """Returns the program, which takes a batch of any size, in float32 and in PyTorch's own operators."""
        kind = _ImagesFromW if self.source == "w" else _ImagesFromZAndClass if self.G.c_dim > 0 else _ImagesFromZ
        module = kind(self.G, self.noise_mode)
        inputs = self.inputs(TRACED_BATCH, 1.0)
        memory_format = self.G.synthesis.memory_format
        # What runs the program chooses its own layout.
        self.G.synthesis.memory_format = torch.contiguous_format
        try:
            with torch.no_grad(), use_backend("reference"):
                return torch.export.export(module, tuple(inputs.values()), dynamic_shapes=self.dynamic_shapes())
        finally:
            self.G.synthesis.memory_format = memory_format

    def dynamic_shapes(self) -> dict[str, Any]:
        """Returns the dimensions whose sizes may vary, by input."""
        batch = torch.export.Dim("batch", min=1)
        return {name: {0: batch} if value.ndim else None for name, value in self.inputs(1, 1.0).items()}

    def describe(self) -> str:
        """Returns the inputs and the output in words."""
        sizes = {name: _shape(value) for name, value in self.inputs(1, 1.0).items()}
        inputs = ", ".join(f"{name} {shape}" for name, shape in sizes.items())
        R = self.G.resolution
        return f"Inputs, in float32: {inputs}. Output: {OUTPUT} [batch, {self.G.img_channels}, {R}, {R}] in [-1, 1]."

    def metadata(self, **more: Any) -> dict[str, str]:
        """Returns what a file says of itself, as text by key."""
        values = {
            "resolution": self.G.resolution,
            "inputs": {name: _shape(value) for name, value in self.inputs(1, 1.0).items()},
            "classes": self.classes,
            "noise": self.noise_mode,
        }
        return {"hsr": json.dumps(values | more)}


def _shape(value: Tensor) -> str:
    return f"[{', '.join(['batch', *map(str, value.shape[1:])] if value.ndim else [])}]"
