# SPDX-License-Identifier: Apache-2.0
"""The GPU report as far as it goes without a GPU: a CPU stands in, and what needs a device is replaced."""

import csv
import dataclasses
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import gpu, gpu_routes, gpu_table
from benchmarks.cases import Case, Target
from benchmarks.gpu_cases import GPU_CASES
from benchmarks.gpu_table import OUT_OF_TIME, Choices, Measured, Time
from benchmarks.memory import ROOT
from benchmarks.workloads import BOTH, FORWARD, MAIN, PATH, SCHEDULE, STEP
from hsr_kernels.modulated_conv2d import routes
from hsr_kernels.modulated_conv2d.routes import CONVOLUTION, FUSED, PASSES
from tests.benchmarks.conftest import SETTING
from tests.native import requires_native

BY_NAME = {case.name: case for case in GPU_CASES}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_one_sentence_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "gpu-report", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "gpu-report needs a CUDA device, and PyTorch sees none; `roofline` works without one"
    )
    assert not (tmp_path / "out").exists()


def report(folder, name, **options):
    """Writes a report of the cases of that name; returns its rows, its Markdown and what was said."""
    said: list[str] = []
    gpu.report(folder, name, **{"quick": True, "minutes": 5, "say": said.append} | options)
    with (folder / "gpu.csv").open() as file:
        rows = list(csv.DictReader(file))
    return rows, (folder / "gpu.md").read_text(), said


@requires_native
@pytest.mark.usefixtures("cpu_for_gpu")
@pytest.mark.parametrize("case", GPU_CASES, ids=lambda case: case.name)
def test_every_case_is_measured(case, tmp_path):
    rows, text, _ = report(tmp_path, case.name)
    has_a_choice = case.name.startswith(("styled", "training")) and "_up_" not in case.name
    assert (tmp_path / "routes.csv").exists() == has_a_choice
    rows = [row for row in rows if row["case"] == case.name]
    assert {row["phase"] for row in rows} == set(case.targets)
    for phase, target in case.targets.items():
        modes = {(row["variant"], row["mode"]) for row in rows if row["phase"] == phase}
        assert {("triton", "eager"), ("without" if case.without else "reference", "eager")} <= modes
        assert (("triton", "graph") in modes) == (phase in (FORWARD, BOTH))
        assert (("convolution", "eager") in modes) == case.name.startswith("styled")
        assert (("compile", "eager") in modes) == (target.compiled is not None)
        assert (("released", "eager") in modes) == (case.name == "feature_loss_bf16")
    for row in rows:
        assert not row["note"] and float(row["median_us"]) > 0 and row["chip"] == "none"
        if row["variant"] == "triton" and not case.without:
            assert float(row["vs_reference"]) > 0
    assert case.title in text and "left out" in text
    assert "reached (" not in text  # tiny sizes say nothing


@requires_native
@pytest.mark.usefixtures("cpu_for_gpu")
def test_a_failure_is_noted_and_the_rest_measured(tmp_path, monkeypatch):
    def broken(call):
        raise RuntimeError("capture failed\nand more")

    monkeypatch.setattr(gpu, "_captured", broken)
    _, text, _ = report(tmp_path, "bias_act_fp32_last")
    assert "triton graph: RuntimeError: capture failed." in text and "and more" not in text


@requires_native
@pytest.mark.usefixtures("cpu_for_gpu")
def test_a_case_that_cannot_be_built_is_noted(tmp_path, monkeypatch):
    def broken(case, quick):
        raise RuntimeError("no timm")

    monkeypatch.setattr(gpu, "contenders", broken)
    rows, text, _ = report(tmp_path, "training_256_hsr")
    assert [row["note"] for row in rows] == ["RuntimeError: no timm"] * 4
    assert "1.1x the time without: not measured" in text


@requires_native
@pytest.mark.usefixtures("cpu_for_gpu")
def test_routes_are_measured_and_then_taken(tmp_path, monkeypatch):
    taken = []

    def timed(call):
        call()
        taken.append(routes._requested)
        return Time(*[1e-6 if taken[-1] == FUSED else 3e-6] * 3)

    monkeypatch.setattr(gpu, "_time", timed)
    table = tmp_path / "routes.csv"
    found, ended = gpu.measure_routes(table, 60, quick=True)
    assert ended == "" and routes.read(str(table)) == tuple(found)
    assert taken == [FUSED, CONVOLUTION] * 6
    assert [(m.layer, m.direction) for m in found] == [(k, d) for k in gpu_routes.TINY for d in PASSES]
    assert all((m.chip, m.fused, m.convolution, m.faster) == ("none", 1.0, 3.0, FUSED) for m in found)
    layer = torch.empty(1, 8, 8, 8, dtype=torch.float16).to(memory_format=torch.channels_last)
    assert routes.choose("forward", layer, (4, 8, 3, 3))[0] == FUSED
    text = gpu_table.markdown([], SETTING, "", 1.0, Choices(found))
    assert "| 3x3, 8 -> 4 channels, 64 pixels | half | forward | 1 µs | 3 µs | fused |" in text


