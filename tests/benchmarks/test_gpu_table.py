# SPDX-License-Identifier: Apache-2.0
"""What the GPU report's tables say of times that are given."""

import csv
import dataclasses
import io

import pytest

from benchmarks.case import Case, Target
from benchmarks.gpu import files
from benchmarks.gpu.cases import GPU_CASES, pieces
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.results import OUT_OF_TIME, PhaseResult, collect
from benchmarks.gpu.table import csv_text, rows, text
from benchmarks.timing import Time
from benchmarks.variants import COPY
from benchmarks.workloads import BOTH, FORWARD, MAIN, PATH, SCHEDULE, STEP
from hsr_kernels._dispatch import measured
from hsr_kernels._dispatch.measured import Measurement, Problem
from tests.benchmarks.conftest import MACHINE

BY_NAME = {case.name: case for case in GPU_CASES}


def timed(name: str, phase: str, **times: float) -> PhaseResult:
    """One pass, from medians in milliseconds; `triton_graph` is triton as a graph."""
    one = PhaseResult(BY_NAME[name], phase)
    for key, value in times.items():
        variant, _, mode = key.partition("_")
        one.times[variant, mode or "eager"] = Time(*[1e-3 * value] * 3)
    return one


def written(one: PhaseResult) -> str:
    return text(list(rows(one, 1e12)), MACHINE, "1 passed", 1e12)


def test_a_copy_is_compared_in_the_way_that_it_was_timed():
    """A graph with a graph, and eager calls with eager calls: both sides launch alike."""
    one = timed("bias_act_bf16", BOTH, triton=1.0, copy=0.8, reference=3.0)
    one.min_bytes = 10**9
    row = next(rows(one, large_copy=2e12))
    assert (row.median_us, row.p80_us, row.vs_reference) == tuple(map(pytest.approx, (1000, 1000, 3)))
    assert (row.of_copy, row.of_large_copy) == (pytest.approx(0.8), pytest.approx(0.5))
    assert row.vs_compile is None and row.goals == "0.9 of copy: **not reached** (0.8)"
    one.times["triton", "graph"] = Time(*[0.5e-3] * 3)
    assert list(one.verdicts()) == ["0.9 of copy: **not reached** (0.8)"], "there is no copy as a graph yet"
    one.times[COPY, "graph"] = Time(*[0.49e-3] * 3)
    assert list(one.verdicts()) == ["0.9 of copy: reached (0.98)"]
    shares = {(row.variant, row.mode): row.of_copy for row in rows(one, 2e12)}
    assert shares["triton", "eager"] == pytest.approx(0.8) and shares["triton", "graph"] == pytest.approx(0.98)
    assert shares[COPY, "graph"] is None
    assert "copy as a graph" in written(one) and "1.00 TB/s" in written(one)
    assert list(dataclasses.replace(one, is_judged=False).verdicts()) == ["0.9 of copy: not measured"]


def test_the_faster_backend_is_judged_and_named():
    one = timed("styled_256_bf16", BOTH, triton=2.0, cuda=1.0, reference=1.8, cuda_graph=0.8)
    assert list(one.verdicts()) == ["1.5x reference: reached (1.8, by cuda)", "1.2x compile: not measured"]
    one.peaks = {"triton": 5_000_000, "cuda": 7_000_000, "reference": 9_000_000}
    assert "| 1.8 | — | — | 9 → 7 | 1.5x reference: reached (1.8, by cuda)" in written(one)
    assert "Goals: 1 reached, 0 not reached, 1 not measured." in written(one)
    slow = timed("styled_256_bf16", BOTH, triton=2.0, cuda=3.0, reference=3.0)
    assert next(slow.verdicts()) == "1.5x reference: reached (1.5)"


def test_verdicts_of_speed_and_memory():
    one = timed("feature_loss_bf16", BOTH, triton=1.0, reference=3.0, released=9.0)
    one.peaks = {"triton": 10, "reference": 99, "released": 101}
    assert list(one.verdicts()) == [
        "3x reference: reached (3)", "10x released float32: **not reached** (9)",
        "0.1 of the peak memory: **not reached** (0.101)", "0.1 of released float32's peak: reached (0.099)",
    ]  # fmt: skip
    hsr = timed("training_256_hsr", SCHEDULE, triton=11.1, baseline=10.0)
    assert list(hsr.verdicts()) == ["1.1x the baseline's time: **not reached** (1.11)"]


def noted(journal: Journal, name: str, phase: str, variant: str, mode: str = "eager", **data: object) -> None:
    about = {"case": name, "phase": phase, "variant": variant, "mode": mode}
    item = ", ".join(about.values())
    journal.begin("cases", item, 20.0, about)
    if "reason" in data:
        journal.fail("cases", item, str(data["reason"]))
    elif data:
        journal.done("cases", item, dict.fromkeys(("median", "p20", "p80"), data.pop("seconds")) | data)
    journal.refresh()


