# SPDX-License-Identifier: Apache-2.0
"""Bad arguments raise before any kernel sees them, in words: the argument, what it was, what was expected."""

import re

import pytest
import torch

import hsr_kernels as hk
from tests.cases import FIR4
from tests.native import BACKENDS

X = torch.zeros(2, 3, 6, 5)
W = torch.zeros(4, 3, 3, 3)
GRID = torch.zeros(2, 4, 4, 2)
STYLES = torch.ones(2, 3)
HEAD = (torch.zeros(7, 3), torch.zeros(7), torch.zeros(5, 7), torch.zeros(5))
TARGET = torch.zeros(2, 5, 4, 4)
META = torch.zeros(3, device="meta")


def _head(**changed: object) -> tuple:
    return tuple((dict(zip(("w1", "b1", "w2", "b2"), HEAD, strict=True)) | changed).values())


def _loss(x: object = X, target: object = TARGET, head: object = HEAD) -> torch.Tensor:
    return hk.feature_projection_loss([x], [target], [head])


def _parameters(**changed: object) -> object:
    layer = {"weight": W, "styles": STYLES, "dtype": torch.float32, "up": 1}
    return hk.modulated_conv2d_parameters([layer.values(), (layer | changed).values()])


FIR_FUNCTIONS = (hk.upfirdn2d, hk.filter2d, hk.upsample2d, hk.downsample2d)

