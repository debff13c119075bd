# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the gradient of the HSR loss's hidden layer.

A tile of the pre-activations' gradient is made where it is used: the windows' gradients, spread over pixels by a small
GEMM, where the forward's kernel (run again, it alone decides) found the ReLU to pass. The scales differ in how many
windows a tile touches, which decides on the tensor-core instructions: here each has its own code in the one kernel.
"""

import triton
import triton.language as tl

from .triton_common import aligned, begin, end, number, unit


@triton.jit
def _spread(
    spread, share, gain, first, y, x, row, k, h, w, th, tw, stride,
    DTYPE: tl.constexpr, BQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """spread + the transposed pooling of BQ windows' gradients from `first` on, for pixels (y, x), [BK, BP]."""
    window = first + tl.arange(0, BQ)
    top, left = begin(window // tw, h, th), begin(window % tw, w, tw)
    bottom, right = end(window // tw, h, th), end(window % tw, w, tw)
    here = (row < k)[:, None] & (window < th * tw)[None, :]
    value = tl.load(share + (row[:, None] * stride + window[None, :]), mask=here, other=0.0).to(tl.float32)
    value *= (gain / ((bottom - top) * (right - left)).to(tl.float32))[None, :]
    belongs = (y >= top[:, None]) & (y < bottom[:, None]) & (x >= left[:, None]) & (x < right[:, None])
    return tl.dot(value.to(DTYPE), belongs.to(tl.float32).to(DTYPE), spread, input_precision=PRECISION)


@triton.jit
def _hidden_gradient(
    dpooled, mask, n, sample, row, first_row, tile, k, h, w, th, tw, gain, DTYPE: tl.constexpr,
    BK: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile [BK, BP] of the pre-activations' gradient, in float32; BQ = 0: windows are pixels."""
    pixel = tile * BP + tl.arange(0, BP)
    share = dpooled + sample * (th * tw)
    stride = n * th * tw
    if BQ == 0:
        here = (row < k)[:, None] & (pixel < h * w)[None, :]
        spread = tl.load(share + (row[:, None] * stride + pixel[None, :]), mask=here, other=0.0).to(tl.float32) * gain
    else:
        y, x = (pixel // w)[None, :], (pixel % w)[None, :]
        first = tile * BP // w * th // h * tw  # the first window of the first row of windows that the tile touches
        spread = tl.zeros([BK, BP], tl.float32)
        if CHUNKS == 1:  # no loop: what doesn't depend on `row` is then computed once, outside of the caller's loop
            spread = _spread(spread, share, gain, first, y, x, row, k, h, w, th, tw, stride, DTYPE, BQ, PRECISION)
        else:
            for chunk in range(CHUNKS):
                at = first + chunk * BQ
                spread = _spread(spread, share, gain, at, y, x, row, k, h, w, th, tw, stride, DTYPE, BQ, PRECISION)
    words = tl.cdiv(k, 32)
    word = (first_row // 32 + tl.arange(0, BK // 32)).to(row.dtype)
    here = (word < words)[:, None] & (pixel < h * w)[None, :]
    packed = tl.load(mask + sample * words * (h * w) + (word[:, None] * (h * w) + pixel[None, :]), mask=here, other=0)
    bits = (packed[:, None, :] >> tl.arange(0, 32)[None, :, None]) & 1
    return tl.where(tl.reshape(bits, [BK, BP]) != 0, spread, 0.0)


@triton.jit(do_not_specialize=["n"])
def feature_hidden_bwd_data_kernel(
    dpooled, mask, w1, dx, loss, dloss, share, starts, c, k, h, w, th, tw, n, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr,
    LAST: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """dx = w1^T @ dz: a program owns a tile of pixels and a block of channels. LAST: dx is channels_last."""
    for i in tl.static_range(len(dx)):
        program = number() - starts[i]
        if program >= 0 and program < starts[i + 1] - starts[i]:
            _bwd_data(
                program, dpooled[i], mask[i], w1[i], dx[i], unit(loss + i), tl.load(dloss + i) * share[i],
                aligned(c[i], ALIGN), k[i], h[i], aligned(w[i], ALIGN), th[i], tw[i], n, gain,
                BK, BC, BP, BQ[i], CHUNKS[i], LAST, PRECISION, INDEX,
            )  # fmt: skip


@triton.jit
def _bwd_data(
    program, dpooled, mask, w1, dx, unit, factor, c, k, h, w, th, tw, n, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr,
    LAST: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    blocks, tiles = tl.cdiv(c, BC), tl.cdiv(h * w, BP)
    channel = program % blocks * BC + tl.arange(0, BC)
    tile = program // blocks % tiles
    sample = (program // blocks // tiles).to(tl.int64)
    total = tl.zeros([BC, BP], tl.float32)
    for first in range(0, k, BK):
        row = (first + tl.arange(0, BK)).to(INDEX)
        dz = _hidden_gradient(
            dpooled, mask, n, sample, row, first, tile, k, h, w, th, tw, gain, w1.dtype.element_ty,
            BK, BP, BQ, CHUNKS, PRECISION,
        )  # fmt: skip
        here = (row < k)[None, :] & (channel < c)[:, None]
        weights = tl.load(w1 + (row[None, :] * c + channel[:, None]), mask=here, other=0.0)
        total = tl.dot(weights, dz.to(weights.dtype), total, input_precision=PRECISION)
    total *= factor / unit
    pixel = tile * BP + tl.arange(0, BP)
    if LAST:
        at = pixel.to(INDEX)[None, :] * c + channel[:, None]
    else:
        at = channel.to(INDEX)[:, None] * (h * w) + pixel[None, :]
    inside = (channel < c)[:, None] & (pixel < h * w)[None, :]
    tl.store(dx + sample * c * (h * w) + at, total.to(dx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "steps"])
def feature_hidden_bwd_weight_kernel(
    dpooled, mask, x, dw, db, loss, starts, c, k, h, w, th, tw, steps, n, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr,
    LAST: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """dw [parts, K, C] = dz @ x^T and db [parts, K] = sums of dz, over `steps` tiles a part."""
    for i in tl.static_range(len(x)):
        program = number() - starts[i]
        if program >= 0 and program < starts[i + 1] - starts[i]:
            _bwd_weight(
                program, dpooled[i], mask[i], x[i], dw[i], db[i], 1 / unit(loss + i), aligned(c[i], ALIGN), k[i], h[i],
                aligned(w[i], ALIGN), th[i], tw[i], steps, n, gain, BK, BC, BP, BQ[i], CHUNKS[i], LAST, PRECISION,
                INDEX,
            )  # fmt: skip


@triton.jit
def _bwd_weight(
    program, dpooled, mask, x, dw, db, factor, c, k, h, w, th, tw, steps, n, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr,
    LAST: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    rows, blocks, tiles = tl.cdiv(k, BK), tl.cdiv(c, BC), tl.cdiv(h * w, BP)
    first_row = program % rows * BK
    row = (first_row + tl.arange(0, BK)).to(INDEX)
    block = program // rows % blocks
    part = (program // rows // blocks).to(tl.int64)
    channel = block * BC + tl.arange(0, BC)
    total = tl.zeros([BK, BC], tl.float32)
    sums = tl.zeros([BK], tl.float32)
    for step in range(part * steps, tl.minimum((part + 1) * steps, tiles * n)):
        tile = (step % tiles).to(tl.int32)
        sample = step // tiles
        dz = _hidden_gradient(
            dpooled, mask, n, sample, row, first_row, tile, k, h, w, th, tw, gain, x.dtype.element_ty,
            BK, BP, BQ, CHUNKS, PRECISION,
        )  # fmt: skip
        sums += tl.sum(dz, 1)
        pixel = tile * BP + tl.arange(0, BP)
        if LAST:
            at = pixel.to(INDEX)[:, None] * c + channel[None, :]
        else:
            at = channel.to(INDEX)[None, :] * (h * w) + pixel[:, None]
        here = (pixel < h * w)[:, None] & (channel < c)[None, :]
        v = tl.load(x + sample * c * (h * w) + at, mask=here, other=0.0)
        total = tl.dot(dz.to(v.dtype), v, total, input_precision=PRECISION)
    if block == 0:
        tl.store(db + part * k + row, sums * factor, mask=row < k)
    to = dw + part * k * c + (row[:, None] * c + channel[None, :])
    tl.store(to, total * factor, mask=(row < k)[:, None] & (channel < c)[None, :])
