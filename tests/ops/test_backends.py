# SPDX-License-Identifier: Apache-2.0
"""Which backend runs, and how that is explained."""

import warnings
from types import SimpleNamespace

import pytest
import torch

import hsr_kernels as hk
from hsr_kernels._dispatch import native, operators
from hsr_kernels._precision import convolutions_use_tf32
from tests.cases import CASES
from tests.native import requires_native

OPS = (
    "bias_act", "conv2d", "conv2d_resample", "conv_transpose2d", "feature_projection_loss", "filtered_lrelu",
    "grid_sample", "modulated_conv2d", "upfirdn2d",
)  # fmt: skip
NATIVE = (
    "bias_act", "conv2d_resample", "feature_projection_loss", "filtered_lrelu", "modulated_conv2d", "upfirdn2d",
)  # fmt: skip
X = torch.randn(1, 2, 4, 4)
FIRST_CASE = {op: next(case for case in CASES if case.op == op) for op in OPS}


def run(op: str) -> torch.Tensor:
    case = FIRST_CASE[op]
    return case.call({name: torch.rand(shape) for name, shape in case.shapes.items()})


@pytest.fixture
def without_extension(monkeypatch):
    """The package as it is where the extension couldn't be built."""
    monkeypatch.setattr(native, "load", lambda name: (None, f"no C++ compiler was found for {name}"))
    hk.reset_choices()


@requires_native
@pytest.mark.parametrize("op", OPS)
def test_default_is_the_native_backend(op):
    assert hk.explain(op, X).backend == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(op)


@pytest.mark.parametrize("op", OPS)
def test_reference_can_be_requested(op):
    with hk.use_backend("reference"):
        assert hk.explain(op, X).backend == "reference"
        run(op)


@requires_native
def test_context_manager_restores_and_nests():
    with hk.use_backend("reference"):
        with hk.use_backend("cpu"):
            assert hk.explain("bias_act").backend == "cpu"
        assert hk.explain("bias_act").backend == "reference"
    assert hk.explain("bias_act").backend == "cpu"


@requires_native
def test_context_manager_restores_after_an_error():
    with pytest.raises(KeyError), hk.use_backend("reference"):
        raise KeyError
    assert hk.explain("bias_act").backend == "cpu"


@requires_native
def test_function_form_holds_until_changed():
    hk.use_backend("reference")
    assert hk.explain("upfirdn2d").backend == "reference"
    hk.use_backend("cpu")
    assert hk.explain("upfirdn2d").backend == "cpu"
    hk.use_backend(None)
    assert "fastest" in hk.explain("upfirdn2d").reasons["cpu"]


def test_backend_holds_in_the_backward_thread():
    """The setting is global to the process: other threads see it, as autograd's own do."""
    import threading

    seen = []
    with hk.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(hk.explain("bias_act").backend))
        thread.start()
        thread.join()
    assert seen == ["reference"]


@pytest.mark.parametrize("backend", ("triton", "cuda"))
@pytest.mark.parametrize("op", OPS)
def test_requested_backend_that_cannot_run_raises(op, backend):
    with hk.use_backend(backend), pytest.raises(RuntimeError, match=rf"{backend}.*{op}"):
        run(op)


@pytest.mark.usefixtures("without_extension")
@pytest.mark.parametrize("op", NATIVE)
def test_requested_cpu_backend_without_extension_raises_with_the_cause(op):
    with hk.use_backend("cpu"), pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        run(op)


@pytest.mark.usefixtures("without_extension")
@pytest.mark.parametrize("op", NATIVE)
def test_fallback_to_reference_warns_once_with_the_cause(op):
    with pytest.warns(RuntimeWarning, match=rf"{op}.*reference.*no C\+\+ compiler") as caught:
        first = run(op)
        run(op)
    assert len(caught) == 1
    assert caught[0].filename == FIRST_CASE[op].call.__code__.co_filename, "the warning must point at the caller"
    assert first.isfinite().all()


@pytest.mark.usefixtures("without_extension")
def test_requested_reference_does_not_warn():
    with warnings.catch_warnings(), hk.use_backend("reference"):
        warnings.simplefilter("error")
        run("bias_act")


@pytest.mark.usefixtures("without_extension")
def test_backends_and_explain_name_the_cause():
    assert hk.backends()["reference"] == ""
    assert "no C++ compiler" in hk.backends()["cpu"]
    explanation = hk.explain("upfirdn2d", X)
    assert explanation.backend == "reference"
    assert "no C++ compiler" in str(explanation)


@requires_native
def test_backends_lists_what_can_run():
    for op in (None, *OPS):
        found = hk.backends(op)
        assert list(found) == ["reference", "cpu", "triton", "cuda"]
        assert found["reference"] == found["cpu"] == ""
    assert hk.backends("upfirdn2d", "cpu")["cpu"] == ""
    on_meta = hk.backends("upfirdn2d", "meta")
    # The native CPU kernels don't run on other devices, and say so.
    assert on_meta["cpu"]


