# SPDX-License-Identifier: Apache-2.0
"""SeFa: the directions in W that change the styles most, in closed form.

Source: Shen and Zhou, "Closed-Form Factorization of Latent Semantics in GANs" (2021), section 3.2.
"""

import torch
from torch import Tensor

from ..models import Generator
from .directions import Direction
from .layers import RANGES, layer_range


def style_matrix(G: Generator, layers: tuple[int, ...]) -> Tensor:
    """Returns A, float64 [C, w_dim]: by how much all styles that are made of these layers' codes change with w."""
    parts = [
        layer.affine.weight.detach().double().cpu() * layer.affine.weight_gain
        for layer in G.synthesis.style_layers()
        if layer.code in layers
    ]
    return torch.cat(parts)


def sefa_directions(G: Generator, w: Tensor, number: int) -> list[Direction]:
    """Returns the eigenvectors of A^T A with the largest eigenvalues, for every range of layers.

    Args:
        G: The generator.
        w: Samples [N, w_dim], which the unit steps are taken from.
        number: Directions for each range.
    """
    found = []
    for name in RANGES:
        layers = layer_range(G, name)
        if not layers:
            continue
        matrix = style_matrix(G, layers)
        values, vectors = torch.linalg.eigh(matrix.T @ matrix)
        for i, (value, vector) in enumerate(zip(values.flip(0)[:number], vectors.T.flip(0)[:number], strict=True), 1):
            # An eigenvector has no sign: the largest component becomes positive.
            vector = vector * vector[vector.abs().argmax()].sign()
            unit_step = float((w.double() @ vector).std())
            scores = {"eigenvalue": float(value)}
            found.append(Direction(f"sefa-{i}@{name}", "sefa", vector.float(), unit_step, layers, scores=scores))
    return found
