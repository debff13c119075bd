# SPDX-License-Identifier: Apache-2.0
"""What is kept for the backward pass, in bytes: distinct storages that autograd packs."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch

import hsr_kernels as hk
from tests.cases import FIR4
from tests.native import requires_native

pytestmark = requires_native


def saved(call: Callable[[], torch.Tensor], *exempt: torch.Tensor) -> int:
    """Bytes that `call` keeps for its backward, except the tensors in `exempt`, which live anyway."""
    storages: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = call()
    for t in (*exempt, y):
        storages.pop(t.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def nbytes(*tensors: torch.Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def is_freed(call: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> bool:
    """Whether an intermediate input of `call` is gone while its output lives."""
    intermediate = x * 1
    watch = weakref.ref(intermediate)
    y = call(intermediate)
    del intermediate
    # What was made a moment ago is in the younger generations; the oldest holds all of the test session.
    gc.collect(1)
    assert y.requires_grad
    return watch() is None


@pytest.mark.parametrize("act", ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus"))
def test_bias_act_keeps_only_its_output(act):
    x, b = parameters((2, 8, 16, 16), (8,))
    assert saved(lambda: hk.bias_act(x, b, act=act, clamp=1.0)) == 0
    assert is_freed(lambda x: hk.bias_act(x, b, act=act, clamp=1.0), x)


def test_linear_without_clamp_keeps_nothing():
    x, b = parameters((2, 8, 16, 16), (8,))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        hk.bias_act(x, b, gain=0.5)
    assert nbytes(*kept) == 0


def test_swish_keeps_its_input():
    x, b = parameters((2, 8, 16, 16), (8,))
    assert saved(lambda: hk.bias_act(x, b, act="swish")) == nbytes(x, b)


def test_reference_keeps_more():
    """The baseline of the tests above."""
    x, b = parameters((2, 8, 16, 16), (8,))
    with hk.use_backend("reference"):
        assert saved(lambda: hk.bias_act(x, b, act="lrelu", clamp=1.0)) >= nbytes(x)


def test_upfirdn2d_keeps_no_image():
    (x,) = parameters((2, 8, 16, 16))
    assert saved(lambda: hk.upsample2d(x, FIR4)) == FIR4.numel() * FIR4.element_size()
    assert is_freed(lambda x: hk.upsample2d(x, FIR4), x)


def test_filtered_lrelu_keeps_two_bits_per_upsampled_pixel():
    x, b = parameters((2, 8, 33, 33), (8,))

    def layer() -> torch.Tensor:
        return hk.filtered_lrelu(x, FIR4, FIR4, b, up=2, down=2, padding=(1, 0, 1, 0), clamp=256)

    # 64 x 64 upsampled pixels, which are whole blocks of a mask.
    assert saved(layer, FIR4) == 2 * 8 * 64 * 64 // 4
    assert is_freed(lambda x: hk.filtered_lrelu(x, FIR4, FIR4, b, up=2, down=2, padding=1), x)
    with hk.use_backend("reference"):
        assert saved(layer, x, b, FIR4) >= 2 * 8 * 64 * 64 * 4


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("up", (1, 2))
def test_styled_layer_keeps_its_inputs_and_its_output(up, dtype):
    """Not the modulated image, nor the convolution's output, nor the pre-activation."""
    x, weight, styles, noise, bias = parameters(
        (2, 32, 32, 32), (12, 32, 3, 3), (2, 32), (2, 1, 32 * up, 32 * up), (12,), dtype=dtype
    )

    def layer() -> torch.Tensor:
        return hk.modulated_conv2d(
            x, weight, styles, noise, up=up, padding=1, resample_filter=FIR4, bias=bias, act="lrelu", clamp=256
        )

    kept = saved(layer, x, weight, styles, noise, bias)
    # Demodulation keeps vectors and copies of the weight, no image.
    assert kept < min(nbytes(x), nbytes(layer())) / 2


@pytest.mark.parametrize("size, target", ((16, 7), (7, 7), (4, 7)), ids=("shrinks", "equal", "grows"))
def test_feature_loss_keeps_no_hidden_map(size, target):
    n, channels, hidden, out = 2, 8, 256, 12
    x, w1, b1, w2, b2 = parameters((n, channels, size, size), (hidden, channels), (hidden,), (out, hidden), (out,))
    t = torch.randn(n, out, target, target)
    bytes_kept = saved(lambda: hk.feature_projection_loss([x], [t], [(w1, b1, w2, b2)])[0], x, t, w1, b1, w2, b2)
    pixels = min(size * size, target * target)
    pooled, bits = 4 * n * hidden * pixels, n * hidden * (size * size + 7) // 8
    assert bytes_kept <= pooled + bits + 4 * nbytes(t)
    with hk.use_backend("reference"):
        reference = saved(lambda: hk.feature_projection_loss([x], [t], [(w1, b1, w2, b2)])[0], x, t, w1, b1, w2, b2)
    if size > target:
        assert bytes_kept < reference / 3
