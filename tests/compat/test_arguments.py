# SPDX-License-Identifier: Apache-2.0
"""Arguments as projects pass them, held to literal arithmetic."""

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import hsr_kernels as K
from hsr_kernels.compat import basicsr, mmcv, nvlabs, rosinality

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _layer(x, weight, styles, noise, *, demodulate=True, padding=0):
    """A modulated convolution sample by sample, in float64."""
    x, weight, styles = x.double(), weight.double(), styles.double()
    samples = []
    for sample, style in zip(x, styles, strict=True):
        w = weight * style[None, :, None, None]
        if demodulate:
            w = w / (w.square().sum([1, 2, 3], keepdim=True) + 1e-8).sqrt()
        samples.append(F.conv2d(sample[None], w, padding=padding))
    y = torch.cat(samples)
    return y if noise is None else y + noise.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "shape", [(6, 6), (1, 6, 6), (3, 1, 6, 6), (1, 1, 6, 6), (3, 4, 6, 6), (4, 1, 1), ()], ids=lambda shape: str(shape)
)
def test_noise_of_every_shape(shape, dtype):
    x = _randn(3, 5, 6, 6, dtype=dtype).permute(0, 1, 3, 2)
    weight, styles = _randn(4, 5, 3, 3, seed=1), _randn(3, 5, seed=2)
    strength = torch.tensor(0.3, requires_grad=True)
    noise = _randn(*shape, seed=3)
    y = nvlabs.modulated_conv2d(x, weight, styles, noise * strength, padding=np.int64(1), fused_modconv=False)
    expected = _layer(x, weight, styles, noise * 0.3, padding=1)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance * 4)
    (gradient,) = torch.autograd.grad(y.sum(), strength)
    expected = noise.expand(3, 4, 6, 6).double().sum().float()
    torch.testing.assert_close(gradient, expected, rtol=1e-2 if dtype == torch.float16 else 1e-4, atol=1e-2)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("gain_shape", [None, (), (5,), (3, 5)], ids=str)
def test_stylegan3_layers(gain_shape, demodulate):
    x, w, s = _randn(3, 5, 6, 7), _randn(4, 5, 3, 3, seed=1), _randn(3, 5, seed=2)
    gain = None if gain_shape is None else _randn(*gain_shape, seed=3)
    y = nvlabs.networks_stylegan3.modulated_conv2d(x, w, s, demodulate=demodulate, padding=2, input_gain=gain)
    if demodulate:
        w = w / w.square().mean([1, 2, 3], keepdim=True).sqrt()
        s = s / s.square().mean().sqrt()
    # The gain acts on the images: demodulation doesn't see it.
    images = x if gain is None else x * gain.expand(3, 5)[:, :, None, None]
    expected = _layer(images, w, s, None, demodulate=demodulate, padding=2)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)


def test_two_numbers_of_padding_mean_what_each_family_means():
    x, f = _randn(2, 3, 6, 7), _randn(3, 3, seed=1)
    before_after = K.upfirdn2d(x, f, padding=[1, 2, 1, 2])
    per_axis = K.upfirdn2d(x, f, padding=[1, 1, 2, 2])
    for pad in ([1, 2], np.array([1, 2]), torch.tensor([1, 2]), (np.int32(1), np.int64(2))):
        for function in (rosinality.upfirdn2d, basicsr.upfirdn2d, mmcv.upfirdn2d_v1.upfirdn2d):
            assert torch.equal(function(x, f, pad=pad), before_after)
        for function in (nvlabs.upfirdn2d.upfirdn2d, mmcv.upfirdn2d):
            assert torch.equal(function(x, f, padding=pad), per_axis)
    four = [1, 2, 3, 0]
    expected = K.upfirdn2d(x, f, padding=four)
    for function in (rosinality.upfirdn2d, mmcv.upfirdn2d_v1.upfirdn2d):
        assert torch.equal(function(x, f, 1, 1, four), expected)
    for function in (nvlabs.upfirdn2d.upfirdn2d, mmcv.upfirdn2d):
        assert torch.equal(function(x, f, 1, 1, np.array(four)), expected)
    # Of more numbers BasicSR reads the first two alone.
    assert torch.equal(basicsr.upfirdn2d(x, f, pad=four), before_after)
    for module in (rosinality, basicsr):
        native = importlib.import_module(f"{module.__name__}.upfirdn2d").upfirdn2d_native
        torch.testing.assert_close(native(x, f, 1, 2, 2, 1, *four), K.upfirdn2d(x, f, (1, 2), (2, 1), four))
    # The kernel convolves: an impulse gives it as it is.
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[..., 2, 2] = 1
    assert torch.equal(rosinality.upfirdn2d(impulse, f, pad=(1, 1))[0, 0, 1:4, 1:4], f)