def test_1000_images_take_the_steps_of_the_schedule(journal):
    case = BY_NAME["training_256"]
    # 16 steps of 32 images: all phases once, path length in three more, the main phases alone in the other twelve.
    assert {phase: n * 16 * 32 / 1000 for phase, n in case.steps_per_1000_images.items()} == {
        STEP: 1,
        PATH: 3,
        MAIN: 12,
    }
    for phase, seconds in ((STEP, 7.0), (PATH, 5.0), (MAIN, 2.0)):
        noted(journal, case.name, phase, "triton", seconds=seconds)
        if phase != STEP:
            noted(journal, case.name, phase, "reference", seconds=2 * seconds)
    noted(journal, case.name, STEP, "reference", seconds=14.0, note="one call, without a warm-up")
    found, _ = collect(journal.of("cases"), judged=True)
    schedule = found[-1]
    assert (schedule.phase, schedule.median("triton")) == (SCHEDULE, pytest.approx((7 + 15 + 24) * 1000 / 16 / 32))
    assert list(schedule.verdicts()) == ["1.5x reference: reached (2)"]
    assert "reference eager: one call, without a warm-up." in written(found[0])
    noted(journal, case.name, STEP, "reference", reason="out of memory")
    assert collect(journal.of("cases"), judged=True)[0][-1].times.keys() == {("triton", "eager")}


def test_files_hold_what_was_found_so_far_and_why_the_rest_is_missing(journal):
    noted(journal, "bias_act_bf16", FORWARD, "triton", seconds=1e-3)
    noted(journal, "bias_act_bf16", FORWARD, "copy", seconds=1e-3, bytes=10**9)
    noted(journal, "bias_act_bf16", BOTH, "cuda", reason="RuntimeError: out of memory")
    noted(journal, "bias_act_bf16", BOTH, "reference")
    layer = Problem("modulated_conv2d", "forward 3x3", "half", "channels_last", (8, 4, 64))
    call = Problem("bias_act", "forward and backward", "float16", "contiguous", (256,))
    measurements = (
        Measurement("9.0", layer, {"convolution": 3.0, "fused": 1.0}),
        Measurement("9.0", call, {"cuda": 20.0, "triton": 50.0}),
    )
    for number, measurement in enumerate(measurements):
        journal.begin("choices", str(number), 20.0)
        journal.done("choices", str(number), dataclasses.asdict(measurement))
    journal.fail("choices", "another", "stopped after 20 s")
    journal.refresh()
    folder = journal.path.parent
    files.write(folder, journal)
    assert {path.name for path in folder.iterdir()} == {"journal.jsonl", "gpu.csv", "gpu.md", "measured.csv"}
    lines = list(csv.DictReader(io.StringIO((folder / "gpu.csv").read_text())))
    notes = {(line["phase"], line["variant"]): line["note"] for line in lines}
    assert notes[BOTH, "cuda"] == "RuntimeError: out of memory" and notes[BOTH, "reference"] == OUT_OF_TIME
    assert notes[FORWARD, "triton"] == "" and lines[0]["chip"] == MACHINE["chip"] and lines[0]["of_copy"] == "1.0"
    table = (folder / "gpu.md").read_text()
    assert "| forward 3x3 | half | channels_last | 8x4x64 | convolution 3 µs, fused 1 µs | fused |" in table
    assert "| float16 | contiguous | 256 | cuda 20 µs, triton 50 µs | cuda |" in table
    assert "Not measured: another: stopped after 20 s." in table
    assert measured.read(str(folder / "measured.csv")) == measurements
    assert csv_text([], {}).count("\n") == 1


def test_all_is_measured_and_the_most_important_first():
    todo = [(case.name, phase) for case, phases in pieces("") for phase in phases]
    assert len(todo) == len(set(todo))
    assert set(todo) == {(c.name, phase) for c in GPU_CASES for phase in c.targets if phase != SCHEDULE}
    assert todo[0] == ("training_256", MAIN)
    order = list(dict.fromkeys(name for name, _ in todo))
    assert order[1:5] == ["styled_256_fp16", "styled_up_256_fp16", "feature_loss_bf16", "bias_act_bf16"]
    assert order[-1] == "training_256_hsr" and order.index("styled_512_fp16") < order.index("styled_512_bf16")
    assert {case.name for case, _ in pieces("filter2d")} == {name for name in BY_NAME if "filter2d" in name}


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
    assert goals("training_256_hsr", SCHEDULE) == Target(baseline=1.1)
    assert all(isinstance(case, Case) for case in GPU_CASES)
