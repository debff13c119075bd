# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel of a FIR with the epilogue of a modulated layer riding on it."""

import torch
import triton
import triton.language as tl

from .._triton import cdiv, on_device_of
from ..upfirdn2d.geometry import Geometry, filter_taps, geometry_of
from ..upfirdn2d.triton_fir import fir_lanes, fir_taps, fir_tile
from ..upfirdn2d.triton_impl import WARPS, Pass, channels_last_tiling, passes_of, run_passes
from .gpu_common import as_float, stride_of
from .triton_common import leaky, numbers

_LAST = torch.channels_last


@triton.jit(
    do_not_specialize=[
        "height", "width", "out_height", "pad_x", "pad_y", "f_start", "f_step_y", "f_step_x", "noise_stride",
    ]
)  # fmt: skip
def modulated_conv2d_fir_epilogue_kernel(
    x, f, d, noise, b, y, channels, height, width, out_height, out_width, pad_x, pad_y, f_start, f_step_y, f_step_x,
    noise_stride, gain, alpha, act_gain, clamp,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr,
    PHASE_X: tl.constexpr, PHASE_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, FILTER: tl.constexpr,
    GROUPS: tl.constexpr, LAST: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Reads channels_last; LAST: so it writes. gain is the FIR's, act_gain the activation's."""
    groups = tl.cdiv(out_width, UP_X)
    plane, block, first, channel = fir_lanes(tl.cdiv(out_height, UP_Y * GROUPS), groups, channels, 0, True, A, B)
    group = first + tl.arange(0, A)[:, None]
    inside = channel < channels
    row, column = block * (GROUPS * DOWN_Y) - pad_y, group * DOWN_X - pad_x
    at = x + (plane * height + row) * width * channels + (column * channels + channel)
    taps = fir_taps(f, f_start, f_step_y, f_step_x, gain, FILTER, TAPS_X, TAPS_Y)
    results = fir_tile(
        at, row, column, inside, height, width, width * channels, channels, taps, gain,
        UP_X, UP_Y, DOWN_X, DOWN_Y, PHASE_X, PHASE_Y, TAPS_X, TAPS_Y, FILTER, GROUPS, 1, 0, 1, A, B,
    )  # fmt: skip
    scale = 1.0
    added = 0.0
    if d is not None:
        scale = tl.load(d + plane * channels + channel, mask=inside, other=0.0)
    if b is not None:
        added = tl.load(b + channel, mask=inside, other=0.0)
    out_row = block * (GROUPS * UP_Y)
    if LAST:
        y += (plane * out_height + out_row) * out_width * channels + channel
    else:
        y += ((plane * channels + channel) * out_height + out_row) * out_width
    for i in tl.static_range(GROUPS * UP_Y):
        for r in tl.static_range(UP_X):
            out_column = group * UP_X + r
            within = (out_row + i < out_height) & (out_column < out_width)
            value = results[i * UP_X + r] * scale
            if noise is not None:
                place = noise + plane * noise_stride + (out_row + i) * out_width + out_column
                value += tl.load(place, mask=within, other=0.0) + added
            else:
                value += added
            value = leaky(value, alpha) * act_gain
            value = tl.where(value > clamp, clamp, tl.where(value < -clamp, -clamp, value))  # NaN stays NaN
            step = channels if LAST else 1
            tl.store(y + out_column * step, value.to(y.dtype.element_ty), mask=inside & within)
        y += out_width * channels if LAST else out_width


def modulated_conv2d_fir_epilogue(
    x, f, up, down, padding, flip_filter, fir_gain, d, noise, b, channels_last, act, alpha, gain, clamp
):
    geometry = geometry_of(up, down, padding, flip_filter, fir_gain)
    size = geometry.output_size(x.shape[2], x.shape[3], filter_taps(f))
    y = torch.empty(
        (*x.shape[:2], *size), dtype=x.dtype, device=x.device,
        memory_format=_LAST if channels_last else torch.contiguous_format,
    )  # fmt: skip
    if not y.numel():
        return y
    *earlier, step = passes_of(f, geometry)
    if not step.is_unrolled:
        earlier, step = [*earlier, step], Pass(Geometry(), None, (1, 1))
    x = x.contiguous(memory_format=_LAST)
    if earlier:
        x = run_passes(x, earlier, torch.float32).contiguous(memory_format=_LAST)
    alpha, gain, clamp = numbers(act, alpha, gain, clamp)
    n, c, height, width = x.shape
    columns = cdiv(size[1], step.geometry.up[0])
    lines = cdiv(size[0], step.geometry.up[1] * step.row_groups(False))
    programs, *tile = channels_last_tiling(n, lines, columns, c, y.element_size())
    g = step.geometry
    f, *f_steps = step.filter_args
    with on_device_of(x):
        modulated_conv2d_fir_epilogue_kernel[(programs,)](
            x, f, as_float(d), as_float(noise), as_float(b), y, c, height, width, *size, g.padding[0] // g.up[0],
            g.padding[2] // g.up[1], *f_steps, stride_of(noise, size[0] * size[1]), g.gain, alpha, gain, clamp,
            *step.unrolled_args(), channels_last, *tile, num_warps=WARPS,
        )  # fmt: skip
    return y