# (call, exception, words of the message: the argument, its value, what was expected)
CASES = [
    # bias_act
    (lambda: hk.bias_act([1.0]), TypeError, ("x", "list", "Tensor")),
    (lambda: hk.bias_act(X.int()), TypeError, ("x", "int32", "float32")),
    (lambda: hk.bias_act(X, [0.0] * 3), TypeError, ("b", "list", "Tensor")),
    (lambda: hk.bias_act(X, torch.zeros(3).int()), TypeError, ("b", "int32", "float32")),
    (lambda: hk.bias_act(X, torch.zeros(4)), ValueError, ("b", "[4]", "[3]")),
    (lambda: hk.bias_act(X, torch.zeros(1, 3)), ValueError, ("b", "[1, 3]", "[3]")),
    (lambda: hk.bias_act(X, META), ValueError, ("b", "meta", "cpu")),
    (lambda: hk.bias_act(X, torch.zeros(3), dim=4), ValueError, ("dim", "4", "3")),
    (lambda: hk.bias_act(X, torch.zeros(3), dim=-5), ValueError, ("dim", "-5", "-4")),
    (lambda: hk.bias_act(X, act="gelu"), ValueError, ("act", "gelu", "lrelu")),
    # FIR functions
    *((lambda f=f: f(None, FIR4), TypeError, ("x", "NoneType", "Tensor")) for f in FIR_FUNCTIONS),
    *((lambda f=f: f(X[0], FIR4), ValueError, ("x", "[3, 6, 5]", "4")) for f in FIR_FUNCTIONS),
    *((lambda f=f: f(X.long(), FIR4), TypeError, ("x", "int64", "float32")) for f in FIR_FUNCTIONS),
    *((lambda f=f: f(X, [1, 2, 1]), TypeError, ("f", "list", "Tensor")) for f in FIR_FUNCTIONS),
    *((lambda f=f: f(X, FIR4.int()), TypeError, ("f", "int32", "float32")) for f in FIR_FUNCTIONS),
    *((lambda f=f: f(X, FIR4[None]), ValueError, ("f", "[1, 4, 4]", "[taps]")) for f in FIR_FUNCTIONS),
    *((lambda f=f: f(X, FIR4[:0, 0]), ValueError, ("f", "[0]", "[taps]")) for f in FIR_FUNCTIONS),
    *((lambda f=f: f(X, META), ValueError, ("f", "meta", "cpu")) for f in FIR_FUNCTIONS),
    *((lambda f=f: f(X, FIR4, padding=(1, 2, 3)), ValueError, ("padding", "(1, 2, 3)", "(x, y)"))
      for f in FIR_FUNCTIONS),
    *((lambda f=f: f(X, FIR4, padding=0.5), (TypeError, ValueError), ("padding", "0.5", "int")) for f in FIR_FUNCTIONS),
    *((lambda f=f: f(X, FIR4, padding=-9), ValueError, ("padding", "-", "4")) for f in FIR_FUNCTIONS),
    (lambda: hk.upfirdn2d(X[:, :, :2], FIR4), ValueError, ("padding", "2", "4")),
    (lambda: hk.upfirdn2d(X, FIR4, up=0), ValueError, ("up", "0", "1")),
    (lambda: hk.upfirdn2d(X, FIR4, up=(1, 2, 3)), ValueError, ("up", "(1, 2, 3)", "(x, y)")),
    (lambda: hk.upfirdn2d(X, FIR4, up=1.5), (TypeError, ValueError), ("up", "1.5", "int")),
    (lambda: hk.upfirdn2d(X, FIR4, down=-2), ValueError, ("down", "-2", "1")),
    (lambda: hk.upsample2d(X, FIR4, up="2"), (TypeError, ValueError), ("up", "2", "int")),
    (lambda: hk.downsample2d(X, FIR4, down=(2, 0)), ValueError, ("down", "(2, 0)", "1")),
    (lambda: hk.setup_filter(torch.zeros(2, 2, 2)), ValueError, ("f", "[2, 2, 2]", "[taps]")),
    (lambda: hk.setup_filter([]), ValueError, ("f", "[0]", "[taps]")),
    (lambda: hk.setup_filter([1, -1]), ValueError, ("f", "zero", "normalize")),
    (lambda: hk.setup_filter([[1, 2], [3, 4]], separable=True), ValueError, ("f", "[2, 2]", "1-D")),
    (lambda: hk.setup_filter("1331"), (TypeError, ValueError), ("f", "str", "number")),
    # filtered_lrelu
    (lambda: hk.filtered_lrelu(X[0]), ValueError, ("x", "[3, 6, 5]", "4")),
    (lambda: hk.filtered_lrelu(X.int()), TypeError, ("x", "int32", "float32")),
    (lambda: hk.filtered_lrelu(X, [1, 3, 3, 1]), TypeError, ("fu", "list", "Tensor")),
    (lambda: hk.filtered_lrelu(X, fd=FIR4.int()), TypeError, ("fd", "int32", "float32")),
    (lambda: hk.filtered_lrelu(X, fd=FIR4[None]), ValueError, ("fd", "[1, 4, 4]", "[taps]")),
    (lambda: hk.filtered_lrelu(X, META), ValueError, ("fu", "meta", "cpu")),
    (lambda: hk.filtered_lrelu(X, fd=META), ValueError, ("fd", "meta", "cpu")),
    (lambda: hk.filtered_lrelu(X, b=torch.zeros(4)), ValueError, ("b", "[4]", "[3]")),
    (lambda: hk.filtered_lrelu(X, b=[0.0] * 3), TypeError, ("b", "list", "Tensor")),
    (lambda: hk.filtered_lrelu(X, b=META), ValueError, ("b", "meta", "cpu")),
    (lambda: hk.filtered_lrelu(X, up=0), ValueError, ("up", "0", "positive")),
    (lambda: hk.filtered_lrelu(X, down=(2, 2)), ValueError, ("down", "(2, 2)", "positive")),
    (lambda: hk.filtered_lrelu(X, padding=(1, 2, 3)), ValueError, ("padding", "(1, 2, 3)", "(x, y)")),
    (lambda: hk.filtered_lrelu(X, gain="2"), TypeError, ("gain", "2", "number")),
    (lambda: hk.filtered_lrelu(X, slope=torch.ones(1)), TypeError, ("slope", "tensor", "number")),
    (lambda: hk.filtered_lrelu(X, clamp=float("nan")), ValueError, ("clamp", "nan", "number")),
    (lambda: hk.filtered_lrelu(X, FIR4, padding=-2), ValueError, ("fu", "1 pixels", "4 x 4")),
    (lambda: hk.filtered_lrelu(X, FIR4, FIR4), ValueError, ("fd", "upsampled", "4 x 4")),
    # convolutions
    *((lambda f=f: f("x", W), TypeError, ("input", "str", "Tensor")) for f in (hk.conv2d, hk.conv_transpose2d)),
    *((lambda f=f: f(X, None), TypeError, ("weight", "NoneType", "Tensor")) for f in (hk.conv2d, hk.conv_transpose2d)),
    (lambda: hk.conv2d(X[0], W), ValueError, ("input", "[3, 6, 5]", "4")),
    (lambda: hk.conv2d(X, W[0]), ValueError, ("weight", "[3, 3, 3]", "4")),
    (lambda: hk.conv2d(X, W[:, :2]), ValueError, ("weight", "[4, 2, 3, 3]", "3")),
    (lambda: hk.conv2d(X, W.double()), TypeError, ("weight", "float64", "float32")),
    (lambda: hk.conv2d(X, W.to("meta")), ValueError, ("weight", "meta", "cpu")),
    (lambda: hk.conv2d(X, W, torch.zeros(3)), ValueError, ("bias", "[3]", "[4]")),
    (lambda: hk.conv2d(X, W, torch.zeros(4).half()), TypeError, ("bias", "float16", "float32")),
    (lambda: hk.conv2d(X, W, stride=0), ValueError, ("stride", "0", "1")),
    (lambda: hk.conv2d(X, W, padding=-1), ValueError, ("padding", "-1", "0")),
    (lambda: hk.conv2d(X, W, dilation=(1, 2, 3)), ValueError, ("dilation", "(1, 2, 3)", "pair")),
    (lambda: hk.conv2d(X, W, groups=2), ValueError, ("weight", "[4, 3, 3, 3]", "groups")),
    (lambda: hk.conv2d(X, W, groups=0), ValueError, ("groups", "0", "positive")),
    (lambda: hk.conv2d(X, torch.zeros(4, 3, 9, 9)), ValueError, ("input", "[2, 3, 6, 5]", "9")),
    (lambda: hk.conv_transpose2d(X, W), ValueError, ("weight", "[4, 3, 3, 3]", "3")),
    (lambda: hk.conv_transpose2d(X, W[:3], output_padding=-1), ValueError, ("output_padding", "-1", "0")),
    # conv2d_resample
    (lambda: hk.conv2d_resample(X.bool(), W), TypeError, ("x", "bool", "float32")),
    (lambda: hk.conv2d_resample(X, W.long()), TypeError, ("w", "int64", "float32")),
    (lambda: hk.conv2d_resample(X, W[:, :2]), ValueError, ("w", "[4, 2, 3, 3]", "3")),
    (lambda: hk.conv2d_resample(X, W, [1, 3, 3, 1]), TypeError, ("f", "list", "Tensor")),
    (lambda: hk.conv2d_resample(X, W, FIR4, up=0), ValueError, ("up", "0", "positive")),
    (lambda: hk.conv2d_resample(X, W, FIR4, down=1.5), (TypeError, ValueError), ("down", "1.5", "int")),
    (lambda: hk.conv2d_resample(X, W, FIR4, padding=(1,)), ValueError, ("padding", "(1,)", "(x, y)")),
    (lambda: hk.conv2d_resample(X, W, FIR4, groups=-1), ValueError, ("groups", "-1", "positive")),
    (lambda: hk.conv2d_resample(X, torch.zeros(4, 3, 9, 9)), ValueError, ("x", "[2, 3, 6, 5]", "9")),
    (lambda: hk.conv2d_resample(X, W, META, up=2), ValueError, ("f", "meta", "cpu")),
    # modulated_conv2d
    (lambda: hk.modulated_conv2d(None, W, STYLES), TypeError, ("x", "NoneType", "Tensor")),
    (lambda: hk.modulated_conv2d(X, W[0], STYLES), ValueError, ("weight", "[3, 3, 3]", "4")),
    (lambda: hk.modulated_conv2d(X, W[:, :2], STYLES), ValueError, ("weight", "[4, 2, 3, 3]", "3")),
    (lambda: hk.modulated_conv2d(X, W, STYLES[:1]), ValueError, ("styles", "[1, 3]", "[2, 3]")),
    (lambda: hk.modulated_conv2d(X, W, STYLES[0]), ValueError, ("styles", "[3]", "2")),
    (lambda: hk.modulated_conv2d(X, W, STYLES.int()), TypeError, ("styles", "int32", "float32")),
    (lambda: hk.modulated_conv2d(X, W, STYLES, 0.5), TypeError, ("noise", "float", "Tensor")),
    (lambda: hk.modulated_conv2d(X, W, STYLES, X, padding=1), ValueError, ("noise", "[2, 3, 6, 5]", "1, 6, 5]")),
    (lambda: hk.modulated_conv2d(X, W, STYLES, X[:, :1], padding=1, up=2), ValueError,
     ("noise", "[2, 1, 6, 5]", "12, 10]")),
    (lambda: hk.modulated_conv2d(X, W, STYLES, up=-1), ValueError, ("up", "-1", "positive")),
    (lambda: hk.modulated_conv2d(X, W, STYLES, padding="same"), (TypeError, ValueError), ("padding", "same", "int")),
    (lambda: hk.modulated_conv2d(X, W, STYLES, resample_filter=[1]), TypeError, ("f", "list", "Tensor")),
    (lambda: hk.modulated_conv2d(X, W, STYLES, bias=torch.zeros(3)), ValueError, ("bias", "[3]", "[4]")),
    (lambda: hk.modulated_conv2d(X, W, STYLES, bias=META), ValueError, ("bias", "meta", "cpu")),
    (lambda: hk.modulated_conv2d(X, W, STYLES, act="mish"), ValueError, ("act", "mish", "lrelu")),
    (lambda: hk.modulated_conv2d(X, torch.zeros(4, 3, 9, 9), STYLES), ValueError, ("x", "[2, 3, 6, 5]", "9")),
    (lambda: hk.modulated_conv2d(X, W, STYLES, demodulate=STYLES), ValueError, ("demodulate", "[2, 3]", "[2, 4]")),
    (lambda: hk.modulated_conv2d(X, W, STYLES, demodulate=META), ValueError, ("demodulate", "meta", "cpu")),
    # modulated_conv2d_parameters
    (lambda: _parameters(weight=None), TypeError, ("layers[1].weight", "NoneType", "Tensor")),
    (lambda: _parameters(weight=W[:, :2]), ValueError, ("layers[1].styles", "[2, 3]", "[2, 2]")),
    (lambda: _parameters(weight=W.to("meta"), styles=STYLES.to("meta")), ValueError,
     ("layers[1].weight", "meta", "cpu")),
    (lambda: _parameters(styles=STYLES.int()), TypeError, ("layers[1].styles", "int32", "float32")),
    (lambda: _parameters(dtype=torch.int32), TypeError, ("layers[1].dtype", "int32", "float32")),
    (lambda: _parameters(up=0), ValueError, ("layers[1].up", "0", "positive")),
    # grid_sample
    (lambda: hk.grid_sample(X[0], GRID), ValueError, ("input", "[3, 6, 5]", "4")),
    (lambda: hk.grid_sample(X, GRID[0]), ValueError, ("grid", "[4, 4, 2]", "4")),
    (lambda: hk.grid_sample(X, GRID[:1]), ValueError, ("grid", "[1, 4, 4, 2]", "[2,")),
    (lambda: hk.grid_sample(X, X), ValueError, ("grid", "[2, 3, 6, 5]", "2]")),
    (lambda: hk.grid_sample(X, GRID.int()), TypeError, ("grid", "int32", "float32")),
    (lambda: hk.grid_sample(X, GRID.to("meta")), ValueError, ("grid", "meta", "cpu")),
    (lambda: hk.grid_sample(X[:, :, :0], GRID), ValueError, ("input", "[2, 3, 0, 5]", "pixels")),
    # feature_projection_loss
    (lambda: hk.feature_projection_loss([], [], []), ValueError, ("features", "none", "one")),
    (lambda: hk.feature_projection_loss([X], [], [HEAD]), ValueError, ("targets", "0", "one entry per scale")),
    (lambda: _loss(x=X[0]), ValueError, ("features[0]", "[3, 6, 5]", "4")),
    (lambda: _loss(x=X.int()), TypeError, ("features[0]", "int32", "float32")),
    (lambda: _loss(target=TARGET[:, :3]), ValueError, ("targets[0]", "[2, 3, 4, 4]", "[2, 5,")),
    (lambda: _loss(target=TARGET[:, :, :3]), ValueError, ("targets[0]", "[2, 5, 3, 4]", "[2, 5,")),
    (lambda: _loss(target=TARGET.to("meta")), ValueError, ("targets[0]", "meta", "cpu")),
    (lambda: _loss(head=HEAD[:3]), ValueError, ("heads[0]", "3", "(w1, b1, w2, b2)")),
    (lambda: _loss(head=_head(w1=torch.zeros(7, 4))), ValueError, ("heads[0].w1", "[7, 4]", "[7, 3]")),
    (lambda: _loss(head=_head(b1=torch.zeros(6))), ValueError, ("heads[0].b1", "[6]", "[7]")),
    (lambda: _loss(head=_head(w2=torch.zeros(5, 6))), ValueError, ("heads[0].w2", "[5, 6]", "[5, 7]")),
    (lambda: _loss(head=_head(b2=torch.zeros(5, 1))), ValueError, ("heads[0].b2", "[5, 1]", "1")),
    (lambda: _loss(head=_head(w1=None)), TypeError, ("heads[0].w1", "NoneType", "Tensor")),
    # choosing a backend
    (lambda: hk.use_backend("gpu"), ValueError, ("backend", "gpu", "reference")),
    (lambda: hk.explain("conv3d"), ValueError, ("op", "conv3d", "upfirdn2d")),
    (lambda: hk.backends("conv3d"), ValueError, ("op", "conv3d", "upfirdn2d")),
]  # fmt: skip


@pytest.mark.parametrize("call, exception, words", CASES, ids=[f"{i}-{c[2][0]}" for i, c in enumerate(CASES)])
def test_message_names_argument_value_and_expectation(call, exception, words):
    with pytest.raises(exception) as raised:
        call()
    message = str(raised.value)
    argument, value, expected = words
    assert re.search(rf"(?<!\w){re.escape(argument)}(?!\w)", message), message
    for word in (value, expected):
        assert word in message, f"{word!r} is missing in: {message}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_finite_after_an_error(backend):
    """A refused call has no effect on the next one."""
    with hk.use_backend(backend):
        with pytest.raises(ValueError):
            hk.bias_act(X, torch.zeros(4))
        assert hk.bias_act(X, torch.ones(3)).eq(1).all()


def test_no_weight_gradients_survives_an_error():
    x, w = torch.randn(1, 1, 3, 3), torch.randn(1, 1, 1, 1, requires_grad=True)
    with pytest.raises(RuntimeError, match="inside"), hk.no_weight_gradients():
        raise RuntimeError("inside")
    hk.conv2d(x, w).sum().backward()
    assert w.grad is not None
