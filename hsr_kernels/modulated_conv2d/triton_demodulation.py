# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the parameters of a demodulating layer, and of their gradients.

A program takes one output channel, whose row of weights it reads block by block of channels, and the samples tile by
tile. Where PRESCALED is set, weight and styles are first divided by their largest magnitudes, as `reference.prescale`
does for float16; smaller magnitudes count as `min_magnitude`.

In a launch for several layers, what differs between them comes in tuples with one entry per layer, and a program picks
its own: the code is there once, however many layers there are.
"""

import triton
import triton.language as tl

from .._triton import pick

# Their values aren't worth a compilation.
DO_NOT_SPECIALIZE = [
    "n", "o", "c", "taps", "flip", "stride_c", "stride_tap", "w_stride_c", "w_stride_tap", "dw_stride_o", "dw_stride_c",
    "dw_stride_tap",
]  # fmt: skip


@triton.jit
def _row_factor(row, c, taps, stride_c, stride_tap, scale, min_magnitude, CHANNELS: tl.constexpr):
    """Returns what a row of weights is multiplied by: `scale` over its largest magnitude."""
    peak = tl.zeros([CHANNELS], tl.float32)
    for first_channel in range(0, c, CHANNELS):
        channel = first_channel + tl.arange(0, CHANNELS)
        for tap in range(taps):
            value = tl.load(row + channel * stride_c + tap * stride_tap, mask=channel < c, other=0.0)
            peak = tl.maximum(peak, tl.abs(value.to(tl.float32)))
    return scale / tl.maximum(tl.max(peak, 0), min_magnitude)


@triton.jit
def _style_factors(styles, sample, n, c, min_magnitude, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr):
    """Returns what each sample's styles are multiplied by: 1 over their largest magnitude."""
    peak = tl.zeros([SAMPLES, CHANNELS], tl.float32)
    for first_channel in range(0, c, CHANNELS):
        peak = tl.maximum(peak, tl.abs(_styles(styles, sample, n, first_channel + tl.arange(0, CHANNELS), c)))
    return 1.0 / tl.maximum(tl.max(peak, 1), min_magnitude)