@requires_native
@pytest.mark.usefixtures("cpu_for_gpu")
def test_a_route_that_fails_loses_nothing(tmp_path, monkeypatch):
    calls = []

    def timed(call):
        calls.append(call)
        if len(calls) == 4:
            raise RuntimeError("no such kernel\nand more")
        return Time(*[1e-6] * 3)

    monkeypatch.setattr(gpu, "_time", timed)
    found, ended = gpu.measure_routes(tmp_path / "routes.csv", 60, quick=True)
    assert len(found) == len(routes.read(str(tmp_path / "routes.csv"))) == 1
    assert ended == ", then RuntimeError: no such kernel"
    assert gpu.measure_routes(tmp_path / "routes.csv", 0, quick=True) == ([], ", then out of time")


@requires_native
@pytest.mark.usefixtures("cpu_for_gpu")
def test_out_of_time_is_not_measured(tmp_path):
    rows, text, _ = report(tmp_path, "bias_act_fp32_last", minutes=0)
    assert [row["note"] for row in rows] == [OUT_OF_TIME] * 2
    assert OUT_OF_TIME in text and "0.9 of copy: not measured" in text


@requires_native
@pytest.mark.usefixtures("cpu_for_gpu")
def test_what_is_stuck_is_stopped(tmp_path, monkeypatch):
    """Nothing on the way may take the end for a failure of its own and go on."""
    timed, stuck = gpu._time, []

    def slow(call):
        if len(stuck) < 2:
            stuck.append(call)
            return timed(call)
        try:
            time.sleep(60)
        except Exception:
            pytest.fail("went on")

    monkeypatch.setattr(gpu, "_time", slow)
    monkeypatch.setattr(gpu, "CASE_SECONDS", 0.5)
    began = time.monotonic()
    rows, _, _ = report(tmp_path, "bias_act_fp32_last")
    assert time.monotonic() - began < 10
    assert [(row["phase"], row["mode"], row["note"]) for row in rows] == [
        (FORWARD, "eager", ""),
        (FORWARD, "graph", ""),
        (BOTH, "eager", OUT_OF_TIME),
    ]


