# SPDX-License-Identifier: Apache-2.0
"""What is measured for the library's table, with a CPU in the place of the GPU."""

import math

import pytest
import torch

from benchmarks import device
from benchmarks.gpu import choosing, worker
from benchmarks.gpu.items import Task
from benchmarks.gpu.journal import DONE
from benchmarks.tune import backends, routes
from benchmarks.tune.backends import IMAGES, TINY_IMAGES, WORKLOADS, Comparison
from benchmarks.tune.routes import LAYERS, TINY_LAYERS
from hsr_kernels._dispatch import measured, operators, request
from hsr_kernels.aot import record
from hsr_kernels.modulated_conv2d.routes import CONVOLUTION, FUSED, PASSES
from tests.native import requires_native


@requires_native
@pytest.mark.usefixtures("rehearsal")
def test_choices_are_measured_where_training_spends_its_time_first(journal, monkeypatch):
    seconds = iter([3e-6, 1e-6] * len(TINY_LAYERS) * len(PASSES))
    monkeypatch.setattr(device, "timed", lambda call: device.Time(*[next(seconds)] * 3))
    assert worker.main("choices", Task(journal.path.parent, "", True)) == 0
    journal.refresh()
    entries = journal.of("choices")
    assert {entry.state for entry in entries.values()} == {DONE}, entries
    measurements, notes = choosing.measurements(entries)
    assert notes == [] and {m.chip for m in measurements} == {"none"}
    of_layers = [layer.problem(direction) for layer in TINY_LAYERS for direction in PASSES]
    of_calls = [comparison.problem for comparison in backends.comparisons(TINY_IMAGES)]
    assert {m.problem for m in measurements} == {*of_layers, *of_calls} and len(measurements) == len(entries)
    for m in measurements:
        if m.problem in of_layers:
            assert m.microseconds == pytest.approx({CONVOLUTION: 3.0, FUSED: 1.0})
        else:
            assert m.microseconds.keys() == {"cuda", "triton"} and min(m.microseconds.values()) > 0


@pytest.mark.usefixtures("rehearsal")
def test_usual_routes_come_first_then_usual_backends(tmp_path):
    names = [item.name for item in choosing.items(Task(tmp_path, "", False))]
    usual = names[: 18 + 78]
    assert [name.split()[0] for name in usual] == ["route"] * 18 + ["backend"] * 78
    assert all("channels_last" in name and "bfloat16" not in name for name in usual[18:])
    assert len(set(names)) == len(names) == 3 * len(LAYERS) + 18 * len(IMAGES)


def test_without_cuda_the_report_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "why_no_cuda_backend", lambda: "there is no CUDA device")
    (item,) = [item for item in choosing.items(Task(tmp_path, "", True)) if "route" not in item.name]
    with pytest.raises(RuntimeError, match="there is no CUDA device"):
        item.run()


def test_backends_take_turns_in_batches_as_long_as_each_needs(monkeypatch):
    made = []

    def batch(run, calls):
        made.append((request.BACKEND.value(), calls))
        return {"cpu": 1e-3, "reference": 4e-3}[made[-1][0]]

    monkeypatch.setattr(device, "batch", batch)
    monkeypatch.setattr(device, "name", lambda: "cpu")
    monkeypatch.setattr(device, "backend", lambda name: {"cuda": "cpu", "triton": "reference"}[name])
    comparison = Comparison("bias_act", TINY_IMAGES[0], torch.float16, "channels_last")
    found = backends.measure_backends(comparison)
    assert found.problem == measured.Problem("bias_act", operators.CALL, "float16", "channels_last", (256,))
    assert (found.chip, dict(found.microseconds)) == ("none", pytest.approx({"cuda": 1000, "triton": 4000}))
    assert made[:4] == [("cpu", 3), ("cpu", 3), ("reference", 3), ("reference", 3)]
    # A batch takes 5 ms, and has no fewer than 3 calls.
    cpu, reference = ("cpu", 5), ("reference", 3)
    assert made[4:] == [cpu, reference, reference, cpu, cpu, reference, reference, cpu, cpu, reference]


def test_every_operator_with_both_backends_is_measured():
    both = {o.folder for o in operators.operators.values() if {"cuda", "triton"} <= o.implementations.keys()}
    of_pytorch = {o.folder for o in operators.operators.values() if o.of_pytorch}
    # Its own work is that of upfirdn2d, before and after PyTorch's convolution.
    assert both - of_pytorch - {"conv2d_resample"} == WORKLOADS.keys()


def test_what_is_measured_speaks_for_all_of_stylegan2():
    """From RGB images of 4x4, one at a time, to the largest activations; no measurement hides another."""
    sizes = sorted(images.elements for images in IMAGES)
    assert len(set(sizes)) == len(sizes) and sizes[-1] == 4 * 32 * 1024**2
    for elements in (3 * 4 * 4, *(2**i for i in range(6, 29)), 3 * 2**24):
        assert min(abs(math.log2(elements / size)) for size in sizes) <= measured.MAX_DOUBLINGS - 0.5
    comparisons = list(backends.comparisons())
    assert len(comparisons) == len(set(comparisons)) == len(IMAGES) * 3 * 2 * len(WORKLOADS)


@pytest.mark.parametrize("one", [Comparison(op, TINY_IMAGES[0], torch.float16, layout) for op in WORKLOADS
                                 for layout in ("contiguous", "channels_last")], ids=str)  # fmt: skip
def test_a_comparison_has_the_problem_of_its_call(one):
    """As the library sees it when it looks for a measurement."""
    x = one.workload("cpu").inputs[0]
    assert one.problem.size == (x.numel(),) and x.requires_grad
    assert (one.problem.dtype, one.problem.layout) == (str(x.dtype).removeprefix("torch."), operators._layout(x))


def test_routes_are_timed_by_what_the_layer_itself_launches():
    """Both routes of every pass launch what a layer launches that takes this route and has this pass alone to do."""
    layer = routes.Layer(3, 32, 32, 256, "half")
    n, side = layer.batch, 16
    for route in (CONVOLUTION, FUSED):
        with record.recording(record.CHIPS["sm_90"]) as timed, torch.no_grad():
            for (_, taken), call in routes.passes(layer, "cpu", "triton").items():
                if taken == route:
                    call()
        with record.recording(record.CHIPS["sm_90"]) as launched, request.use_route(route):
            _run_layer(layer, n, side, ("x", "s"))
            _run_layer(layer, n, side, ("w", "b"))
        assert timed.operators <= launched.operators and any("layer" in name for name in timed.operators) == (
            route == FUSED
        )
        assert timed.launches.keys() <= launched.launches.keys()


def _run_layer(layer: routes.Layer, n: int, side: int, differentiated: tuple[str, ...]) -> None:
    import hsr_kernels as hk

    x = torch.randn(n, layer.inputs, side, side, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    w = torch.randn(layer.outputs, layer.inputs, 3, 3)
    s, b = torch.randn(n, layer.inputs), torch.randn(layer.outputs)
    leaves = [{"x": x, "w": w, "s": s, "b": b}[name].requires_grad_() for name in differentiated]
    noise = torch.randn(n, 1, side, side)
    y = hk.modulated_conv2d(x, w, s, noise, padding=1, bias=b, act="lrelu", clamp=256.0)
    torch.autograd.grad(y, leaves, torch.randn_like(y))
