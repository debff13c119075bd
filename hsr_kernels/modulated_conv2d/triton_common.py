# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels of a modulated layer share: vectors per channel, noise, the activation and its arguments."""

import triton
import triton.language as tl

from ..bias_act.activations import NAMES, Epilogue


def activation_args(act: int, alpha: float, gain: float, clamp: float) -> tuple[float, float, float]:
    """Returns slope below zero, gain and clamp of a piecewise linear activation; infinity stands for no clamp."""
    epilogue = Epilogue(NAMES[act], alpha, gain, clamp)
    return epilogue.slope_below_zero, gain, float("inf") if clamp < 0 else clamp


def activation_args_with_inverses(
    act: int, alpha: float, gain: float, clamp: float
) -> tuple[float, float, float, float, float]:
    """Returns the same with the inverses of slope and gain."""
    alpha, gain, clamp = activation_args(act, alpha, gain, clamp)
    return alpha, 1 / alpha if alpha else 0.0, gain, 1 / gain, clamp


def input_precision(product_kind: str) -> str:
    """Returns how tl.dot multiplies, for a kind that `routes.products` returns."""
    return "tf32" if product_kind == "tf32" else "ieee"


@triton.jit
def channel_vector(vector, offsets, mask, default: tl.constexpr):
    """Returns values of a float32 vector per channel, or the default, which has no effect, where there is no vector."""
    if vector is None:
        return tl.full(offsets.shape, default, tl.float32)
    else:
        return tl.load(vector + offsets, mask=mask, other=default)


@triton.jit
def noise_tile(noise, offset, pixel, hw):
    """Returns a tile's noise, in a shape that can be added to [pixels, channels]."""
    if noise is None:
        return 0.0
    else:
        return tl.load(noise + offset + pixel, mask=pixel < hw, other=0.0)[:, None]


@triton.jit
def leaky_relu(value, alpha):
    """Returns value where it's above 0, else value * alpha; with an alpha of 0 that is 0, even of -infinity."""
    # Literals: Triton 3.6 hashes module-level constants of a helper only if the helper was hashed before its kernel.
    lowest = tl.where(alpha == 0, -3.4028234663852886e38, float("-inf"))
    value = tl.where(value < lowest, lowest, value)
    return tl.where(value > 0, value, value * alpha)
