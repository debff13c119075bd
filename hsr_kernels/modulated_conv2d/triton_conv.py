# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the modulated convolution: an implicit GEMM, with the style scale in its loads and the epilogue in
its stores, so that neither the scaled input nor the convolution's result is ever in memory.

    layer         y = clamp(act(conv(x * s, w) * d + noise + b) * gain)
    layer_bwd     du = the convolution's transpose of dz; dx = du * s, ds = sum(du * x)
    layer_weight  dw = the convolution of x * s with dz

Images are channels_last. The rows of a tile are pixels of one sample, so that a sample's vectors sit in registers; its
columns are channels. The sum runs over kernel rows outside, blocks of channels inside, and a kernel row's taps
unrolled: loads of one row of taps are in flight together, and no loop runs over taps and channels in one, which Triton
has been seen to miscompile (pytorch issue 173068).

Sums are deterministic: each program writes its own float32 partial sums, and PyTorch adds those up.
"""

import triton
import triton.language as tl

from .triton_common import channel_vector, leaky_relu, noise_tile

# Their values aren't worth a compilation.
DO_NOT_SPECIALIZE = [
    "noise_stride", "pad_y", "pad_x", "out_blocks", "tiles_per_sample", "width", "out_width", "height", "out_pixels",
    "pixels",
]  # fmt: skip


@triton.jit
def _convolve(
    x, w, s, pixel, out_channel, c, o, height, width, out_width, pad_y, pad_x,
    FLIP: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Returns [pixels, out channels] of the correlation of a sample x (times s) with w [o, KH, KW, c], in float32."""
    row, column = pixel // out_width - pad_y, pixel % out_width - pad_x
    total = tl.zeros([pixel.shape[0], out_channel.shape[0]], tl.float32)
    for ky in range(KH):
        pixel_offsets = (row + ky) * width + column
        row_mask = (row + ky >= 0) & (row + ky < height)
        for first_channel in range(0, c, DEPTH):
            channel = first_channel + tl.arange(0, DEPTH)
            channel_mask = channel < c
            if s is not None:
                scale = tl.load(s + channel, mask=channel_mask, other=0.0)[None, :]
            for kx in tl.static_range(KW):
                pixel_mask = row_mask & (column + kx >= 0) & (column + kx < width)
                x_offsets = (pixel_offsets + kx)[:, None] * c + channel[None, :]
                x_tile = tl.load(x + x_offsets, mask=pixel_mask[:, None] & channel_mask[None, :], other=0.0)
                if s is not None:
                    x_tile = (x_tile.to(tl.float32) * scale).to(x_tile.dtype)
                tap = (KH - 1 - ky) * KW + KW - 1 - kx if FLIP else ky * KW + kx
                w_offsets = (tap * c + channel)[:, None] + out_channel[None, :] * (KH * KW * c)
                w_tile = tl.load(w + w_offsets, mask=channel_mask[:, None] & (out_channel < o)[None, :], other=0.0)
                total = tl.dot(x_tile, w_tile, total, input_precision=PRECISION)
    return total