def test_numbers_may_be_arrays_and_tensors():
    x, f = _randn(2, 3, 6, 7), K.setup_filter([1, 3, 3, 1])
    expected = K.upfirdn2d(x, f, 2, 1, [2, 1, 2, 1], gain=4)
    for up, gain in ((np.int64(2), np.float32(4)), (torch.tensor(2), torch.tensor(4.0)), ([2, np.int32(2)], 4)):
        y = nvlabs.upfirdn2d.upfirdn2d(x, f, up=up, padding=np.array([2, 1, 2, 1]), gain=gain)
        torch.testing.assert_close(y, expected)
    expected = K.bias_act(x, torch.ones(3), act="lrelu", alpha=0.5, gain=2, clamp=1)
    for number in (np.float64, np.float32, torch.tensor, lambda value: np.array([value])):
        y = nvlabs.bias_act.bias_act(
            x, torch.ones(3), np.int64(1), "lrelu", alpha=number(0.5), gain=number(2.0), clamp=number(1.0)
        )
        torch.testing.assert_close(y, expected)
    padding = np.array([3, 2])
    y = nvlabs.filtered_lrelu.filtered_lrelu(x, f, f, None, np.int64(2), torch.tensor(2), padding, np.float32(2))
    torch.testing.assert_close(y, K.filtered_lrelu(x, f, f, None, 2, 2, (3, 2), 2))
    y = nvlabs.conv2d_resample.conv2d_resample(x, _randn(4, 3, 3, 3), f, up=np.int64(2), padding=np.int64(1))
    torch.testing.assert_close(y, K.conv2d_resample(x, _randn(4, 3, 3, 3), f, up=2, padding=1))
    with pytest.raises(TypeError, match="requires a gradient can be a gain"):
        nvlabs.bias_act.bias_act(x, act="lrelu", alpha=torch.tensor(0.1, requires_grad=True))


def test_a_gain_has_its_gradient_of_both_orders():
    x = _randn(1, 2, 4, 5, dtype=torch.float64).requires_grad_()
    f = K.setup_filter([1, 2, 1])
    gain = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    functions = [
        lambda x, gain: nvlabs.bias_act.bias_act(x, act="lrelu", gain=gain, clamp=1.0),
        lambda x, gain: mmcv.bias_act(x, act="swish", gain=gain),
        lambda x, gain: rosinality.fused_leaky_relu(x, scale=gain),
        lambda x, gain: nvlabs.upfirdn2d.upsample2d(x, f, gain=gain),
        lambda x, gain: nvlabs.filtered_lrelu.filtered_lrelu(x, f, f, None, 2, 2, gain=gain, clamp=1.5),
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, (x, gain))
        assert torch.autograd.gradgradcheck(function, (x, gain))
    # A gain of another dtype than the images leaves theirs.
    y = nvlabs.bias_act.bias_act(x.detach().half(), act="lrelu", gain=torch.tensor(2.0))
    assert y.dtype == torch.float16


