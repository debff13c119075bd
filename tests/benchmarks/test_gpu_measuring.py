# SPDX-License-Identifier: Apache-2.0
"""What the GPU report measures and how, with a CPU in the place of the GPU."""

import pytest
import torch

from benchmarks import device
from benchmarks.gpu import kernels, measuring, worker
from benchmarks.gpu.cases import GPU_CASES
from benchmarks.gpu.items import Task
from benchmarks.gpu.journal import DONE
from benchmarks.gpu.results import collect
from benchmarks.variants import COPY
from benchmarks.workloads import BOTH, FORWARD, SCHEDULE
from hsr_kernels._dispatch import measured, native, request
from hsr_kernels.aot import record, warm

NAMES = ("feature_loss_bf16", "bias_act_fp32_last", "upsample2d_bf16", "styled_256_bf16", "styled_up_256_fp16")


def work(journal, stage: str, only: str) -> dict[str, tuple[str, str]]:
    """Does a stage in this process; returns what became of its items."""
    assert worker.main(stage, Task(journal.path.parent, only, True)) == 0
    journal.refresh()
    return {name: (entry.state, entry.reason) for name, entry in journal.of(stage).items()}


@pytest.mark.usefixtures("rehearsal")
@pytest.mark.parametrize("name", [*NAMES, "training_256"])
def test_every_variant_is_timed_in_every_pass(name, journal):
    found = work(journal, "cases", name) | work(journal, "compile", name)
    assert {state for state, _ in found.values()} == {DONE}, found
    entries = journal.of("cases") | {f"compiled {k}": v for k, v in journal.of("compile").items()}
    results, rate = collect(entries, judged=False)
    assert rate is not None and rate > 0
    for one in (one for one in results if one.case.name == name):
        target, layer = one.case.targets[one.phase], one.case.is_styled_layer
        backends = {"triton", "cuda"} if "loss" not in name else {"triton"}
        extra = {COPY: target.copy is not None, "convolution": layer, "compile": target.compiled is not None,
                 "released": name == "feature_loss_bf16"}  # fmt: skip
        assert {v for v, _ in one.times} == backends | {"reference"} | {v for v, wanted in extra.items() if wanted}
        graphs = backends | {"reference"} | {v for v in (COPY,) if extra[v]} if one.phase in (FORWARD, BOTH) else set()
        assert {variant for variant, mode in one.times if mode == "graph"} == graphs
        assert (one.min_bytes is not None) == extra[COPY]
        if one.phase == BOTH:
            assert one.peaks.keys() >= backends | {"reference"}
    assert (SCHEDULE in {one.phase for one in results}) == (name == "training_256")


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
    monkeypatch.setattr(device, "loss", lambda: next(lost))
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


@pytest.mark.parametrize("seconds, calls", [(1e-3, 100), (0.01, 15), (1.0, device.MIN_SAMPLES)])
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


@pytest.mark.usefixtures("rehearsal")
def test_cases_follow_what_was_measured_before_and_choices_do_not(journal, monkeypatch):
    table = journal.path.parent / "measured.csv"
    measured.write(table, [])
    asked = []
    for stage in ("choices", "tests", "cases", "compile", "profile"):
        monkeypatch.setenv(request.MEASURED.variable, "")
        monkeypatch.setitem(worker.ALL_STAGES, stage, worker.ALL_STAGES["cases"])
        monkeypatch.setattr(device, "rehearse", lambda item: asked.append(request.MEASURED.value()))
        worker.main(stage, Task(journal.path.parent, "no case", True))
    assert asked == [None, None, str(table), str(table), str(table)]


def test_cuda_has_no_hsr_loss():
    """Which cases it is timed in follows from the operators that it has."""
    lacking = {case.name for case in GPU_CASES if not measuring.has_cuda(case)}
    assert lacking == {*(f"feature_loss_{dtype}" for dtype in ("bf16", "fp16", "fp32")), "training_256_hsr"}


def test_kernels_of_training_and_of_its_features_are_compiled_beforehand():
    calls = dict(kernels.calls())
    assert {case.name for case in GPU_CASES if BOTH in case.targets} <= calls.keys()
    chosen = ["feature_loss_bf16", "feature_loss_bf16 in channels_last", "training, G path length", "training, D R1"]
    found = {name: warm.recorded([(name, calls[name])], record.CHIPS["sm_90"]) for name in chosen}
    assert all(faults == [] for _, faults in found.values()), found
    keys = {name: {launch.key for launch in launches} for name, (launches, _) in found.items()}
    assert keys[chosen[1]] - keys[chosen[0]], "channels_last features have kernels of their own"
    kinds = {launch.kernel for name in chosen[2:] for launch in found[name][0]}
    assert {"modulated_conv2d_epilogue_bwd_bwd_kernel", "bias_act_bwd_kernel", "upfirdn2d_kernel"} <= kinds
    assert any("fp16" in launch.dtypes for launch in found["training, D R1"][0]), "as mixed precision has it"
    assert not native.triton_recorded

    def broken() -> None:
        raise RuntimeError("no such layer\nand more")

    launches, faults = warm.recorded([("a", broken), (chosen[3], calls[chosen[3]])], record.CHIPS["sm_90"])
    assert faults == ["a: RuntimeError: no such layer"] and launches
