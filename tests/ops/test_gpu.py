# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: graphs, streams, compiled code, huge tensors, work that isn't done. See test_parity.py."""

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import hsr_kernels as hk
from benchmarks.parity import tolerances
from benchmarks.parity.inputs import draw, evaluate
from tests.cases import BY_NAME, FIR4, Case

pytestmark = pytest.mark.gpu

_LAYERS = ("bias_act-styled-clamped", "bias_act-swish-clamped", "upsample2d-skip-to-rgb", "upfirdn2d-up-3-down-2",
           "conv2d_resample-down-2", "modulated_conv2d-styled", "modulated_conv2d-styled-up", "modulated_conv2d-to-rgb",
           "modulated_conv2d-several-tiles", "feature_projection_loss-grow-equal-shrink")  # fmt: skip
# A layer that is one kernel in channels_last and on the fused route.
_ONE_KERNEL_CASE = "modulated_conv2d-several-tiles"


@pytest.fixture(autouse=True)
def _route_and_backend(request):
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    fused = params.get("name") == _ONE_KERNEL_CASE and params.get("backend") != "cuda"
    with hk.use_route("fused" if fused else None), hk.use_backend(params.get("backend")):
        yield


def on_both(names: Iterable[str]) -> pytest.MarkDecorator:
    """Parametrises a test by `name` and `backend`; the loss has no CUDA kernels."""
    pairs = [(name, backend) for name in names for backend in ("triton", "cuda")]
    return pytest.mark.parametrize(
        "name, backend", [pair for pair in pairs if "loss" not in pair[0] or "triton" in pair]
    )


def _on_gpu(name: str) -> tuple[Case, dict[str, torch.Tensor], torch.Tensor]:
    """A case whose options are on the device, since no graph may capture their transfer, its tensors and cotangent."""
    case = BY_NAME[name]
    options = {key: o.cuda() if isinstance(o, torch.Tensor) else o for key, o in case.options.items()}
    inputs = draw(case, torch.float32)
    tensors = {key: t.cuda() for key, t in inputs.tensors.items()}
    if name == _ONE_KERNEL_CASE:
        tensors["x"] = tensors["x"].contiguous(memory_format=torch.channels_last)
    for key, t in tensors.items():
        t.requires_grad_(not key.startswith("targets"))
    return replace(case, options=options), tensors, inputs.cotangent.cuda()


@on_both(_LAYERS)
def test_agrees_with_the_reference(name, backend):
    """The first check: output and first derivatives of every operator agree on either backend to a few digits."""
    inputs = draw(BY_NAME[name], torch.float32)
    layout = "channels_last" if name == _ONE_KERNEL_CASE else "contiguous"
    ours = evaluate(BY_NAME[name], inputs, 1, layout, "cuda")
    with hk.use_backend("reference"):
        expected = evaluate(BY_NAME[name], inputs.in_float64(), 1)
    for key, value in expected.items():
        assert tolerances.error(ours[key], value, "L2") <= 3e-3 * tolerances.norm(value, "L2"), key


@pytest.mark.parametrize("name", _LAYERS)
def test_default_backend_is_the_faster_one_as_measured(name):
    _, tensors, _ = _on_gpu(name)
    explanation = hk.explain(BY_NAME[name].op.replace("upsample2d", "upfirdn2d"), *tensors.values())
    if "loss" in name:
        assert explanation.backend == "triton"
    elif "not measured" in str(explanation) and not hk.backends()["cuda"]:
        assert explanation.backend == "cuda"
    else:
        assert explanation.backend in ("triton", "cuda")


@on_both(_LAYERS)
def test_graph_of_forward_and_backward_follows_its_inputs(name, backend):
    case, tensors, v = _on_gpu(name)
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
def test_runs_on_the_current_stream(name, backend):
    case, tensors, _ = _on_gpu(name)
    expected = case.call(tensors).detach()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # Meanwhile a kernel launched on another stream would run before what follows.
        torch.cuda._sleep(10_000_000)
        late = {key: (t.detach() + 0).requires_grad_() for key, t in tensors.items()}
        got = case.call(late).detach()
    stream.synchronize()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is only one CUDA device")