class Event:
    """A device event on a clock that stands still unless something takes time."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Event.now

    def elapsed_time(self, end: "Event") -> float:
        return 1e3 * (end.at - self.at)


@pytest.mark.parametrize("seconds, calls", [(1e-3, 100), (0.01, 15), (1.0, gpu._LEAST)])
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
    monkeypatch.setattr(gpu, "DEVICE", "meta")
    monkeypatch.setattr(torch.Tensor, "sum", clear)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert gpu._time(run) == pytest.approx((seconds,) * 3)
    assert len(done) == calls + 2 and cleared == [256 << 20] * calls


def measured(name: str, phase: str, **times: float) -> Measured:
    """One pass, from medians in milliseconds; `triton_graph` is ours as a graph."""
    one = Measured(BY_NAME[name], phase)
    for key, value in times.items():
        variant, _, mode = key.partition("_")
        one.times[variant, mode or "eager"] = Time(*[1e-3 * value] * 3)
    return one


def test_ratios_and_shares_of_the_copy():
    one = measured("bias_act_bf16", BOTH, triton=1.0, reference=3.0)
    one.fewest = 10**9
    row = next(gpu_table.rows(one, copy=2e12))
    assert row.median_us == pytest.approx(1000) and row.p80_us == pytest.approx(1000)
    assert row.vs_reference == pytest.approx(3) and row.vs_compile is None
    assert row.of_copy == pytest.approx(0.5)
    assert row.goals == "0.9 of copy: **not reached** (0.5)"
    one.times["triton", "graph"] = Time(*[0.5e-3] * 3)
    assert list(one.verdicts(copy=2e12)) == ["0.9 of copy: reached (1)"]
    assert list(dataclasses.replace(one, judged=False).verdicts(copy=2e12)) == ["0.9 of copy: not measured"]


def test_verdicts_of_speed_and_memory():
    one = measured("feature_loss_bf16", BOTH, triton=1.0, reference=3.0, released=9.0)
    one.peaks = {"triton": 10, "reference": 99, "released": 101}
    assert list(one.verdicts(1.0)) == [
        "3x reference: reached (3)", "10x released float32: **not reached** (9)",
        "0.1 of the peak memory: **not reached** (0.101)", "0.1 of released float32's peak: reached (0.099)",
    ]  # fmt: skip
    layer = measured("styled_256_bf16", BOTH, triton=1.0, reference=2.0, triton_graph=0.1)
    assert list(layer.verdicts(1.0)) == ["1.5x reference: reached (2)", "1.2x compile: not measured"]
    hsr = measured("training_256_hsr", SCHEDULE, triton=11.1, without=10.0)
    assert list(hsr.verdicts(1.0)) == ["1.1x the time without: **not reached** (1.11)"]
    text = gpu_table.markdown(list(gpu_table.rows(layer, 1.0)), SETTING, "1 passed", 1e12, Choices())
    assert "Goals: 1 reached, 0 not reached, 1 not measured." in text
    assert "| 2 ms | — | — | — | — | 1 ms | 100 µs | — | — | 2 | — | — | — |" in text


def test_1000_images_take_the_steps_of_the_schedule():
    case = BY_NAME["training_256"]
    # 16 steps of 32 images: all phases once, path length in three more, the main phases alone in the other twelve.
    assert {phase: n * 16 * 32 / 1000 for phase, n in case.per_1000.items()} == {STEP: 1, PATH: 3, MAIN: 12}
    steps = [
        measured(case.name, phase, triton=value, reference=2 * value)
        for phase, value in ((STEP, 7.0), (PATH, 5.0), (MAIN, 2.0))
    ]
    schedule = Measured(case, SCHEDULE)
    gpu._schedule(case, [*steps, schedule], schedule)
    assert schedule.median("triton") == pytest.approx((7 + 3 * 5 + 12 * 2) * 1e-3 * 1000 / 16 / 32)
    assert list(schedule.verdicts(1.0)) == ["1.5x reference: reached (2)"]
    del steps[0].times["reference", "eager"]
    schedule = Measured(case, SCHEDULE)
    gpu._schedule(case, [*steps, schedule], schedule)
    assert schedule.times.keys() == {("triton", "eager")}


def test_the_goals_are_those_of_the_project():
    def goals(name: str, phase: str = BOTH) -> Target:
        return BY_NAME[name].targets[phase]

    half = ("bf16", "fp16")
    for dtype in half:
        for side in (128, 256, 512, 1024):
            for up in ("", "_up"):
                assert goals(f"styled{up}_{side}_{dtype}") == Target(1.5, compiled=1.2)
        assert goals(f"feature_loss_{dtype}").reference == 3.0 and goals(f"feature_loss_{dtype}").peak == 0.1
    assert goals("feature_loss_bf16") == Target(3.0, peak=0.1, released=10.0, released_peak=0.1)
    for phase in (FORWARD, BOTH):
        for name in ("bias_act", "upsample2d", "downsample2d", "filter2d"):
            for suffix in ("bf16", "fp32", "bf16_last", "fp32_last"):
                assert goals(f"{name}_{suffix}", phase) == Target(copy=0.9)
                size = BY_NAME[f"{name}_{suffix}"].size
                large = max(size["side"], 256 if name == "upsample2d" else 0)
                assert size["n"] * size["channels"] * large**2 * 2 > 64e6
    assert goals("training_256", STEP) == goals("training_256", SCHEDULE) == Target(1.5)
    assert goals("training_256_hsr", SCHEDULE) == Target(without=1.1)
    assert all(isinstance(case, Case) for case in GPU_CASES)


def test_tests_are_run_into_a_log(tmp_path, monkeypatch):
    def fake(command, **options):
        options["stdout"].write("....\n4 passed in 0.1s\n")
        at = command.index("-m", 2)
        assert command[at : at + 4] == ["-m", "gpu", "-p", "no:cacheprovider"]

    monkeypatch.setattr(gpu.subprocess, "run", fake)
    assert gpu.run_tests(tmp_path / "tests.log", 5) == "4 passed in 0.1s"

    def slow(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(gpu.subprocess, "run", slow)
    assert gpu.run_tests(tmp_path / "tests.log", 5) == "stopped after 5 s"