@triton.jit
def _styles(styles, sample, n, channel, c):
    mask = (sample < n)[:, None] & (channel < c)[None, :]
    return tl.load(styles + sample[:, None] * c + channel[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def demodulation_kernel(
    weight, styles, w, s, d, n, o, c, taps, flip, stride_c, stride_tap, w_stride_c, w_stride_tap, scale, min_magnitude,
    eps, PRESCALED: tl.constexpr, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """w = weight in the order of taps and the layout of the convolution, s = styles, d = rsqrt(sum of (w * s)^2 + eps).

    w and s may be missing. All rows of weights, and of w, begin `c * taps` elements apart.
    """
    _demodulate(
        tl.program_id(0), weight, styles, w, s, d, n, o, c, taps, flip, stride_c, stride_tap, w_stride_c, w_stride_tap,
        scale, min_magnitude, eps, PRESCALED, SAMPLES, CHANNELS,
    )  # fmt: skip


@triton.jit
def _demodulate(
    out_channel, weight, styles, w, s, d, n, o, c, taps, flip, stride_c, stride_tap, w_stride_c, w_stride_tap, scale,
    min_magnitude, eps, PRESCALED: tl.constexpr, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Does `demodulation_kernel`'s work for one output channel."""
    row = weight + out_channel * c * taps
    factor = 1.0
    if PRESCALED:
        factor = _row_factor(row, c, taps, stride_c, stride_tap, scale, min_magnitude, CHANNELS)
    for first_sample in range(0, n, SAMPLES):
        sample = first_sample + tl.arange(0, SAMPLES)
        style_factors = tl.full([SAMPLES], 1.0, tl.float32)
        if PRESCALED:
            style_factors = _style_factors(styles, sample, n, c, min_magnitude, SAMPLES, CHANNELS)
        total = tl.zeros([SAMPLES], tl.float32)
        for first_channel in range(0, c, CHANNELS):
            channel = first_channel + tl.arange(0, CHANNELS)
            energy = tl.zeros([CHANNELS], tl.float32)
            for tap in range(taps):
                value = tl.load(row + channel * stride_c + tap * stride_tap, mask=channel < c, other=0.0)
                value = value.to(tl.float32) * factor
                energy += value * value
                if w is not None:
                    offsets = out_channel * c * taps + channel * w_stride_c
                    offsets += (tap + flip * (taps - 1 - 2 * tap)) * w_stride_tap
                    tl.store(w + offsets, value.to(w.dtype.element_ty), mask=(channel < c) & (first_sample == 0))
            style = _styles(styles, sample, n, channel, c) * style_factors[:, None]
            total += tl.sum(style * style * energy[None, :], 1)
            if s is not None:
                mask = (sample < n)[:, None] & (channel < c)[None, :] & (out_channel == 0)
                tl.store(s + sample[:, None] * c + channel[None, :], style, mask=mask)
        tl.store(d + sample * o + out_channel, 1.0 / tl.sqrt_rn(total + eps), mask=sample < n)


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def demodulation_bwd_kernel(
    weight, styles, s, d, dw, dd, dweight, energy, denergy, style_factors, n, o, c, taps, flip, stride_c, stride_tap,
    dw_stride_o, dw_stride_c, dw_stride_tap, scale, min_magnitude,
    PRESCALED: tl.constexpr, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dweight, which may be missing, from dw, which may be missing too, and dd; and what the styles' gradient needs.

    That is energy = sum over taps of w^2, denergy = -dd * d^3, and what the styles were multiplied by to give s.
    Factors of prescaling are constants.
    """
    _demodulate_bwd(
        tl.program_id(0), weight, styles, s, d, dw, dd, dweight, energy, denergy, style_factors, n, o, c, taps, flip,
        stride_c, stride_tap, dw_stride_o, dw_stride_c, dw_stride_tap, scale, min_magnitude, PRESCALED, SAMPLES,
        CHANNELS,
    )  # fmt: skip


@triton.jit
def _demodulate_bwd(
    out_channel, weight, styles, s, d, dw, dd, dweight, energy, denergy, style_factors, n, o, c, taps, flip, stride_c,
    stride_tap, dw_stride_o, dw_stride_c, dw_stride_tap, scale, min_magnitude,
    PRESCALED: tl.constexpr, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Does `demodulation_bwd_kernel`'s work for one output channel."""
    row = out_channel * c * taps
    factor = 1.0
    if PRESCALED:
        factor = _row_factor(weight + row, c, taps, stride_c, stride_tap, scale, min_magnitude, CHANNELS)
    for first_channel in range(0, c, CHANNELS):
        channel = first_channel + tl.arange(0, CHANNELS)
        # Twice the gradient of a channel's energy.
        gradient = tl.zeros([CHANNELS], tl.float32)
        for first_sample in range(0, n, SAMPLES):
            sample = first_sample + tl.arange(0, SAMPLES)
            if PRESCALED and (out_channel == 0) & (first_channel == 0):
                of_sample = _style_factors(styles, sample, n, c, min_magnitude, SAMPLES, CHANNELS)
                tl.store(style_factors + sample, of_sample, mask=sample < n)
            offsets = sample * o + out_channel
            d_tile = tl.load(d + offsets, mask=sample < n, other=0.0)
            of_energy = tl.load(dd + offsets, mask=sample < n, other=0.0) * d_tile * d_tile * -d_tile
            tl.store(denergy + offsets, of_energy, mask=(sample < n) & (first_channel == 0))
            style = _styles(s, sample, n, channel, c)
            gradient += tl.sum(style * style * of_energy[:, None], 0)
        total = tl.zeros([CHANNELS], tl.float32)
        for tap in range(taps):
            offsets = row + channel * stride_c + tap * stride_tap
            value = tl.load(weight + offsets, mask=channel < c, other=0.0).to(tl.float32) * factor
            total += value * value
            value *= gradient
            if dw is not None:
                tap_offset = (tap + flip * (taps - 1 - 2 * tap)) * dw_stride_tap
                pointers = dw + out_channel * dw_stride_o + channel * dw_stride_c + tap_offset
                value += tl.load(pointers, mask=channel < c, other=0.0).to(tl.float32)
            if dweight is not None:
                tl.store(dweight + offsets, (value * factor).to(dweight.dtype.element_ty), mask=channel < c)
        tl.store(energy + out_channel * c + channel, total, mask=channel < c)


@triton.jit
def _layer(starts):
    """Returns this program's layer; `starts` are the first programs of the layers."""
    layer = 0
    for i in tl.static_range(1, len(starts)):
        layer += (tl.program_id(0) >= starts[i]).to(tl.int32)
    return layer


@triton.jit(do_not_specialize=["n"])
def demodulation_each_kernel(
    weight, styles, w, s, d, starts, o, c, taps, stride_c, stride_tap, w_stride_c, w_stride_tap, scale, n,
    min_magnitude, eps, PRESCALED: tl.constexpr, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What `demodulation_kernel` computes, of each layer; taps stay in their order."""
    layer = _layer(starts)
    if w is not None:
        w = pick(w, layer)
    if s is not None:
        s = pick(s, layer)
    _demodulate(
        tl.program_id(0) - pick(starts, layer), pick(weight, layer), pick(styles, layer), w, s, pick(d, layer), n,
        pick(o, layer), pick(c, layer), pick(taps, layer), 0, pick(stride_c, layer), pick(stride_tap, layer),
        pick(w_stride_c, layer), pick(w_stride_tap, layer), pick(scale, layer), min_magnitude, eps, PRESCALED, SAMPLES,
        CHANNELS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["n"])
def demodulation_each_bwd_kernel(
    weight, styles, s, d, dw, dd, dweight, energy, denergy, style_factors, starts, o, c, taps, stride_c, stride_tap,
    dw_stride_o, dw_stride_c, dw_stride_tap, scale, n, min_magnitude,
    PRESCALED: tl.constexpr, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What `demodulation_bwd_kernel` computes, of each layer."""
    layer = _layer(starts)
    if dw is not None:
        dw = pick(dw, layer)
    _demodulate_bwd(
        tl.program_id(0) - pick(starts, layer), pick(weight, layer), pick(styles, layer), pick(s, layer),
        pick(d, layer), dw, pick(dd, layer), pick(dweight, layer), pick(energy, layer), pick(denergy, layer),
        pick(style_factors, layer), n, pick(o, layer), pick(c, layer), pick(taps, layer), 0, pick(stride_c, layer),
        pick(stride_tap, layer), pick(dw_stride_o, layer), pick(dw_stride_c, layer), pick(dw_stride_tap, layer),
        pick(scale, layer), min_magnitude, PRESCALED, SAMPLES, CHANNELS,
    )  # fmt: skip