@pytest.mark.parametrize("dtype", FLOATS)
def test_filters_of_every_dtype_and_device(dtype):
    x, f = _randn(2, 3, 6, 7), K.setup_filter([1, 3, 3, 1])
    expected = K.upsample2d(x, f)
    for y in (
        nvlabs.upfirdn2d.upsample2d(x, f.to(dtype)),
        mmcv.upsample2d(x, f.to(dtype)),
        rosinality.upfirdn2d(x, f.to(dtype) * 4, up=2, pad=(2, 1)),
        basicsr.upfirdn2d(x, f.to(dtype) * 4, up=2, pad=(2, 1)),
    ):
        torch.testing.assert_close(y, expected)
    # On another device: meta has shapes alone.
    meta, weight = x.to("meta"), torch.empty(4, 3, 3, 3, device="meta")
    assert nvlabs.upfirdn2d.downsample2d(meta, f.to(dtype)).shape == (2, 3, 3, 3)
    assert mmcv.filtered_lrelu(meta, f, f, up=2, down=2, padding=(2, 1, 2, 1)).device.type == "meta"
    assert nvlabs.conv2d_resample.conv2d_resample(meta, weight, f.to(dtype), up=2, padding=1).shape == (2, 4, 12, 14)


@pytest.mark.timeout(60)
def test_long_filters_in_float16_end_on_the_reference():
    x, f = _randn(1, 2, 56, 68, dtype=torch.float16), K.setup_filter(torch.ones(24), separable=True)
    y = nvlabs.upfirdn2d.filter2d(x, f, impl="ref")
    torch.testing.assert_close(y, nvlabs.upfirdn2d.filter2d(x, f), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rosinality_modules_on_any_layout(dtype):
    module = rosinality.FusedLeakyReLU(5).to(dtype)
    with torch.no_grad():
        module.bias.copy_(_randn(5, seed=1))
    for x in (
        _randn(3, 5, dtype=dtype),
        _randn(5, 3, dtype=dtype).t(),
        _randn(3, 5, 4, 6, dtype=dtype).to(memory_format=torch.channels_last),
        _randn(3, 5, 4, 6, dtype=dtype)[..., ::2],
        _randn(0, 5, 4, 6, dtype=dtype),
        _randn(3, 5, 4, dtype=dtype),
    ):
        bias = module.bias.detach().reshape(1, 5, *[1] * (x.ndim - 2))
        expected = F.leaky_relu(x.double() + bias.double(), 0.2) * 2**0.5
        torch.testing.assert_close(module(x).double(), expected, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(rosinality.fused_leaky_relu(x, bias).double(), expected, rtol=1e-2, atol=1e-2)
    assert rosinality.FusedLeakyReLU(5, bias=False).bias is None
    # Older copies have the slope in second place.
    old = rosinality.FusedLeakyReLU(5, 0.1, 1.0)
    assert (old.bias.shape, old.negative_slope, old.scale) == ((5,), 0.1, 1.0)
    assert rosinality.FusedLeakyReLU(5, 0.1).scale == 2**0.5
    assert list(basicsr.FusedLeakyReLU(5).state_dict()) == list(mmcv.FusedBiasLeakyReLU(5).state_dict()) == ["bias"]
    assert basicsr.FusedLeakyReLU(5, 0.1).negative_slope == mmcv.FusedBiasLeakyReLU(5, 0.1).negative_slope == 0.1


def test_empty_batches():
    x, f = torch.zeros(0, 3, 6, 7), K.setup_filter([1, 3, 3, 1])
    shapes = [
        nvlabs.upfirdn2d.upsample2d(x, f).shape,
        nvlabs.conv2d_resample.conv2d_resample(x, _randn(3, 3, 3, 3), f, up=2, padding=1).shape,
        nvlabs.modulated_conv2d(x, _randn(3, 3, 3, 3), _randn(0, 3), _randn(12, 14), up=2, padding=1, resample_filter=f)
        .shape,
        nvlabs.filtered_lrelu.filtered_lrelu(x, f, f, None, 4, 2, padding=[3, 2, 3, 2]).shape,
    ]  # fmt: skip
    assert shapes == [(0, 3, 12, 14)] * 4
    assert nvlabs.conv2d_gradfix.conv2d(x, _randn(4, 3, 3, 3)).shape == (0, 4, 4, 5)
    assert nvlabs.conv2d_gradfix.conv_transpose2d(x, _randn(3, 4, 3, 3)).shape == (0, 4, 8, 9)
    assert nvlabs.grid_sample_gradfix.grid_sample(x, torch.zeros(0, 4, 5, 2)).shape == (0, 3, 4, 5)
    assert nvlabs.networks_stylegan3.modulated_conv2d(x, _randn(4, 3, 3, 3), _randn(0, 3)).shape == (0, 4, 4, 5)
    assert mmcv.fused_bias_leakyrelu(x, torch.zeros(3)).shape == x.shape


class _Operators(TorchDispatchMode):
    """Notes which of this package's operators run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_call_for_the_reference_runs_on_it_and_no_other_does():
    x, f = _randn(2, 3, 6, 7), K.setup_filter([1, 3, 3, 1])
    calls = {
        "ref": [
            lambda: nvlabs.bias_act.bias_act(x, act="lrelu", impl="ref"),
            lambda: nvlabs.bias_act._bias_act_ref(x, act="lrelu"),
            lambda: nvlabs.upfirdn2d.upsample2d(x, f, impl="ref"),
            lambda: nvlabs.upfirdn2d._upfirdn2d_ref(x, f),
            lambda: nvlabs.filtered_lrelu.filtered_lrelu(x, f, f, padding=3, impl="ref"),
            lambda: mmcv.filter2d(x, f, use_custom_op=False),
            lambda: mmcv.bias_act(x, act="lrelu", use_custom_op=False),
            lambda: mmcv.filtered_lrelu(x, f, f, padding=3, use_custom_op=False),
        ],
        "cpu": [
            lambda: nvlabs.bias_act.bias_act(x, act="lrelu"),
            lambda: nvlabs.upfirdn2d.upsample2d(x, f, impl="cuda"),
            lambda: mmcv.filter2d(x, f),
            lambda: mmcv.bias_act(x, act="lrelu"),
        ],
    }
    for backend, functions in calls.items():
        for function in functions:
            with K.use_backend("cpu"), _Operators() as seen:
                function()
            assert any("hsr_kernels" in name for name in seen.names) == (backend == "cpu")
    with pytest.raises(ValueError, match="impl must be 'cuda' or 'ref', got 'fast'"):
        nvlabs.bias_act.bias_act(x, impl="fast")


def test_fma_broadcasts_and_has_both_derivatives():
    a, b, c = (_randn(*shape, dtype=torch.float64).requires_grad_() for shape in ((2, 3, 4), (3, 1), (4,)))
    torch.testing.assert_close(nvlabs.fma.fma(a, b, c), a * b + c)
    assert torch.autograd.gradgradcheck(nvlabs.fma.fma, (a, b, c))
    assert nvlabs.fma.fma(a.half(), b.half(), c.half()).dtype == torch.float16


def test_compiled_calls_are_one_graph_each():
    x, f = _randn(2, 3, 6, 7), K.setup_filter([1, 3, 3, 1])
    strength = torch.tensor(0.3)
    for function in (
        lambda x: nvlabs.bias_act.bias_act(nvlabs.upfirdn2d.upsample2d(x, f), act="lrelu", gain=strength),
        lambda x: nvlabs.bias_act.bias_act(x, act="lrelu", clamp=1, impl="ref"),
        lambda x: mmcv.upsample2d(rosinality.fused_leaky_relu(x), f, use_custom_op=False),
    ):
        torch.testing.assert_close(torch.compile(function, backend="eager", fullgraph=True)(x), function(x))
