# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: graphs, streams, compiled code, huge tensors, work that isn't done. See test_parity.py."""

from collections.abc import Iterable

import pytest
import torch

import hsr_kernels as hk
from tests.cases import BY_NAME, FIR4
from tests.inputs import draw, evaluate

pytestmark = pytest.mark.gpu

_LAYERS = ("bias_act-styled-clamped", "bias_act-swish-clamped", "upsample2d-skip-to-rgb", "upfirdn2d-up-3-down-2",
           "conv2d_resample-down-2", "modulated_conv2d-styled", "modulated_conv2d-styled-up", "modulated_conv2d-to-rgb",
           "modulated_conv2d-several-tiles", "feature_projection_loss-grow-equal-shrink")  # fmt: skip
_ONE_KERNEL = "modulated_conv2d-several-tiles"  # in channels_last and on the fused route


@pytest.fixture(autouse=True)
def _route_and_backend(request):
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    fused = params.get("name") == _ONE_KERNEL and params.get("backend") != "cuda"
    with hk.use_route("fused" if fused else None), hk.use_backend(params.get("backend")):
        yield


def on_both(names: Iterable[str]) -> pytest.MarkDecorator:
    """Parametrises a test by `name` and `backend`; the loss has no CUDA kernels."""
    pairs = [(name, backend) for name in names for backend in ("triton", "cuda")]
    return pytest.mark.parametrize(
        "name, backend", [pair for pair in pairs if "loss" not in pair[0] or "triton" in pair]
    )


def _on_gpu(name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    inputs = draw(BY_NAME[name], torch.float32)
    tensors = {key: t.cuda() for key, t in inputs.tensors.items()}
    if name == _ONE_KERNEL:
        tensors["x"] = tensors["x"].contiguous(memory_format=torch.channels_last)
    for key, t in tensors.items():
        t.requires_grad_(not key.startswith("targets"))
    return tensors, inputs.cotangent.cuda()


@pytest.mark.parametrize("name", _LAYERS)
def test_default_backend_is_the_faster_one_as_measured(name):
    tensors, _ = _on_gpu(name)
    explanation = hk.explain(BY_NAME[name].op.replace("upsample2d", "upfirdn2d"), *tensors.values())
    if "loss" in name or "nothing has been measured" in str(explanation):
        assert explanation.backend == "triton"
    else:
        assert explanation.backend in ("triton", "cuda")


@on_both(_LAYERS)
def test_graph_of_forward_and_backward_follows_its_inputs(name, backend):
    case = BY_NAME[name]
    tensors, v = _on_gpu(name)
    leaves = [t for t in tensors.values() if t.requires_grad]

    def step() -> tuple[torch.Tensor, ...]:
        y = case.call(tensors)
        return y.detach(), *torch.autograd.grad(y, leaves, v)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for t in leaves:
            t.mul_(0.9)
    graph.replay()
    torch.cuda.synchronize()
    for got, expected in zip(captured, step(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@on_both(_LAYERS)
def test_on_a_stream_of_ones_own(name, backend):
    case = BY_NAME[name]
    tensors, _ = _on_gpu(name)
    expected = case.call(tensors).detach()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # a kernel launched on another stream would run before what follows
        late = {key: (t.detach() + 0).requires_grad_() for key, t in tensors.items()}
        got = case.call(late).detach()
    stream.synchronize()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device only")
@on_both(_LAYERS)
def test_on_a_device_that_is_not_current(name, backend):
    case = BY_NAME[name]
    tensors, _ = _on_gpu(name)
    elsewhere = {key: t.detach().to("cuda:1") for key, t in tensors.items()}
    torch.testing.assert_close(case.call(elsewhere).cpu(), case.call(tensors).detach().cpu(), rtol=1e-4, atol=1e-5)


@on_both([name for name in _LAYERS if "loss" not in name])
def test_compiles_without_graph_breaks(name, backend):
    case = BY_NAME[name]
    tensors, v = _on_gpu(name)
    leaves = list(tensors.values())

    def run(function):
        y = function(tensors)
        return y.detach(), *torch.autograd.grad(y, leaves, v)

    torch.compiler.reset()
    for got, expected in zip(run(torch.compile(case.call, fullgraph=True)), run(case.call), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=("float16", "bfloat16"))
def test_autocast_computes_in_half_precision(dtype):
    tensors, v = _on_gpu("modulated_conv2d-styled")
    with torch.autocast("cuda", dtype=dtype):
        y = BY_NAME["modulated_conv2d-styled"].call(tensors)
    assert y.dtype == dtype
    for gradient in torch.autograd.grad(y, list(tensors.values()), v.to(dtype)):
        assert gradient.dtype == torch.float32 and gradient.isfinite().all()


def _convolutions(function) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_no_weight_gradients_leaves_out_a_third_of_the_work():
    x = torch.randn(2, 8, 16, 16, device="cuda", requires_grad=True)
    w = torch.randn(8, 8, 3, 3, device="cuda", requires_grad=True)

    def step(disable: bool) -> None:
        y = hk.conv2d(x, w, padding=1)
        with hk.no_weight_gradients(disable):
            torch.autograd.grad(y.sum(), (x, w), create_graph=True, allow_unused=True)

    assert 3 * _convolutions(lambda: step(True)) == 2 * _convolutions(lambda: step(False))


def _room_for(gigabytes: int) -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory > gigabytes << 30


@pytest.mark.skipif(not _room_for(40), reason="needs 40 GiB of GPU memory")
@pytest.mark.parametrize("backend", ("triton", "cuda"))
@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=("contiguous", "channels_last"))
def test_more_than_two_billion_elements(layout, backend):
    """The last sample lies beyond 2^31 elements: it must come out as it does alone."""
    x = torch.zeros(33, 64, 1024, 1024, dtype=torch.float16, device="cuda").to(memory_format=layout)
    x[-1].normal_()
    b = torch.randn(64, device="cuda").half()
    last = x[-1:].clone(memory_format=layout)
    assert torch.equal(hk.bias_act(x, b, act="lrelu")[-1:], hk.bias_act(last, b, act="lrelu"))
    f = FIR4.cuda()
    assert torch.equal(hk.filter2d(x, f)[-1:], hk.filter2d(last, f))
    assert torch.equal(hk.downsample2d(x, f)[-1:], hk.downsample2d(last, f))


@on_both(("modulated_conv2d-styled", _ONE_KERNEL))
def test_repeated_runs_are_identical(name, backend):
    """Reductions add up in a fixed order."""
    case = BY_NAME[name]
    inputs = draw(case, torch.float32)
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    first, second = (evaluate(case, inputs, 1, "channels_last", "cuda") for _ in range(2))
    torch.backends.cudnn.deterministic = before
    for name, gradient in first.items():
        assert torch.equal(gradient, second[name]), name
