# SPDX-License-Identifier: Apache-2.0
"""Triton kernels before and after the convolution of a modulated layer: one pass over memory each.

They work on tiles of [pixels, channels] that never cross a sample, so that a sample's vectors are read once. Images on
the convolution's side (u, z and their gradients) are channels_last; on the other side (x, y and theirs) they have
either layout, and tiles are large enough in both directions for whole sectors of memory.

A sample's tiles are shared by `programs_per_sample` programs for each block of CHANNELS channels, with
`tiles_per_program` tiles each. Sums are deterministic: each program writes its own float32 partial sums, a row of
`sums`, and PyTorch adds those up.
"""

import triton
import triton.language as tl

from .triton_common import channel_vector, leaky_relu, noise_tile

# Their values aren't worth a compilation.
DO_NOT_SPECIALIZE = ["n", "programs_per_sample", "tiles_per_program", "noise_stride"]


@triton.jit
def _program_tiles(
    c, programs_per_sample, tiles_per_program, CHANNELS: tl.constexpr, INT64_OFFSETS: tl.constexpr
):  # fmt: skip
    """Returns this program's sample, row of partial sums, first tile, and channels."""
    channel_blocks = tl.cdiv(c, CHANNELS)
    row = tl.program_id(0) // channel_blocks
    channel = tl.program_id(0) % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    first_tile = row % programs_per_sample * tiles_per_program
    if INT64_OFFSETS:
        first_tile, channel = first_tile.to(tl.int64), channel.to(tl.int64)
    return (row // programs_per_sample).to(tl.int64), row.to(tl.int64), first_tile, channel


@triton.jit
def _offsets(pixel, channel, c, hw, CHANNELS_LAST: tl.constexpr):
    """Returns the offsets of a tile [pixels, channels] inside its sample."""
    if CHANNELS_LAST:
        return pixel[:, None] * c + channel[None, :]
    else:
        return channel[None, :] * hw + pixel[:, None]


@triton.jit
def _load(x, offsets, mask):
    return tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _store(x, offsets, value, mask):
    tl.store(x + offsets, value.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _recover(y, alpha, inv_alpha, gain, inv_gain, clamp):
    """Returns dy/dpre, pre, and dpre/dy, recovered from y.

    Where dy/dpre is 0 the others only have to be finite: they never stand without it as another factor.
    """
    t = y * inv_gain
    slope = tl.where(tl.abs(y) < clamp, tl.where(t > 0, gain, gain * alpha), 0.0)
    inverse = tl.where(t > 0, 1.0, inv_alpha)
    return slope, t * inverse, inverse * inv_gain


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def scale_channels_kernel(
    x, s, u, c, hw, programs_per_sample, tiles_per_program,
    CHANNELS_LAST: tl.constexpr, INT64_OFFSETS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """u = x * s."""
    sample, _, first_tile, channel = _program_tiles(c, programs_per_sample, tiles_per_program, CHANNELS, INT64_OFFSETS)
    sample_offset = sample * c * hw
    pixel = first_tile * PIXELS + tl.arange(0, PIXELS)
    mask = (pixel < hw)[:, None] & (channel < c)[None, :]
    value = _load(x + sample_offset, _offsets(pixel, channel, c, hw, CHANNELS_LAST), mask)
    value *= channel_vector(s, sample * c + channel, channel < c, 1.0)[None, :]
    _store(u + sample_offset, _offsets(pixel, channel, c, hw, True), value, mask)


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def scale_channels_bwd_kernel(
    du, x, s, dx, u, sums, c, hw, programs_per_sample, tiles_per_program,
    CHANNELS_LAST: tl.constexpr, INT64_OFFSETS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx = du * s; u = x * s, unless that is missing; sums: du * x."""
    sample, row, first_tile, channel = _program_tiles(
        c, programs_per_sample, tiles_per_program, CHANNELS, INT64_OFFSETS
    )
    sample_offset = sample * c * hw
    scale = channel_vector(s, sample * c + channel, channel < c, 1.0)[None, :]
    dot = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tile in range(tiles_per_program):
        pixel = (first_tile + tile) * PIXELS + tl.arange(0, PIXELS)
        mask = (pixel < hw)[:, None] & (channel < c)[None, :]
        offsets = _offsets(pixel, channel, c, hw, CHANNELS_LAST)
        du_tile = _load(du + sample_offset, _offsets(pixel, channel, c, hw, True), mask)
        x_tile = _load(x + sample_offset, offsets, mask)
        dot += du_tile * x_tile
        _store(dx + sample_offset, offsets, du_tile * scale, mask)
        if u is not None:
            _store(u + sample_offset, _offsets(pixel, channel, c, hw, True), x_tile * scale, mask)
    tl.store(sums + row * c + channel, tl.sum(dot, 0), mask=channel < c)


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def scale_channels_bwd_bwd_kernel(
    ddx, dds, du, x, s, ddu, gx, sums, c, hw, programs_per_sample, tiles_per_program,
    CHANNELS_LAST: tl.constexpr, INT64_OFFSETS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """ddu = ddx * s + x * dds; gx = du * dds; sums: ddx * du."""
    sample, row, first_tile, channel = _program_tiles(
        c, programs_per_sample, tiles_per_program, CHANNELS, INT64_OFFSETS
    )
    sample_offset = sample * c * hw
    styles = channel_vector(s, sample * c + channel, channel < c, 1.0)[None, :]
    gradient = channel_vector(dds, sample * c + channel, channel < c, 0.0)[None, :]
    dot = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tile in range(tiles_per_program):
        pixel = (first_tile + tile) * PIXELS + tl.arange(0, PIXELS)
        mask = (pixel < hw)[:, None] & (channel < c)[None, :]
        offsets = _offsets(pixel, channel, c, hw, CHANNELS_LAST)
        conv_offsets = _offsets(pixel, channel, c, hw, True)
        du_tile = _load(du + sample_offset, conv_offsets, mask)
        ddx_tile = _load(ddx + sample_offset, offsets, mask)
        dot += ddx_tile * du_tile
        ddu_tile = ddx_tile * styles + _load(x + sample_offset, offsets, mask) * gradient
        _store(ddu + sample_offset, conv_offsets, ddu_tile, mask)
        _store(gx + sample_offset, offsets, du_tile * gradient, mask)
    tl.store(sums + row * c + channel, tl.sum(dot, 0), mask=channel < c)


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def modulated_conv2d_epilogue_kernel(
    z, d, noise, b, y, noise_stride, alpha, gain, clamp, c, hw, programs_per_sample, tiles_per_program,
    CHANNELS_LAST: tl.constexpr, INT64_OFFSETS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y = clamp(act(z * d + noise + b) * gain)."""
    sample, _, first_tile, channel = _program_tiles(c, programs_per_sample, tiles_per_program, CHANNELS, INT64_OFFSETS)
    sample_offset = sample * c * hw
    pixel = first_tile * PIXELS + tl.arange(0, PIXELS)
    mask = (pixel < hw)[:, None] & (channel < c)[None, :]
    value = _load(z + sample_offset, _offsets(pixel, channel, c, hw, True), mask)
    value *= channel_vector(d, sample * c + channel, channel < c, 1.0)[None, :]
    value += noise_tile(noise, sample * noise_stride, pixel, hw) + channel_vector(b, channel, channel < c, 0.0)[None, :]
    value = leaky_relu(value, alpha) * gain
    # Written so that NaN stays NaN.
    value = tl.where(value > clamp, clamp, tl.where(value < -clamp, -clamp, value))
    _store(y + sample_offset, _offsets(pixel, channel, c, hw, CHANNELS_LAST), value, mask)


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def modulated_conv2d_epilogue_bwd_kernel(
    dy, y, d, noise, b, dz, sums, dnoise, noise_stride, alpha, inv_alpha, gain, inv_gain, clamp,
    n, c, hw, programs_per_sample, tiles_per_program,
    CHANNELS_LAST: tl.constexpr, INT64_OFFSETS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dz = dpre * d with dpre = dy * dy/dpre; sums: dd and db; dnoise: the sums over each block of channels."""
    sample, row, first_tile, channel = _program_tiles(
        c, programs_per_sample, tiles_per_program, CHANNELS, INT64_OFFSETS
    )
    sample_offset, channel_mask = sample * c * hw, channel < c
    scale = channel_vector(d, sample * c + channel, channel_mask, 1.0)
    bias = channel_vector(b, channel, channel_mask, 0.0)[None, :]
    dd, db = tl.zeros([PIXELS, CHANNELS], tl.float32), tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tile in range(tiles_per_program):
        pixel = (first_tile + tile) * PIXELS + tl.arange(0, PIXELS)
        mask = (pixel < hw)[:, None] & channel_mask[None, :]
        offsets = _offsets(pixel, channel, c, hw, CHANNELS_LAST)
        slope, pre, _ = _recover(_load(y + sample_offset, offsets, mask), alpha, inv_alpha, gain, inv_gain, clamp)
        dpre = _load(dy + sample_offset, offsets, mask) * slope
        dd += dpre * (pre - (noise_tile(noise, sample * noise_stride, pixel, hw) + bias))
        db += dpre
        if dnoise is not None:
            map_offset = (tl.program_id(0) % tl.cdiv(c, CHANNELS) * n + sample) * hw
            tl.store(dnoise + map_offset + pixel, tl.sum(dpre, 1), mask=pixel < hw)
        _store(dz + sample_offset, _offsets(pixel, channel, c, hw, True), dpre * scale[None, :], mask)
    sum_offsets = row * c + channel
    tl.store(sums + sum_offsets, tl.sum(dd, 0) / scale, mask=channel_mask)
    tl.store(sums + n * programs_per_sample * c + sum_offsets, tl.sum(db, 0), mask=channel_mask)


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def modulated_conv2d_epilogue_bwd_bwd_kernel(
    ddz, ratio, ddnoise, ddb, dy, y, d, noise, b, gdy, gy, gnoise, sums,
    noise_stride, alpha, inv_alpha, gain, inv_gain, clamp, n, c, hw, programs_per_sample, tiles_per_program,
    CHANNELS_LAST: tl.constexpr, INT64_OFFSETS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """With zd = z * d recovered from y, and nothing where the activation doesn't pass:

    gdy = dy/dpre * (ddz * d + ratio * zd + ddnoise + ddb), gy = ratio * dpre * dpre/dy; sums: ddz * dpre, dpre * zd and
    gy * dy/dpre; gnoise: the sums of -gy * dy/dpre over each block of channels. gy * dy/dpre is ratio * dpre as the
    layer's backward pass will round it: its sums cancel those here.
    """
    sample, row, first_tile, channel = _program_tiles(
        c, programs_per_sample, tiles_per_program, CHANNELS, INT64_OFFSETS
    )
    sample_offset, channel_mask = sample * c * hw, channel < c
    scale = channel_vector(d, sample * c + channel, channel_mask, 1.0)[None, :]
    factor = channel_vector(ratio, sample * c + channel, channel_mask, 0.0)[None, :]
    bias = channel_vector(b, channel, channel_mask, 0.0)[None, :]
    bias_gradient = channel_vector(ddb, channel, channel_mask, 0.0)[None, :]
    dot = tl.zeros([PIXELS, CHANNELS], tl.float32)
    dot_zd, total = dot, dot
    for tile in range(tiles_per_program):
        pixel = (first_tile + tile) * PIXELS + tl.arange(0, PIXELS)
        mask = (pixel < hw)[:, None] & channel_mask[None, :]
        offsets = _offsets(pixel, channel, c, hw, CHANNELS_LAST)
        # This is read first: where layouts differ, Triton computes in that of the later loads and converts only this.
        ddz_tile = _load(ddz + sample_offset, _offsets(pixel, channel, c, hw, True), mask)
        slope, pre, inverse = _recover(_load(y + sample_offset, offsets, mask), alpha, inv_alpha, gain, inv_gain, clamp)
        dpre = _load(dy + sample_offset, offsets, mask) * slope
        zd = pre - (noise_tile(noise, sample * noise_stride, pixel, hw) + bias)
        dot += ddz_tile * dpre
        dot_zd += dpre * zd
        gy_tile = factor * dpre * inverse
        gpre = gy_tile * slope
        total += gpre
        if gnoise is not None:
            map_offset = (tl.program_id(0) % tl.cdiv(c, CHANNELS) * n + sample) * hw
            tl.store(gnoise + map_offset + pixel, -tl.sum(gpre, 1), mask=pixel < hw)
        addend = noise_tile(ddnoise, sample * hw, pixel, hw) + bias_gradient
        _store(gdy + sample_offset, offsets, slope * (ddz_tile * scale + factor * zd + addend), mask)
        _store(gy + sample_offset, offsets, gy_tile, mask)
    sum_offsets = row * c + channel
    rows_size = n * programs_per_sample * c
    tl.store(sums + sum_offsets, tl.sum(dot, 0), mask=channel_mask)
    tl.store(sums + rows_size + sum_offsets, tl.sum(dot_zd, 0), mask=channel_mask)
    tl.store(sums + 2 * rows_size + sum_offsets, tl.sum(total, 0), mask=channel_mask)


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def modulated_conv2d_projection_bwd_kernel(
    dz, w, x, s, dx, sums, dw_sums, c, hw, programs_per_sample, tiles_per_program,
    CHANNELS_LAST: tl.constexpr, INT64_OFFSETS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):  # fmt: skip
    """dx = du * s with du = w^T dz, of a 1x1 convolution to OUTPUTS channels; sums: x * du; dw_sums: x * s * dz."""
    sample, row, first_tile, channel = _program_tiles(
        c, programs_per_sample, tiles_per_program, CHANNELS, INT64_OFFSETS
    )
    sample_offset, channel_mask = sample * c * hw, channel < c
    scale = channel_vector(s, sample * c + channel, channel_mask, 1.0)[None, :]
    weights = ()
    products = ()
    for o in tl.static_range(OUTPUTS):
        weights += (tl.load(w + o * c + channel, mask=channel_mask, other=0.0).to(tl.float32)[None, :],)
        products += (tl.zeros([PIXELS, CHANNELS], tl.float32),)
    dot = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tile in range(tiles_per_program):
        pixel = (first_tile + tile) * PIXELS + tl.arange(0, PIXELS)
        mask = (pixel < hw)[:, None] & channel_mask[None, :]
        offsets = _offsets(pixel, channel, c, hw, CHANNELS_LAST)
        x_tile = _load(x + sample_offset, offsets, mask)
        du = tl.zeros([PIXELS, CHANNELS], tl.float32)
        grown = ()
        for o in tl.static_range(OUTPUTS):
            pointers = dz + (sample * hw + pixel) * OUTPUTS + o
            dz_tile = tl.load(pointers, mask=pixel < hw, other=0.0).to(tl.float32)[:, None]
            du += dz_tile * weights[o]
            grown += (products[o] + dz_tile * x_tile,)
        products = grown
        dot += x_tile * du
        _store(dx + sample_offset, offsets, du * scale, mask)
    tl.store(sums + row * c + channel, tl.sum(dot, 0), mask=channel_mask)
    for o in tl.static_range(OUTPUTS):
        total = tl.sum(products[o] * scale, 0)
        tl.store(dw_sums + (row * OUTPUTS + o) * c + channel, total, mask=channel_mask)
