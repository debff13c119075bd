# SPDX-License-Identifier: Apache-2.0
"""What the CUDA backend promises beyond the table of cases, in the emulator: order, launches, the host's work."""

import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import hsr_kernels as hk
from benchmarks.overhead import Operations
from hsr_kernels._dispatch import native
from hsr_kernels.conv2d import autograd as convolutions
from tests.cases import BY_NAME, FIR4
from tests.inputs import draw, evaluate

pytestmark = pytest.mark.emulate


@pytest.fixture(autouse=True)
def _cuda():
    with hk.use_backend("cuda"):
        yield


@pytest.fixture
def emulator():
    module = native.cuda()
    module.emulator_reset()
    yield module
    module.emulator_order(0)
    module.emulator_idle(False)


_EVERY_KERNEL = (
    "bias_act-styled-clamped", "bias_act-mapping", "bias_act-swish-clamped", "bias_act-volume",
    "upsample2d-skip-to-rgb", "downsample2d-blur-and-halve", "filter2d-12-taps", "upfirdn2d-up-3-down-2",
    "upfirdn2d-up-2-12-taps", "modulated_conv2d-styled", "modulated_conv2d-styled-up", "modulated_conv2d-many-channels",
    "modulated_conv2d-several-tiles",
)  # fmt: skip


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("name", _EVERY_KERNEL)
def test_results_do_not_depend_on_the_order_of_threads(name, layout, emulator):
    """Nor on that of blocks: the emulator runs them forwards, backwards and shuffled."""
    case, expected = BY_NAME[name], None
    inputs = draw(case, torch.float32)
    for seed in range(4):
        emulator.emulator_order(seed)
        results = evaluate(case, inputs, 2, layout)
        expected = expected or results
        for key, value in results.items():
            assert torch.equal(value, expected[key]), (seed, key)
    assert emulator.emulator_launches()


@pytest.fixture
def convolution_apart(monkeypatch):
    """Leaves the convolution itself out of the count; on CPUs it also casts float16 to float32 and back."""

    def alone(function: Callable[..., torch.Tensor], *args: object) -> torch.Tensor:
        with _disable_current_modes():
            return function(*args)

    for name in ("_conv2d", "_conv_transpose2d"):
        monkeypatch.setattr(convolutions, name, partial(alone, getattr(convolutions, name)))


@pytest.mark.usefixtures("convolution_apart")
@pytest.mark.parametrize("up", (1, 2))
@pytest.mark.parametrize("side", (4, 8, 16))
@pytest.mark.parametrize("images, parameters", (
    (torch.float32, torch.float32), (torch.float16, torch.float32), (torch.bfloat16, torch.float32),
    (torch.float16, torch.float16), (torch.bfloat16, torch.bfloat16),
))  # fmt: skip
def test_a_styled_layer_takes_few_launches(images, parameters, side, up, emulator):
    x = torch.randn(2, 16, side, side, dtype=images)
    weight, styles = torch.randn(16, 16, 3, 3, dtype=parameters), torch.randn(2, 16, dtype=parameters)
    noise = torch.randn(2, 1, up * side, up * side, dtype=parameters)
    options = {"up": 2, "resample_filter": FIR4, "flip_weight": False} if up == 2 else {}
    layer = partial(
        hk.modulated_conv2d, x, weight, styles, noise, padding=1, bias=torch.randn(16, dtype=parameters), act="lrelu",
        clamp=256, **options,
    )  # fmt: skip
    with torch.no_grad(), Operations() as others:
        layer()
    launched = [*emulator.emulator_launches(), *others.names]
    assert emulator.emulator_launches() and len(launched) <= 5, launched


X, B = torch.randn(1, 4, 8, 8), torch.randn(4)
call = partial(hk.bias_act, act="lrelu", clamp=1.5)


def by_reference(x: torch.Tensor, b: torch.Tensor | None, **options: object) -> torch.Tensor:
    with hk.use_backend("reference"):
        return call(x, b, **options)


def test_a_call_that_was_seen_before_computes_on_its_own_tensors(emulator):
    for _ in range(3):
        x, b = torch.randn_like(X), torch.randn_like(B)
        torch.testing.assert_close(call(x, b), by_reference(x, b))
        torch.testing.assert_close(call(x, None), by_reference(x, None))
    assert emulator.emulator_launches() == ["bias_act"] * 6


def test_a_call_that_was_seen_before_does_not_stand_in_for_others():
    call(X, B)
    for x, b, options in (
        (X.half(), B, {}), (X, B.half(), {}), (X[..., ::2], B, {}), (X, torch.randn(8)[::2], {}),
        (X.contiguous(memory_format=torch.channels_last), B, {}), (X.transpose(1, 2), torch.randn(8), {}),
        (X, B, {"alpha": 0.5}), (X, B, {"gain": 3}), (X, torch.randn(8), {"dim": 2}),
        (torch.randn(1, 4, 8, 9)[..., 1:], B, {}),
    ):  # fmt: skip
        for _ in range(2):
            y = call(x, b, **options)
            torch.testing.assert_close(y, by_reference(x, b, **options), rtol=2e-3, atol=2e-3)
            assert y.stride() == torch.empty_like(x).stride()


def test_a_call_that_was_seen_before_is_still_checked():
    call(X, B)
    for wrong, error in (((X, torch.randn(5)), ValueError), ((X, [1.0] * 4), TypeError), ((X, B, [1]), ValueError)):
        with pytest.raises(error):
            call(*wrong)
    with hk.use_backend("cpu"):
        assert hk.explain("bias_act", X).backend == "cpu"
        torch.testing.assert_close(call(X, B), by_reference(X, B))


@pytest.mark.parametrize("wanting", ("x", "b"))
def test_a_gradient_is_had_where_one_is_wanted(wanting):
    call(X, B)
    x, b = X.clone(), torch.nn.Parameter(B.clone(), requires_grad=False)
    (x if wanting == "x" else b).requires_grad_()
    assert call(x, b).requires_grad
    with torch.no_grad():
        assert not call(x, b).requires_grad


def test_modes_and_compilers_see_the_operator():
    call(X, B)
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        call(X, B)
    assert "hsr_kernels.bias_act.default" in seen
    graph = torch.fx.experimental.proxy_tensor.make_fx(call)(X, B)
    assert any("hsr_kernels.bias_act" in str(node.target) for node in graph.graph.nodes)


def _fastest(function: Callable[[], object]) -> float:
    """Seconds of a call, the least of many batches: what other processes take only adds to it."""
    best = float("inf")
    for _ in range(50):
        started = time.perf_counter()
        for _ in range(100):
            function()
        best = min(best, (time.perf_counter() - started) / 100)
    return best


def test_the_host_takes_little_time_to_launch(emulator):
    """In allocations of a tensor, since machines differ; `python -m benchmarks overhead` tells the microseconds."""
    emulator.emulator_idle(True)
    with torch.no_grad():
        call(X, B)
        assert _fastest(lambda: call(X, B)) < 6 * _fastest(lambda: torch.empty_like(X))
