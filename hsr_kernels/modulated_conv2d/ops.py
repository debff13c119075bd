# SPDX-License-Identifier: Apache-2.0
"""The native operators of a modulated layer that its backends implement.

`scale_channels` and the epilogues run before and after PyTorch's convolution. On GPUs `demodulation` prepares what they
take from the layer's parameters, and `demodulation_bwd` returns the gradients of these. On the triton backend alone,
`modulated_conv2d_layer...` are passes with the convolution inside, and `scale_channels_fwd_bwd` and
`scale_channels_bwd_bwd` do in one pass what others compose.

The convolution's w is [o, c, kh, kw], whatever its strides. Images between operators are [N, C, H, W] in channels_last;
d is [N, O], noise [N or 1, 1, H, W], b [O]: all in the accumulation dtype.
"""

import torch

from .._dispatch.library import define
from .._dispatch.library import kernels as kernels_of
from .._tensors import accumulation_dtype, dense_image, is_channels_last
from ..upfirdn2d.geometry import filter_taps, geometry_of


def _empty(shape, like, channels_last=True):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _fake_scale_bwd(du, x, s):
    return torch.empty_like(dense_image(x)[0]), torch.empty_like(s, memory_format=torch.contiguous_format)


def _fake_fir_epilogue(
    x, f, up, down, padding, flip_filter, fir_gain, d, noise, b, channels_last, act, alpha, gain, clamp
):
    geometry = geometry_of(up, down, padding, flip_filter, fir_gain)
    size = geometry.output_size(x.shape[2], x.shape[3], filter_taps(f))
    return _empty((*x.shape[:2], *size), x, channels_last)


def _fake_epilogue_bwd(dy, y, d, noise, b, needs_dnoise, act, alpha, gain, clamp):
    n, c, h, w = y.shape
    vector = y.new_empty((n, c), dtype=accumulation_dtype(y.dtype))
    dnoise = vector.new_empty((n, 1, h, w) if needs_dnoise else 0)
    return _empty(y.shape, y), vector, vector.new_empty(c), dnoise


def _fake_fir_epilogue_bwd(dy, y, f, up, down, padding, flip_filter, fir_gain, d, noise, b, needs_dnoise, *act):
    dz, *sums = _fake_epilogue_bwd(dy, y, d, noise, b, needs_dnoise, *act)
    fir = (f, up, down, padding, flip_filter, fir_gain)
    return _fake_fir_epilogue(dz, *fir, d, noise, b, True, *act), *sums


def _fake_epilogue_bwd_bwd(ddz, ratio, ddnoise, ddb, dy, y, d, noise, b, needs_gnoise, act, alpha, gain, clamp):
    n, c, h, w = y.shape
    sums = y.new_empty((3, n, c), dtype=accumulation_dtype(y.dtype))
    like = torch.empty_like(dense_image(y)[0])
    return like, torch.empty_like(like), sums.new_empty((n, 1, h, w) if needs_gnoise else 0), sums


def _fake_layer(x, w, s, d, noise, b, padding, act, alpha, gain, clamp):
    size = [x.shape[i] + 2 * padding[i - 2] - w.shape[i] + 1 for i in (2, 3)]
    return _empty((x.shape[0], w.shape[0], *size), x, is_channels_last(x))


def _fake_layer_bwd(dz, w, x, s, padding):
    return torch.empty_like(dense_image(x)[0]), s.new_empty(s.shape, dtype=accumulation_dtype(x.dtype))


def _fake_layer_weight(x, s, dz, kernel, padding):
    return _empty((dz.shape[1], x.shape[1], *kernel), x)


def _fake_demodulation_each(weights, styles, dtype, channels_last, needs_w, needs_s):
    layers = zip(weights, styles, channels_last, strict=True)
    found = [_fake_demodulation(weight, s, dtype, False, last, needs_w, needs_s) for weight, s, last in layers]
    return [t for of_all in zip(*found, strict=True) for t in of_all]


def _fake_demodulation_each_bwd(weights, styles, s, d, dw, ds, dd, dtype):
    return [*(torch.empty_like(dense_image(t)[0]) for t in weights), *(t.new_empty(t.shape) for t in styles)]


def _fake_demodulation(weight, styles, dtype, flip, channels_last, needs_w, needs_s):
    like = weight.new_empty(0, dtype=dtype)
    w = _empty(weight.shape, like, channels_last) if needs_w else like
    d = weight.new_empty((styles.shape[0], weight.shape[0]), dtype=torch.float32)
    return w, d.new_empty(styles.shape if needs_s else 0), d


def _fake_demodulation_bwd(weight, styles, s, d, dw, ds, dd, dtype, flip, needs_weight, needs_styles):
    dweight = torch.empty_like(dense_image(weight)[0]) if needs_weight else weight.new_empty(0)
    return dweight, styles.new_empty(styles.shape if needs_styles else 0)


_ACT = "int act, float alpha, float gain, float clamp"
_VECTORS = "Tensor? d, Tensor? noise, Tensor? b"
_FIR = "Tensor? f, int[] up, int[] down, int[] padding, bool flip_filter, float fir_gain"

