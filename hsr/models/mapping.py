# SPDX-License-Identifier: Apache-2.0
"""Mapping network: latent code and class label to the intermediate latent space W.

Source: Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks" (2019);
labels as in "Training Generative Adversarial Networks with Limited Data" (2020), appendix C.
"""

import torch
from torch import Tensor, nn

from .equalized import prepared
from .layers import FullyConnected, normalize_second_moment


class LatentMLP(nn.Module):
    """Perceptron on a normalised latent code and a normalised embedding of the class label.

    `z_dim` 0 means that there is no latent code, `c_dim` 0 that there are no labels.
    """

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, *, num_layers: int = 8, lr_multiplier: float = 0.01) -> None:
        super().__init__()
        if z_dim == 0 and c_dim == 0:
            raise ValueError("z_dim and c_dim must not both be 0: there would be no input")
        self.z_dim, self.c_dim = z_dim, c_dim
        self.embed = FullyConnected(c_dim, w_dim) if c_dim > 0 else None
        in_features = [z_dim + (w_dim if c_dim > 0 else 0)] + [w_dim] * (num_layers - 1)
        self.layers = nn.Sequential(
            *(FullyConnected(n, w_dim, activation="lrelu", lr_multiplier=lr_multiplier) for n in in_features)
        )

    def map(self, z: Tensor | None, c: Tensor | None) -> Tensor:
        """Maps z [N, z_dim] and one-hot c [N, c_dim], float32, to w [N, w_dim]."""
        parts = []
        if self.z_dim > 0:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                raise ValueError(f"z must be [N, {self.z_dim}], got {None if z is None else tuple(z.shape)}")
            parts.append(normalize_second_moment(z))
        if self.embed is not None:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                raise ValueError(f"c must be [N, {self.c_dim}], got {None if c is None else tuple(c.shape)}")
            parts.append(normalize_second_moment(self.embed(c.to(self.embed.weight.dtype))))
        x = torch.cat(parts, dim=1)
        layers = [layer for layer in self.layers if isinstance(layer, FullyConnected)]
        parameters = prepared((layer, x.dtype) for layer in layers)
        for layer in layers:
            x = layer(x, parameters[layer])
        return x


class MappingNetwork(LatentMLP):
    """The generator's mapping: w repeated for every synthesis layer, with the truncation trick.

    `w_avg` [w_dim] follows the mean of w over training; it is the point that truncation pulls towards.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        *,
        num_layers: int = 8,
        lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.998,
    ) -> None:
        super().__init__(z_dim, c_dim, w_dim, num_layers=num_layers, lr_multiplier=lr_multiplier)
        self.num_ws = num_ws
        self.w_avg_beta = w_avg_beta
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_w_avg: bool = False,
    ) -> Tensor:
        """Maps z [N, z_dim], one-hot c [N, c_dim] to ws [N, num_ws, w_dim].

        `truncation_psi` below one pulls the first `truncation_cutoff` layers (None: all) towards `w_avg`;
        `update_w_avg` lets `w_avg` follow this batch.
        """
        w = self.map(z, c)
        if update_w_avg:
            self.follow(w)
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        return ws if truncation_psi == 1.0 else self.truncate(ws, truncation_psi, truncation_cutoff)

    def follow(self, w: Tensor) -> None:
        """Lets `w_avg` follow the codes w [N, w_dim] of a batch."""
        mean = w.detach().mean(dim=0)
        # One overflow must not stay in the mean forever.
        mean = torch.where(mean.isfinite(), mean, self.w_avg)
        self.w_avg.copy_(mean.lerp(self.w_avg, self.w_avg_beta))

    def truncate(self, ws: Tensor, psi: float | Tensor, cutoff: int | None = None) -> Tensor:
        """Pulls the first `cutoff` layers (None: all) of ws [N, num_ws, w_dim] towards `w_avg`.

        `psi` is the share of a code's distance from `w_avg` that remains; it may be a scalar tensor.
        """
        cutoff = self.num_ws if cutoff is None else cutoff
        truncated = self.w_avg.lerp(ws[:, :cutoff], psi)
        return torch.cat([truncated, ws[:, cutoff:]], dim=1)