@pytest.fixture
def old_gpu(monkeypatch):
    """A machine with a Turing card as device 0 and a Hopper card as device 1."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda i=None: asked.append(i) or ((9, 0) if i == 1 else (7, 5))
    )
    hk.reset_choices()
    return asked


@pytest.mark.parametrize("op", NATIVE)
def test_older_gpu_is_reported_and_asked_once(op, old_gpu):
    pytest.importorskip("triton")
    reason = "it needs a GPU of compute capability 8.0 or newer, this one is 7.5"
    for _ in range(2):
        assert hk.backends(op, "cuda:0")["triton"] == reason
        assert hk.backends(op, "cuda:1")["triton"] == ""
        assert hk.backends(op)["triton"] == reason
    assert old_gpu == [0, 1, None]


@pytest.mark.usefixtures("old_gpu")
def test_older_gpu_falls_back_to_reference_with_a_warning():
    pytest.importorskip("triton")
    operator = operators.operators["bias_act"]

    class OnGpu:
        device, dtype = torch.device("cuda", 0), torch.float32
        ndim, numel, is_contiguous = 1, staticmethod(lambda: 1), staticmethod(lambda: True)

    with pytest.warns(RuntimeWarning, match="reference backend .*compute capability 8.0 or newer, this one is 7.5"):
        assert operator.choose(OnGpu).backend == "reference"
    with hk.use_backend("triton"), pytest.raises(RuntimeError, match=r"this one is 7\.5"):
        operator.choose(OnGpu)
    OnGpu.device = torch.device("cuda", 1)
    assert operator.choose(OnGpu).backend == "triton"


@pytest.fixture
def amd_gpus(monkeypatch):
    """A machine with PyTorch for AMD's GPUs, an MI300X as device 0 and an MI250X as device 1."""
    names = ("gfx942:sramecc+:xnack-", "gfx90a:sramecc+:xnack-")
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda i=None: SimpleNamespace(gcnArchName=names[i or 0], multi_processor_count=304),
    )
    hk.reset_choices()


@pytest.mark.usefixtures("amd_gpus")
@pytest.mark.parametrize("op", NATIVE)
def test_triton_runs_on_gpus_of_amd_that_it_was_compiled_for(op):
    pytest.importorskip("triton")
    found = [hk.backends(op, f"cuda:{i}") for i in (0, 1)]
    assert found[0]["triton"] == ""
    assert found[1]["triton"] == "of AMD's GPUs it knows gfx942, gfx950 and gfx110x, this one is gfx90a"
    assert all("its kernels are NVIDIA's alone" in one["cuda"] or "has no cuda" in one["cuda"] for one in found)


@pytest.mark.usefixtures("amd_gpus")
def test_float32_is_multiplied_as_such_on_gpus_of_amd(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert not convolutions_use_tf32()
    monkeypatch.setattr(torch.version, "hip", None)
    assert convolutions_use_tf32()


@requires_native
def test_explain_reads_as_text():
    text = str(hk.explain("upfirdn2d", X.half()))
    assert text.splitlines()[0] == "upfirdn2d on cpu float16 runs on the cpu backend"
    for backend in ("reference", "cpu", "triton", "cuda"):
        assert f"{backend}:" in text


@requires_native
def test_filter_that_requires_grad_runs_on_the_reference():
    """Only the reference computes the filter's own gradient; a call before it, with another filter, changes nothing."""
    hk.reset_choices()
    f = hk.setup_filter([1, 3, 3, 1]).requires_grad_()
    hk.upfirdn2d(X, f.detach())
    with pytest.warns(RuntimeWarning, match="filter that requires grad"):
        y = hk.upfirdn2d(X, f)
    y.square().sum().backward()
    assert f.grad is not None and f.grad.abs().sum() > 0


@requires_native
@pytest.mark.parametrize("name", ("fu", "fd"))
def test_each_filter_of_filtered_lrelu_that_requires_grad_runs_on_the_reference(name):
    hk.reset_choices()
    filters = {"fu": hk.setup_filter([1, 3, 3, 1]), "fd": hk.setup_filter([1, 3, 3, 1])}
    f = filters[name].requires_grad_()
    with pytest.warns(RuntimeWarning, match="filter that requires grad"):
        y = hk.filtered_lrelu(X, **filters, up=2, down=2, padding=4)
    y.square().sum().backward()
    assert f.grad is not None and f.grad.abs().sum() > 0


@requires_native
@pytest.mark.parametrize(
    "call",
    (
        lambda size: hk.filter2d(X, torch.full((size,), 1 / size)),
        lambda size: hk.upfirdn2d(X, None, up=(size, 1)),
        lambda size: hk.upfirdn2d(X, None, down=(1, size), padding=size),
        lambda size: hk.filtered_lrelu(X, torch.full((size,), 1 / size), padding=size),
        lambda size: hk.filtered_lrelu(X, fd=torch.full((size,), 1 / size), padding=size),
        lambda size: hk.filtered_lrelu(X, up=size),
        lambda size: hk.filtered_lrelu(X, down=size, padding=size),
    ),
    ids=("taps", "up", "down", "fu", "fd", "filtered up", "filtered down"),
)
def test_more_taps_or_larger_factors_than_the_native_kernels_take_run_on_the_reference(call):
    """With a warning, and a request for the native backend is refused."""
    hk.reset_choices()
    with pytest.warns(RuntimeWarning, match="more than 64 taps"):
        y = call(65)
    with hk.use_backend("reference"):
        assert torch.equal(y, call(65))
    with hk.use_backend("cpu"), pytest.raises(RuntimeError, match="64"):
        call(65)
    with hk.use_backend("cpu"):
        call(64)


@requires_native
def test_environment_variable_chooses_the_backend(monkeypatch):
    monkeypatch.setenv("HSR_KERNELS_BACKEND", "reference")
    hk.reset_choices()
    assert hk.explain("bias_act").backend == "reference"
    hk.use_backend("cpu")
    assert hk.explain("bias_act").backend == "cpu"
    hk.use_backend(None)
    assert hk.explain("bias_act").backend == "reference"
    assert hk.bias_act(torch.ones(1, 2)).tolist() == [[1.0, 1.0]]


def test_environment_variable_with_an_unknown_name_is_refused(monkeypatch):
    monkeypatch.setenv("HSR_KERNELS_BACKEND", "fast")
    hk.reset_choices()
    with pytest.raises(ValueError, match=r"HSR_KERNELS_BACKEND must be one of reference.*'fast'"):
        hk.bias_act(torch.ones(1, 2))