scale_channels = define(
    "scale_channels(Tensor x, Tensor s) -> Tensor", __package__, fake=lambda x, s: _empty(x.shape, x)
)
scale_channels_bwd = define(
    "scale_channels_bwd(Tensor du, Tensor x, Tensor s) -> (Tensor, Tensor)",
    __package__,
    fake=_fake_scale_bwd,
)
# Returns u as `scale_channels` and (dx, ds) as `scale_channels_bwd`: a backward needs both.
scale_channels_fwd_bwd = define(
    "scale_channels_fwd_bwd(Tensor du, Tensor x, Tensor s) -> (Tensor, Tensor, Tensor)",
    __package__,
    fake=lambda du, x, s: (_empty(x.shape, x), *_fake_scale_bwd(du, x, s)),
    backends=("triton",),
)
# The gradients of `scale_channels_bwd` with respect to du, x and s.
scale_channels_bwd_bwd = define(
    "scale_channels_bwd_bwd(Tensor ddx, Tensor dds, Tensor du, Tensor x, Tensor s) -> (Tensor, Tensor, Tensor)",
    __package__,
    fake=lambda ddx, dds, du, x, s: (_empty(x.shape, x), *_fake_scale_bwd(du, x, s)),
    backends=("triton",),
)
modulated_conv2d_epilogue = define(
    f"modulated_conv2d_epilogue(Tensor z, {_VECTORS}, bool channels_last, {_ACT}) -> Tensor",
    __package__,
    fake=lambda z, d, noise, b, channels_last, act, alpha, gain, clamp: _empty(z.shape, z, channels_last),
)
modulated_conv2d_fir_epilogue = define(
    f"modulated_conv2d_fir_epilogue(Tensor x, {_FIR}, {_VECTORS}, bool channels_last, {_ACT}) -> Tensor",
    __package__,
    fake=_fake_fir_epilogue,
)
modulated_conv2d_epilogue_bwd = define(
    f"modulated_conv2d_epilogue_bwd(Tensor dy, Tensor y, {_VECTORS}, bool needs_dnoise, {_ACT})"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    __package__,
    fake=_fake_epilogue_bwd,
)
# The same with the transpose of the FIR that comes before the epilogue: dz is what that returns.
modulated_conv2d_fir_epilogue_bwd = define(
    f"modulated_conv2d_fir_epilogue_bwd(Tensor dy, Tensor y, {_FIR}, {_VECTORS}, bool needs_dnoise, {_ACT})"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    __package__,
    fake=_fake_fir_epilogue_bwd,
    backends=("triton",),
)
modulated_conv2d_epilogue_bwd_bwd = define(
    "modulated_conv2d_epilogue_bwd_bwd(Tensor ddz, Tensor ratio, Tensor? ddnoise, Tensor ddb, Tensor dy, Tensor y, "
    f"{_VECTORS}, bool needs_gnoise, {_ACT}) -> (Tensor, Tensor, Tensor, Tensor)",
    __package__,
    fake=_fake_epilogue_bwd_bwd,
)
modulated_conv2d_layer = define(
    f"modulated_conv2d_layer(Tensor x, Tensor w, Tensor s, {_VECTORS}, int[] padding, {_ACT}) -> Tensor",
    __package__,
    fake=_fake_layer,
    backends=("triton",),
)
modulated_conv2d_layer_bwd = define(
    "modulated_conv2d_layer_bwd(Tensor dz, Tensor w, Tensor x, Tensor s, int[] padding) -> (Tensor, Tensor)",
    __package__,
    fake=_fake_layer_bwd,
    backends=("triton",),
)
# Both of the gradients around it, of a layer with a 1x1 convolution to few channels.
modulated_conv2d_projection_bwd = define(
    "modulated_conv2d_projection_bwd(Tensor dz, Tensor w, Tensor x, Tensor s) -> (Tensor, Tensor, Tensor)",
    __package__,
    fake=lambda dz, w, x, s: (*_fake_layer_bwd(dz, w, x, s, (0, 0)), _empty(w.shape, x)),
    backends=("triton",),
)
modulated_conv2d_layer_weight = define(
    "modulated_conv2d_layer_weight(Tensor x, Tensor s, Tensor dz, int[] kernel, int[] padding) -> Tensor",
    __package__,
    fake=_fake_layer_weight,
    backends=("triton",),
)
# What `demodulation` returns of several layers with as many samples, weights of one dtype and styles of one: all w, all
# s, all d. Their taps stay in order.
demodulation_each = define(
    "demodulation_each(Tensor[] weights, Tensor[] styles, ScalarType dtype, bool[] channels_last, bool needs_w, "
    "bool needs_s) -> Tensor[]",
    __package__,
    fake=_fake_demodulation_each,
    backends=("triton",),
)
# Returns the gradients of all weights and of all styles from those of w, s and d, where s is the styles in float32 as
# they were scaled. dw may be an empty list, and what is None in ds stands for zero.
demodulation_each_bwd = define(
    "demodulation_each_bwd(Tensor[] weights, Tensor[] styles, Tensor[] s, Tensor[] d, Tensor[] dw, Tensor?[] ds, "
    "Tensor[] dd, ScalarType dtype) -> Tensor[]",
    __package__,
    fake=_fake_demodulation_each_bwd,
    backends=("triton",),
)
# Returns weight [O, C, kh, kw] in `dtype`, its taps in reverse order with `flip`; styles [N, C]; and d, for which see
# demodulation.py. The first two are empty if they aren't needed.
demodulation = define(
    "demodulation(Tensor weight, Tensor styles, ScalarType dtype, bool flip, bool channels_last, bool needs_w, "
    "bool needs_s) -> (Tensor, Tensor, Tensor)",
    __package__,
    fake=_fake_demodulation,
    backends=("triton", "cuda"),
)
# Returns the gradients of weight and styles from those of w, s and d, where s is the styles in float32 as they were
# scaled. The first two are None for zero, the results empty if they aren't needed.
demodulation_bwd = define(
    "demodulation_bwd(Tensor weight, Tensor styles, Tensor s, Tensor d, Tensor? dw, Tensor? ds, Tensor dd, "
    "ScalarType dtype, bool flip, bool needs_weight, bool needs_styles) -> (Tensor, Tensor)",
    __package__,
    fake=_fake_demodulation_bwd,
    backends=("triton", "cuda"),
)

kernels = kernels_of(__package__)
