# SPDX-License-Identifier: Apache-2.0
"""Launches of the Triton kernels of triton_fir_epilogue.py, after the convolution of a layer that upsamples."""

import torch

from .._triton import cdiv, launch_options, on_device_of
from ..upfirdn2d.geometry import Geometry, filter_taps, geometry_of
from ..upfirdn2d.triton_impl import THREADS, Pass, channels_last_tiling, passes_of, run_passes
from .gpu_common import as_float32, noise_stride, sum_blocks, sum_parts
from .triton_common import activation_args, activation_args_with_inverses
from .triton_fir_epilogue import modulated_conv2d_fir_epilogue_bwd_kernel, modulated_conv2d_fir_epilogue_kernel

# Rows of outputs of a lane in the backward, which reads two images.
_ROWS_BACKWARD = 2
# Left to itself, ptxas spills registers on sm_80 where the output has another layout than the input.
_MAX_REGISTERS_CONTIGUOUS = 255


def modulated_conv2d_fir_epilogue(
    x, f, up, down, padding, flip_filter, fir_gain, d, noise, b, channels_last, act, alpha, gain, clamp
):
    geometry = geometry_of(up, down, padding, flip_filter, fir_gain)
    size = geometry.output_size(x.shape[2], x.shape[3], filter_taps(f))
    y = torch.empty(
        (*x.shape[:2], *size), dtype=x.dtype, device=x.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )  # fmt: skip
    if not y.numel():
        return y
    *separate, fused = passes_of(f, geometry)
    if not fused.is_unrolled:
        separate, fused = [*separate, fused], Pass(Geometry(), None, (1, 1))
    x = x.contiguous(memory_format=torch.channels_last)
    if separate:
        x = run_passes(x, separate, torch.float32).contiguous(memory_format=torch.channels_last)
    n, c, height, width = x.shape
    g = fused.geometry
    lines, columns = cdiv(size[0], g.up[1] * fused.row_groups(False)), cdiv(size[1], g.up[0])
    programs, *tile = channels_last_tiling(n, lines, columns, c, y.element_size())
    f, *f_layout = fused.filter_args
    with on_device_of(x):
        modulated_conv2d_fir_epilogue_kernel[(programs,)](
            x, f, as_float32(d), as_float32(noise), as_float32(b), y, c, height, width, *size, g.padding[0] // g.up[0],
            g.padding[2] // g.up[1], *f_layout, noise_stride(noise, size[0] * size[1]), g.gain,
            *activation_args(act, alpha, gain, clamp), *fused.unrolled_args(), channels_last, *tile,
            **launch_options(x, THREADS, max_registers=None if channels_last else _MAX_REGISTERS_CONTIGUOUS),
        )  # fmt: skip
    return y


def modulated_conv2d_fir_epilogue_bwd(
    dy, y, f, up, down, padding, flip_filter, fir_gain, d, noise, b, needs_dnoise, act, alpha, gain, clamp
):
    n, c, height, width = y.shape
    y = y.contiguous(memory_format=torch.channels_last)
    dy = dy.contiguous(memory_format=torch.channels_last)
    fir_pass = Pass(geometry_of(up, down, padding, flip_filter, fir_gain), f, filter_taps(f))
    g = fir_pass.geometry
    size = g.output_size(height, width, fir_pass.taps)
    dx = torch.empty((n, c, *size), dtype=y.dtype, device=y.device, memory_format=torch.channels_last)
    blocks, groups = cdiv(max(height, size[0]), _ROWS_BACKWARD), max(width, size[1])
    programs, *tile = channels_last_tiling(n, blocks, groups, c, y.element_size())
    parts, channel_blocks = blocks * cdiv(groups, tile[0]), cdiv(c, tile[1])
    sums = y.new_empty((2, n, parts, c), dtype=torch.float32)
    dnoise = sums.new_empty((channel_blocks, n, 1, height, width)) if needs_dnoise else None
    f, f_offset, f_stride, _ = fir_pass.filter_args
    if y.numel():
        with on_device_of(y):
            modulated_conv2d_fir_epilogue_bwd_kernel[(programs,)](
                dy, y, f, as_float32(d), as_float32(noise), as_float32(b), dx, sums, dnoise, n, c, height, width,
                *size, g.padding[0], g.padding[2], f_offset, f_stride, noise_stride(noise, height * width), parts,
                blocks, groups, g.gain, *activation_args_with_inverses(act, alpha, gain, clamp), fir_pass.taps[0],
                _ROWS_BACKWARD, *tile, **launch_options(y, THREADS),
            )  # fmt: skip
    dd, db = sum_parts(sums)
    return dx, dd, db.sum(0), sum_blocks(dnoise, sums)
