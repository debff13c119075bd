# SPDX-License-Identifier: Apache-2.0
"""What the GPU report measures and how, with a CPU in the place of the GPU."""

import math

import pytest
import torch

from benchmarks.gpu import backends, choosing, device, kernels, measuring, routes, tables, worker
from benchmarks.gpu.backends import TENSORS, TINY, Comparison
from benchmarks.gpu.cases import GPU_CASES
from benchmarks.gpu.items import Task
from benchmarks.gpu.journal import DONE
from benchmarks.gpu.table import COPY
from benchmarks.workloads import BOTH, FORWARD, SCHEDULE
from hsr_kernels import _backends, _measured, _native
from hsr_kernels.aot import record
from hsr_kernels.modulated_conv2d.routes import CONVOLUTION, FUSED, PASSES

OPERATORS = ("bias_act", "upfirdn2d", "modulated_conv2d")
NAMES = ("feature_loss_bf16", "bias_act_fp32_last", "upsample2d_bf16", "styled_256_bf16", "styled_up_256_fp16")


def work(journal, stage: str, only: str) -> dict[str, tuple[str, str]]:
    """Does a stage in this process; returns what became of its items."""
    assert worker.main(stage, Task(journal.path.parent, only, True)) == 0
    journal.refresh()
    return {name: (entry.state, entry.reason) for name, entry in journal.of(stage).items()}


@pytest.mark.usefixtures("rehearsal")
@pytest.mark.parametrize("name", [*NAMES, "training_256"])
def test_every_contender_is_timed_in_every_pass(name, journal):
    found = work(journal, "cases", name) | work(journal, "compile", name)
    assert {state for state, _ in found.values()} == {DONE}, found
    entries = journal.of("cases") | {f"compiled {k}": v for k, v in journal.of("compile").items()}
    measured, rate = tables.collected(entries, judged=False)
    assert rate is not None and rate > 0
    for one in (one for one in measured if one.case.name == name):
        target, layer = one.case.targets[one.phase], name.startswith("styled")
        ours = {"triton", "cuda"} if "loss" not in name else {"triton"}
        extra = {COPY: target.copy is not None, "convolution": layer, "compile": target.compiled is not None,
                 "released": name == "feature_loss_bf16"}  # fmt: skip
        assert {v for v, _ in one.times} == ours | {"reference"} | {v for v, wanted in extra.items() if wanted}
        graphs = ours | {"reference"} | {v for v in (COPY,) if extra[v]} if one.phase in (FORWARD, BOTH) else set()
        assert {variant for variant, mode in one.times if mode == "graph"} == graphs
        assert (one.fewest is not None) == extra[COPY]
        if one.phase == BOTH:
            assert one.peaks.keys() >= ours | {"reference"}
    assert (SCHEDULE in {one.phase for one in measured}) == (name == "training_256")


@pytest.mark.usefixtures("rehearsal")
def test_a_failure_is_noted_and_the_rest_measured(journal, monkeypatch):
    def broken(call):
        raise RuntimeError("capture failed\nand more")

    monkeypatch.setattr(device, "captured", broken)
    found = work(journal, "cases", "bias_act_fp32_last")
    failed = [name for name, (state, _) in found.items() if state != DONE]
    assert failed == [name for name in found if name.endswith("graph")] and len(failed) < len(found) / 2 + 1
    assert {found[name][1] for name in failed} == {"RuntimeError: capture failed"}


@pytest.mark.usefixtures("rehearsal")
def test_a_lost_device_ends_the_worker_and_is_the_item_s_fault(journal, monkeypatch):
    lost = iter(["", "", "CUDA error: an illegal memory access was encountered"])
    monkeypatch.setattr(device, "lost", lambda: next(lost))
    assert worker.main("cases", Task(journal.path.parent, "bias_act_fp32_last", True)) == worker.LOST
    journal.refresh()
    reasons = [entry.reason for entry in journal.of("cases").values()]
    assert reasons == ["", "", "the device was lost: CUDA error: an illegal memory access was encountered"]


