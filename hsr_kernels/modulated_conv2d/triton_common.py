# SPDX-License-Identifier: Apache-2.0
"""What the kernels of a modulated layer share: reading vectors per channel and noise, and numbers for the launches."""

import triton
import triton.language as tl

from ..bias_act.activations import NAMES, Epilogue


@triton.jit
def channel_vector(vector, at, known, absent: tl.constexpr):
    """Values of a float32 vector per channel, or what leaves no trace where there is none."""
    if vector is None:
        return tl.full(at.shape, absent, tl.float32)
    else:
        return tl.load(vector + at, mask=known, other=absent)


@triton.jit
def noise_tile(noise, start, pixel, hw):
    """A tile's noise, in a shape that can be added to [pixels, channels]."""
    if noise is None:
        return 0.0
    else:
        return tl.load(noise + start + pixel, mask=pixel < hw, other=0.0)[:, None]


@triton.jit
def leaky(value, alpha):
    """value where it's above 0, else value * alpha; with an alpha of 0, 0 below it, infinity included."""
    # Literals: Triton 3.6 hashes module-level constants of a helper only if the helper was hashed before its kernel.
    lowest = tl.where(alpha == 0, -3.4028234663852886e38, float("-inf"))
    value = tl.where(value < lowest, lowest, value)
    return tl.where(value > 0, value, value * alpha)


def numbers(act: int, alpha: float, gain: float, clamp: float) -> tuple[float, float, float]:
    """Slope below zero, gain and clamp of a piecewise linear activation; infinity stands for no clamp."""
    epilogue = Epilogue(NAMES[act], alpha, gain, clamp)
    return epilogue.slope_below_zero, gain, float("inf") if clamp < 0 else clamp
