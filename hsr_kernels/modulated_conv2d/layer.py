# SPDX-License-Identifier: Apache-2.0
"""What is decided about a layer before its numbers matter, once for all calls with tensors like these."""

from dataclasses import dataclass
from typing import Self

import torch

from .._dispatch.library import Kernels
from ..bias_act.activations import IDENTITY, Epilogue
from ..conv2d_resample.plan import Plan
from .routes import FUSED, Routes
from .routes import choose as choose_routes

# (height, width) before the convolution, after it, and at the end.
Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Layer:
    """A modulated layer without its tensors.

    Attributes:
        kernels: What its passes run.
        plan: The order of FIRs and convolution.
        routes: Of its passes.
        demodulate: Whether output channels are scaled by d.
        flip: Whether the convolution, as PyTorch computes it, takes the kernel's taps in reverse.
        is_small_projection: Whether it is a 1x1 convolution to few channels (ToRGB): scaling its weights is cheaper.
        epilogue: Activation, gain and clamp.
        fused_epilogue: Those that the last kernel of the layer applies.
        sizes: Those of the images, where they are known to be the same in all calls.
    """

    kernels: Kernels
    plan: Plan
    routes: Routes
    demodulate: bool
    flip: bool
    is_small_projection: bool
    epilogue: Epilogue
    fused_epilogue: Epilogue
    sizes: Sizes | None = None

    @classmethod
    def of(
        cls,
        kernels: Kernels,
        x: torch.Tensor,
        weight: torch.Tensor,
        plan: Plan,
        demodulate: bool,
        flip_weight: bool,
        epilogue: Epilogue,
    ) -> Self:
        """Decides about the layer with images x and this weight; the arguments are those of the public function."""
        routes = choose_routes(kernels.backend, x, weight.shape, plan.resamples)
        # conv2d correlates; a transposed convolution convolves.
        flip = flip_weight == plan.convolution.transposed and weight.shape[2] * weight.shape[3] > 1
        # The fused kernel needs no scaled weights: it scales the images as it reads them.
        is_small_projection = not demodulate and routes.forward != FUSED and _is_small_projection(weight, plan)
        # The backward pass recovers the convolution's result from y, which only some activations allow.
        is_fused = epilogue.piecewise_linear and epilogue.from_output
        fused_epilogue = epilogue if is_fused else IDENTITY
        return cls(kernels, plan, routes, demodulate, flip, is_small_projection, epilogue, fused_epilogue)

    @property
    def is_fused(self) -> bool:
        """Whether the last kernel applies bias and activation too."""
        return self.fused_epilogue is self.epilogue


def _is_small_projection(weight: torch.Tensor, plan: Plan) -> bool:
    is_pointwise = plan.before is None and plan.after is None and plan.convolution.padding == (0, 0)
    return is_pointwise and weight.shape[2:] == (1, 1) and weight.shape[0] * 4 <= weight.shape[1]