@triton.jit
def _program_tile(
    out_blocks, tiles_per_sample, PIXELS: tl.constexpr, OUT_CHANNELS: tl.constexpr, INT64_OFFSETS: tl.constexpr
):  # fmt: skip
    """Returns this program's sample, tile, pixels and output channels; neighbours share the pixels that they read."""
    program = tl.program_id(0)
    out_channel = program % out_blocks * OUT_CHANNELS + tl.arange(0, OUT_CHANNELS)
    tile = program // out_blocks % tiles_per_sample
    pixel = tile * PIXELS + tl.arange(0, PIXELS)
    if INT64_OFFSETS:
        pixel, out_channel = pixel.to(tl.int64), out_channel.to(tl.int64)
    return (program // out_blocks // tiles_per_sample).to(tl.int64), tile, pixel, out_channel


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def modulated_conv2d_layer_kernel(
    x, w, s, d, noise, b, y, noise_stride, alpha, gain, clamp, c, o, pixels, height, width, out_pixels, out_width,
    pad_y, pad_x, out_blocks, tiles_per_sample,
    KH: tl.constexpr, KW: tl.constexpr, INT64_OFFSETS: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, OUT_CHANNELS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Computes a tile of y [PIXELS, OUT_CHANNELS]."""
    sample, _, pixel, out_channel = _program_tile(out_blocks, tiles_per_sample, PIXELS, OUT_CHANNELS, INT64_OFFSETS)
    scale = None if s is None else s + sample * c
    value = _convolve(
        x + sample * c * pixels, w, scale, pixel, out_channel, c, o, height, width, out_width, pad_y, pad_x,
        False, KH, KW, DEPTH, PRECISION,
    )  # fmt: skip
    value *= channel_vector(d, sample * o + out_channel, out_channel < o, 1.0)[None, :]
    value += noise_tile(noise, sample * noise_stride, pixel, out_pixels)
    value += channel_vector(b, out_channel, out_channel < o, 0.0)[None, :]
    value = leaky_relu(value, alpha) * gain
    # Written so that NaN stays NaN.
    value = tl.where(value > clamp, clamp, tl.where(value < -clamp, -clamp, value))
    pointers = y + sample * o * out_pixels + (pixel[:, None] * o + out_channel[None, :])
    tl.store(pointers, value.to(y.dtype.element_ty), mask=(pixel < out_pixels)[:, None] & (out_channel < o)[None, :])


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def modulated_conv2d_layer_bwd_kernel(
    dz, w, x, s, dx, sums, c, o, pixels, height, width, out_pixels, out_width, pad_y, pad_x, out_blocks,
    tiles_per_sample,
    KH: tl.constexpr, KW: tl.constexpr, INT64_OFFSETS: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, OUT_CHANNELS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Computes a tile of dx [PIXELS, OUT_CHANNELS], these being channels of x, and its part of ds.

    w is [c, KH, KW, o]; dz is channels_last.
    """
    sample, tile, pixel, channel = _program_tile(out_blocks, tiles_per_sample, PIXELS, OUT_CHANNELS, INT64_OFFSETS)
    du = _convolve(
        dz + sample * o * pixels, w, None, pixel, channel, o, c, height, width, out_width, pad_y, pad_x,
        True, KH, KW, DEPTH, PRECISION,
    )  # fmt: skip
    offsets = sample * c * out_pixels + (pixel[:, None] * c + channel[None, :])
    mask = (pixel < out_pixels)[:, None] & (channel < c)[None, :]
    dot = du * tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(sums + (sample * tiles_per_sample + tile) * c + channel, tl.sum(dot, 0), mask=channel < c)
    scale = tl.load(s + sample * c + channel, mask=channel < c, other=0.0)
    tl.store(dx + offsets, (du * scale[None, :]).to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=[*DO_NOT_SPECIALIZE, "n", "samples_per_part", "parts_per_sample", "tiles_per_part"])
def modulated_conv2d_layer_weight_kernel(
    x, s, dz, dw, n, c, o, pixels, height, width, out_pixels, out_width, pad_y, pad_x, out_blocks, tiles_per_sample,
    samples_per_part, parts_per_sample, tiles_per_part,
    KH: tl.constexpr, KW: tl.constexpr, INT64_OFFSETS: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, IN_CHANNELS: tl.constexpr, OUT_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Computes dw [parts, o, KH * KW, c]: a part is of `samples_per_part` samples or `tiles_per_part` tiles of one.

    dz is channels_last.
    """
    program = tl.program_id(0)
    tap = program % (KH * KW)
    out_channel = program // (KH * KW) % out_blocks * OUT_CHANNELS + tl.arange(0, OUT_CHANNELS)
    program = program // (KH * KW) // out_blocks
    in_blocks = tl.cdiv(c, IN_CHANNELS)
    channel = program % in_blocks * IN_CHANNELS + tl.arange(0, IN_CHANNELS)
    part = program // in_blocks
    first_sample, sample_part = part // parts_per_sample * samples_per_part, part % parts_per_sample
    ky, kx = tap // KW - pad_y, tap % KW - pad_x
    total = tl.zeros([IN_CHANNELS, OUT_CHANNELS], tl.float32)
    for sample in range(first_sample, tl.minimum(first_sample + samples_per_part, n)):
        sample_int64 = tl.cast(sample, tl.int64)
        x_sample, dz_sample = x + sample_int64 * c * pixels, dz + sample_int64 * o * out_pixels
        dot = tl.zeros([IN_CHANNELS, OUT_CHANNELS], tl.float32)
        first_tile = sample_part * tiles_per_part
        end_tile = tl.minimum((sample_part + 1) * tiles_per_part, tiles_per_sample)
        for tile in range(first_tile, end_tile):
            pixel = tile * PIXELS + tl.arange(0, PIXELS)
            if INT64_OFFSETS:
                pixel = pixel.to(tl.int64)
            row, column = pixel // out_width + ky, pixel % out_width + kx
            dz_pixel_mask = pixel < out_pixels
            x_pixel_mask = dz_pixel_mask & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            x_offsets = (row * width + column)[:, None] * c + channel[None, :]
            x_tile = tl.load(x_sample + x_offsets, mask=x_pixel_mask[:, None] & (channel < c)[None, :], other=0.0)
            dz_offsets = pixel[:, None] * o + out_channel[None, :]
            dz_mask = dz_pixel_mask[:, None] & (out_channel < o)[None, :]
            dz_tile = tl.load(dz_sample + dz_offsets, mask=dz_mask, other=0.0)
            dot = tl.dot(tl.trans(x_tile), dz_tile, dot, input_precision=PRECISION)
        # The scale belongs to a sample's sum: nothing needs to be scaled on the way into it.
        total += dot * tl.load(s + sample_int64 * c + channel, mask=channel < c, other=0.0)[:, None]
    offsets = out_channel[None, :] * (KH * KW * c) + tap * c + channel[:, None]
    mask = (channel < c)[:, None] & (out_channel < o)[None, :]
    tl.store(dw + part.to(tl.int64) * o * KH * KW * c + offsets, total, mask=mask)
