# SPDX-License-Identifier: Apache-2.0
"""Losses of StyleGAN2 with the Hierarchical Semantic Regularizer.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), section 3.2 and
appendix B; R1 from Mescheder et al., "Which Training Methods for GANs do actually Converge?" (2018); HSR from
Karmali et al., "Hierarchical Semantic Regularization of Latent Spaces in StyleGANs" (2022).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsr_kernels import no_weight_gradients

from . import parts
from .models import Discriminator, Generator
from .semantics.regularizer import SemanticRegularizer

Stats = dict[str, Tensor]


def _mean(x: Tensor) -> Tensor:
    return x.detach().mean()


class GANLoss(nn.Module):
    """The losses of the training phases; each method returns (loss, statistics).

    The caller freezes the networks that a phase does not train (`requires_grad_(False)`) and multiplies the
    loss of a lazily applied phase by its interval. Random draws come from PyTorch's default generators.

    Within `hsr.parts.computing` the samples are a part of a batch, whose losses and statistics average to the batch's.
    The running means of w and of path lengths are those of the whole batch. Where a part doesn't see it, the caller
    lets them follow it beforehand, but for path lengths where the part is the process's whole share.

    `state_dict` holds `pl_mean` alone: the networks are the caller's.

    Args:
        G: Generator.
        D: Discriminator.
        hsr: Semantic regularizer, or None for the baseline.
        hsr_weight: Weight of the sum over its scales.
        r1_gamma: Weight of the R1 penalty.
        pl_weight: Weight of the path-length penalty.
        pl_decay: Step of the moving average of path lengths.
        pl_batch_shrink: The path-length phase takes 1 / pl_batch_shrink of the batch.
        style_mixing_prob: Probability of drawing a second latent code for the layers after a random one.
        augment: What the discriminator sees of images [N, 3, R, R], real and generated, such as an
            `hsr.augment.AugmentPipe`: their like, differentiable twice; None: the images themselves. R1 is taken at the
            images before it.
        on_real_logits: Called with the logits [N, 1] of real images in both phases of the discriminator.
        share: This process's part of every batch.
        mean_over_processes: Maps a scalar of this process to its mean over the processes that train together.
    """

    pl_mean: Tensor

    def __init__(
        self,
        G: Generator,
        D: Discriminator,
        *,
        hsr: SemanticRegularizer | None,
        hsr_weight: float = 1.0,
        r1_gamma: float,
        pl_weight: float = 2.0,
        pl_decay: float = 0.01,
        pl_batch_shrink: int = 2,
        style_mixing_prob: float = 0.9,
        augment: Callable[[Tensor], Tensor] | None = None,
        on_real_logits: Callable[[Tensor], None] | None = None,
        share: parts.BatchPart = parts.WHOLE,
        mean_over_processes: Callable[[Tensor], Tensor] = torch.Tensor.detach,
    ) -> None:
        super().__init__()
        # In a tuple, as modules that are attributes would be registered and enter the state_dict.
        self._networks = (G, D, hsr)
        self._augment = (augment,)
        self._on_real_logits = on_real_logits
        self.hsr_weight = hsr_weight
        self.r1_gamma = r1_gamma
        self.pl_weight = pl_weight
        self.pl_decay = pl_decay
        self.pl_batch_shrink = pl_batch_shrink
        self.style_mixing_prob = style_mixing_prob
        self._share, self._mean_over_processes = share, mean_over_processes
        self.register_buffer("pl_mean", torch.zeros([]))

    def generator_main(self, z: Tensor, c: Tensor | None) -> tuple[Tensor, Stats]:
        """Returns the non-saturating loss plus HSR of z [N, z_dim], one-hot c [N, c_dim]; updates the mean of w."""
        G, D, hsr = self._networks
        resolutions = () if hsr is None else hsr.resolutions
        is_whole = parts.computed_part() == parts.WHOLE
        images, features = G.synthesis.with_features(self._mixed_codes(z, c, update_w_avg=is_whole), resolutions)
        logits = D(self._augmented(images), c)
        loss = F.softplus(-logits).mean()
        stats = {"Loss/G/gan": loss.detach(), "Loss/scores/fake": _mean(logits)}
        if hsr is not None:
            per_scale = hsr([features[r] for r in resolutions], images)
            loss = loss + self.hsr_weight * per_scale.sum()
            stats["Loss/G/hsr"] = per_scale.detach().sum()
            stats |= {f"Loss/G/hsr_{r}": value for r, value in zip(resolutions, per_scale.detach(), strict=True)}
        return loss, stats

    def generator_path_length(self, z: Tensor, c: Tensor | None) -> tuple[Tensor, Stats]:
        """Returns the penalty on the deviation of path lengths from their moving average `pl_mean`."""
        lengths = self._shrunk_path_lengths(z, c)
        if parts.computed_part() == self._share:
            self.follow_path_length(self._mean_over_processes(lengths.detach().mean()))
        penalty = (lengths - self.pl_mean).square()
        stats = {"Loss/G/pl": _mean(penalty), "Loss/G/path_length": _mean(lengths)}
        return penalty.mean() * self.pl_weight, stats

    def mean_path_length(self, z: Tensor, c: Tensor | None) -> Tensor:
        """Returns the mean, a scalar, of the path lengths that `generator_path_length` penalises, as a constant."""
        return _mean(self._shrunk_path_lengths(z, c))

    def follow_path_length(self, mean: Tensor) -> None:
        """Moves `pl_mean` towards the mean path length of a batch, a scalar, unless that overflowed."""
        moved = self.pl_mean.lerp(mean.to(self.pl_mean.dtype), self.pl_decay)
        # An overflow must not stay in the mean forever, nor a length whose square overflows.
        self.pl_mean.copy_(torch.where(moved.square().isfinite(), moved, self.pl_mean))

    def _shrunk_path_lengths(self, z: Tensor, c: Tensor | None) -> Tensor:
        n = max(1, z.shape[0] // self.pl_batch_shrink)
        return self.path_lengths(z[:n], None if c is None else c[:n])

    def path_lengths(self, z: Tensor, c: Tensor | None) -> Tensor:
        """Returns path lengths [N], differentiable: norms of the gradients of images along random directions.

        A length of 0 has no derivative, and gets the derivative 0.
        """
        G, _, _ = self._networks
        ws = self._mixed_codes(z, c)
        images = G.synthesis(ws)
        # randn_like would draw in the order of memory, and a layout must not change the numbers.
        direction = parts.randn(*images.shape, dtype=images.dtype, device=images.device)
        direction = direction / math.sqrt(images.shape[2] * images.shape[3])
        # As in R1, only the first derivative by the input is needed, so the work for the weights is skipped.
        with no_weight_gradients():
            (gradient,) = torch.autograd.grad((images * direction).sum(), ws, create_graph=True)
        squares = gradient.square().sum(dim=2).mean(dim=1)
        return squares.masked_fill(squares == 0, 1).sqrt().masked_fill(squares == 0, 0)

    def discriminator_main(
        self, real: Tensor, real_c: Tensor | None, z: Tensor, c: Tensor | None
    ) -> tuple[Tensor, Stats]:
        """Returns the non-saturating loss of real images [N, 3, R, R] and of images of z [N, z_dim]."""
        G, D, _ = self._networks
        with torch.no_grad():
            fake = G.synthesis(self._mixed_codes(z, c))
        images = torch.cat([self._augmented(fake), self._augmented(real)])
        classes = None if c is None or real_c is None else torch.cat([c, real_c])
        # Two batches: real and generated images must not share a group of the minibatch standard deviation.
        fake_logits, real_logits = D(images, classes, batches=2).chunk(2)
        self._report(real_logits)
        loss = F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()
        stats = {
            "Loss/D/gan": loss.detach(),
            "Loss/scores/real": _mean(real_logits),
            "Loss/signs/real": _mean(real_logits.sign()),
        }
        return loss, stats

    def discriminator_r1(self, real: Tensor, real_c: Tensor | None) -> tuple[Tensor, Stats]:
        """Returns R1: half gamma times the mean squared norm of D's gradient at the real images [N, 3, R, R]."""
        _, D, _ = self._networks
        real = real.detach().requires_grad_()
        logits = D(self._augmented(real), real_c)
        self._report(logits)
        with no_weight_gradients():
            (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        penalty = gradient.square().sum(dim=[1, 2, 3])
        return penalty.mean() * (self.r1_gamma / 2), {"Loss/D/r1": _mean(penalty)}

    def _augmented(self, images: Tensor) -> Tensor:
        (augment,) = self._augment
        return images if augment is None else augment(images)

    def _report(self, real_logits: Tensor) -> None:
        if self._on_real_logits is not None:
            self._on_real_logits(real_logits)

    def _mixed_codes(self, z: Tensor, c: Tensor | None, update_w_avg: bool = False) -> Tensor:
        """Returns ws [N, num_ws, w_dim] with style mixing: from a random layer on, another code of the same class."""
        G, _, _ = self._networks
        if self.style_mixing_prob == 0:
            return G.mapping(z, c, update_w_avg=update_w_avg)
        layer = torch.arange(G.num_ws, device=z.device)
        cutoff = torch.randint(1, G.num_ws, [], device=z.device)
        mix = (layer >= cutoff) & (torch.rand([], device=z.device) < self.style_mixing_prob)
        # A mask, unlike a slice, does not wait for the cutoff from the GPU.
        second_z = parts.randn(*z.shape, dtype=z.dtype, device=z.device)
        w, second_w = G.mapping.map(torch.cat([z, second_z]), None if c is None else torch.cat([c, c])).chunk(2)
        if update_w_avg:
            G.mapping.follow(w)
        return torch.where(mix[:, None], second_w[:, None], w[:, None])