class Event:
    """A device event on a clock that stands still unless something takes time."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Event.now

    def elapsed_time(self, end: "Event") -> float:
        return 1e3 * (end.at - self.at)


@pytest.mark.parametrize("seconds, calls", [(1e-3, 100), (0.01, 15), (1.0, device._MIN_SAMPLES)])
def test_a_call_is_timed_often_or_long_and_without_what_precedes_it(monkeypatch, seconds, calls):
    def run() -> None:
        Event.now += seconds
        done.append(seconds)

    def clear(tensor: torch.Tensor) -> torch.Tensor:
        Event.now += 5.0
        cleared.append(tensor.nbytes)
        return tensor

    done: list[float] = []
    cleared: list[int] = []
    monkeypatch.setattr(device, "name", lambda: "meta")
    monkeypatch.setattr(torch.Tensor, "sum", clear)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert device.timed(run) == pytest.approx((seconds,) * 3)
    assert len(done) == calls + 2 and cleared == [256 << 20] * calls


def test_cuda_has_no_hsr_loss():
    """Which cases it is a contender for follows from the operators that it has."""
    lacking = {case.name for case in GPU_CASES if not measuring.has_cuda(case)}
    assert lacking == {*(f"feature_loss_{dtype}" for dtype in ("bf16", "fp16", "fp32")), "training_256_hsr"}


@pytest.mark.usefixtures("rehearsal")
def test_choices_are_measured_where_training_spends_its_time_first(journal, monkeypatch):
    taken = []

    def timed(call):
        from hsr_kernels.modulated_conv2d import routes as library

        taken.append(library._requested)
        return device.Time(*[1e-6 if taken[-1] == FUSED else 3e-6] * 3)

    monkeypatch.setattr(device, "timed", timed)
    found = work(journal, "choices", "")
    assert {state for state, _ in found.values()} == {DONE}, found
    ways, sides, notes = choosing.found(journal.of("choices"))
    assert taken == [FUSED, CONVOLUTION] * 6 and notes == []
    assert [(m.layer, m.direction) for m in ways] == [(k, d) for k in routes.TINY for d in PASSES]
    assert all((m.chip, m.fused, m.convolution, m.faster) == ("none", 1.0, 3.0, FUSED) for m in ways)
    assert [(m.op, m.dtype) for m in sides] == [(one.op, one.precision) for one in backends.comparisons(TINY)]
    assert all(m.cuda > 0 and m.triton > 0 and m.chip == "none" for m in sides)
    real = [item.name for item in choosing.items(Task(journal.path.parent, "", False))]
    assert [name.split()[0] for name in real[: 18 + 78]] == ["route"] * 18 + ["backend"] * 78
    assert all("channels_last" in name and "bfloat16" not in name for name in real[18 : 18 + 78])
    assert len(set(real)) == len(real) == 3 * len(routes.LAYERS) + 18 * len(TENSORS)


def test_without_cuda_the_report_says_why(journal, monkeypatch):
    monkeypatch.setattr(choosing, "without_cuda", lambda: "there is no CUDA device")
    (item,) = [item for item in choosing.items(Task(journal.path.parent, "", True)) if "route" not in item.name]
    with pytest.raises(RuntimeError, match="there is no CUDA device"):
        item.run()


def test_backends_take_turns_in_batches_as_long_as_each_needs(monkeypatch):
    made = []

    def batch(run, calls):
        made.append((_backends.requested(), calls))
        return {"cpu": 1e-3, "reference": 4e-3}[made[-1][0]]

    monkeypatch.setattr(device, "batch", batch)
    monkeypatch.setattr(device, "name", lambda: "cpu")
    monkeypatch.setattr(device, "backend", lambda name: {"cuda": "cpu", "triton": "reference"}[name])
    found = backends.measure(Comparison("bias_act", TINY[0], torch.float16, "channels_last"))
    assert (found.chip, found.op, found.dtype, found.layout) == ("none", "bias_act", "float16", "channels_last")
    assert (found.elements, found.cuda, found.triton) == (256, pytest.approx(1000), pytest.approx(4000))
    assert made[:4] == [("cpu", 3), ("cpu", 3), ("reference", 3), ("reference", 3)]
    cpu, reference = ("cpu", 5), ("reference", 3)  # 5 ms, but no fewer than 3 calls
    assert made[4:] == [cpu, reference, reference, cpu, cpu, reference, reference, cpu, cpu, reference]


def test_what_is_measured_speaks_for_all_of_stylegan2():
    """From RGB images of 4x4, one at a time, to the largest activations; no measurement hides another."""
    sizes = sorted(tensor.elements for tensor in TENSORS)
    assert len(set(sizes)) == len(sizes) and sizes[-1] == 4 * 32 * 1024**2
    for elements in (3 * 4 * 4, *(2**i for i in range(6, 29)), 3 * 2**24):
        assert min(abs(math.log2(elements / size)) for size in sizes) <= _measured._REACH - 0.5
    todo = list(backends.comparisons())
    assert len(todo) == len(set(todo)) == len(TENSORS) * 3 * 2 * len(OPERATORS)


@pytest.mark.parametrize("one", [Comparison(op, TINY[0], torch.float16, layout) for op in OPERATORS
                                 for layout in ("contiguous", "channels_last")], ids=str)  # fmt: skip
def test_images_are_what_is_written_down(one):
    x = one.workload("cpu").inputs[0]
    assert (x.numel(), x.shape[1], x.shape[3]) == (one.tensor.elements, one.tensor.channels, one.tensor.side)
    assert (x.stride(1) == 1) == (one.layout == "channels_last") and x.requires_grad and x.dtype == one.dtype


def test_kernels_of_training_and_of_its_features_are_compiled_beforehand():
    calls = dict(kernels.calls())
    assert {case.name for case in GPU_CASES if BOTH in case.targets} <= calls.keys()
    chosen = ["feature_loss_bf16", "feature_loss_bf16 in channels_last", "training, G path length", "training, D R1"]
    found = {name: kernels.recorded([(name, calls[name])], record.CHIPS["sm_90"]) for name in chosen}
    assert all(faults == [] for _, faults in found.values()), found
    keys = {name: {launch.key for launch in launches} for name, (launches, _) in found.items()}
    assert keys[chosen[1]] - keys[chosen[0]], "channels_last features have kernels of their own"
    kinds = {launch.kernel for name in chosen[2:] for launch in found[name][0]}
    assert {"modulated_conv2d_epilogue_bwd_bwd_kernel", "bias_act_bwd_kernel", "upfirdn2d_kernel"} <= kinds
    assert any("fp16" in launch.dtypes for launch in found["training, D R1"][0]), "as mixed precision has it"
    assert not _native.triton_recorded

    def broken() -> None:
        raise RuntimeError("no such layer\nand more")

    launches, faults = kernels.recorded([("a", broken), (chosen[3], calls[chosen[3]])], record.CHIPS["sm_90"])
    assert faults == ["a: RuntimeError: no such layer"] and launches