@on_both(_LAYERS)
def test_runs_on_a_device_that_is_not_current(name, backend):
    case, tensors, _ = _on_gpu(name)
    elsewhere = {key: t.detach().to("cuda:1") for key, t in tensors.items()}
    torch.testing.assert_close(case.call(elsewhere).cpu(), case.call(tensors).detach().cpu(), rtol=1e-4, atol=1e-5)


@on_both([name for name in _LAYERS if "loss" not in name])
def test_compiles_without_graph_breaks(name, backend):
    case, tensors, v = _on_gpu(name)
    leaves = list(tensors.values())

    def run(function):
        y = function(tensors)
        return y.detach(), *torch.autograd.grad(y, leaves, v)

    torch.compiler.reset()
    for got, expected in zip(run(torch.compile(case.call, fullgraph=True)), run(case.call), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=("float16", "bfloat16"))
def test_autocast_computes_in_half_precision(dtype):
    case, tensors, v = _on_gpu("modulated_conv2d-styled")
    with torch.autocast("cuda", dtype=dtype):
        y = case.call(tensors)
    assert y.dtype == dtype
    for gradient in torch.autograd.grad(y, list(tensors.values()), v.to(dtype)):
        assert gradient.dtype == torch.float32 and gradient.isfinite().all()


@pytest.fixture
def tf32():
    """float32 may be multiplied as tf32, as PyTorch's convolutions may by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32 = before


def _as_tf32(t: torch.Tensor) -> torch.Tensor:
    """float32 rounded to the nearest number with 10 bits of mantissa."""
    bits = t.view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("kernel", (1, 3))
@pytest.mark.parametrize("n, c, o, side", ((4, 128, 128, 32), (2, 72, 68, 61), (8, 512, 512, 8)))
def test_fused_layer_in_tf32_is_as_precise_as_cudnn_in_tf32(n, c, o, side, kernel):
    """Output and the gradients with respect to images and weights, each against float64 and held to cuDNN's own error.

    cuDNN may take float32 itself for some shapes; what rounding to tf32 alone costs is allowed there too.
    """
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda", dtype=torch.float64).float()

    x, dy = (normal(n, i, side, side).contiguous(memory_format=torch.channels_last) for i in (c, o))
    w, ones = normal(o, c, kernel, kernel) / math.sqrt(c * kernel**2), torch.ones(n, c, device="cuda")

    def ours(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return hk.modulated_conv2d(x, w, ones, demodulate=False, padding=kernel // 2)

    def cudnn(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, w, padding=kernel // 2)

    def derived(function, *operands: torch.Tensor) -> list[torch.Tensor]:
        leaves = [t.detach().requires_grad_() for t in operands[:2]]
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, operands[2])]

    truths = derived(cudnn, x.double(), w.double(), dy.double())
    rounded = derived(cudnn, *(_as_tf32(t).double() for t in (x, w, dy)))
    with hk.use_backend("triton"), hk.use_route("fused"):
        results = derived(ours, x, w, dy)
    found = zip(("output", "d/dx", "d/dw"), results, derived(cudnn, x, w, dy), rounded, truths, strict=True)
    for what, got, *references, truth in found:
        for kind in tolerances.NORMS:
            error, *reference_errors = (tolerances.error(t, truth, kind) for t in (got, *references))
            bound = tolerances.bound(torch.float32, max(reference_errors), tolerances.norm(truth, kind))
            assert error <= bound, f"{what}: {kind} error {error:.3g} over {bound:.3g}"


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
    """The last sample lies beyond 2^31 elements: it must equal its result alone."""
    x = torch.zeros(33, 64, 1024, 1024, dtype=torch.float16, device="cuda").to(memory_format=layout)
    x[-1].normal_()
    b = torch.randn(64, device="cuda").half()
    sample = x[-1:].clone(memory_format=layout)
    assert torch.equal(hk.bias_act(x, b, act="lrelu")[-1:], hk.bias_act(sample, b, act="lrelu"))
    f = FIR4.cuda()
    assert torch.equal(hk.filter2d(x, f)[-1:], hk.filter2d(sample, f))
    assert torch.equal(hk.downsample2d(x, f)[-1:], hk.downsample2d(sample, f))


@on_both(("modulated_conv2d-styled", _ONE_KERNEL_CASE))
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
