# SPDX-License-Identifier: Apache-2.0
"""The CPU benchmark's arithmetic, checked on quantities that are computed beforehand."""

import dataclasses
import math
import subprocess
import sys

import pytest
import torch

import hsr_kernels
from benchmarks import SUITES, commands
from benchmarks.case import Case, Target
from benchmarks.costs import Cost, cost
from benchmarks.cpu import limits, measure, memory, timing
from benchmarks.cpu.cases import CASES
from benchmarks.cpu.report import CpuRow, cells, read_csv, text, write_csv
from benchmarks.parity import gate
from benchmarks.parity.call import Call
from benchmarks.setting import ROOT
from benchmarks.timing import percentiles
from benchmarks.variants import Variant
from benchmarks.workloads import BACKWARD, BOTH, FORWARD, IMAGE_OPERATORS, SECOND, STEP
from hsr_kernels._precision import bfloat16_unit
from tests.selection import every_other

BY_NAME = {case.name: case for case in CASES}
TINY = measure.Options("cpu", max_rounds=3, tiny=True, compiled=False)


def test_percentiles_and_paired_speedup():
    time = percentiles([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    assert (time.p20, time.median, time.p80) == (2.0, 3.5, 5.0)
    # Paired: the slow round slows both, so it doesn't move the ratio.
    assert timing.speedup([4.0, 40.0, 6.0], [2.0, 20.0, 2.0]) == 2.0


class Clock:
    """A clock that stands still unless something takes time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def take(self, name: str, seconds: float):
        def work() -> None:
            self.calls.append(name)
            self.now += seconds

        def stage():
            # Staging takes time, too, which isn't the call's.
            self.now += 100.0
            return work

        return stage


def test_variants_take_turns(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    times = timing.interleave({"a": clock.take("a", 2.0), "b": clock.take("b", 1.0)}, max_rounds=4, seconds=1e9)
    assert times == {"a": [2.0] * 4, "b": [1.0] * 4}
    assert "".join(clock.calls) == "abbaabba"


def test_time_limit_keeps_the_minimum_of_rounds(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    assert len(timing.interleave({"a": clock.take("a", 10.0)}, 100, seconds=1.0)["a"]) == timing.MIN_ROUNDS
    assert len(timing.interleave({"a": clock.take("a", 10.0)}, 100, seconds=1050.0)["a"]) == 10


def test_saved_bytes_counts_whole_storages_once_and_without_parameters():
    x, w = torch.randn(1000, requires_grad=True), torch.randn(1000, requires_grad=True)
    # The product saves x and w, the exponential its result.
    assert memory.saved_bytes(lambda: (x * w).exp()) == 3 * 4000
    assert memory.saved_bytes(lambda: (x * w).exp(), [w]) == 2 * 4000
    assert memory.saved_bytes(lambda: x[:10] * x[5:15]) == 4000
    assert memory.saved_bytes(lambda: x + w) == 0


def test_growth_sees_memory_that_python_and_pytorch_allocate():
    size = 96 << 20
    for allocate in (lambda: bytearray(b"x") * size, lambda: torch.ones(size // 4)):
        assert abs(memory.growth_bytes(allocate) - size) < 2 << 20


def test_peak_of_a_pass_holds_its_output_and_gradient():
    """In a process of its own, as freed memory is given back from then on."""
    script = """
import torch
from benchmarks.cpu import memory
from benchmarks.cpu.cases import CASES
from benchmarks.variants import Variant
case = next(case for case in CASES if case.name == "filter2d")
run = Variant("cpu", case.workload()).stage("forward+backward")()
run()
# Blocks of sizes that have been freed before come from the heap, which keeps what lies below the last of them.
for _ in range(3):
    blocks = [torch.ones(2_000_000 + 1000 * i) for i in range(20)]
    last = blocks.pop()
    del blocks
memory.give_freed_memory_back()
small = lambda: torch.ones(1_000_000) + 1
print(memory.growth_bytes(run), *(memory.growth_bytes(small) for _ in range(2)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    output, gradient = 4 * 4 * 128 * 127**2, 4 * 4 * 128**3
    of_pass, *of_small = map(int, done.stdout.split())
    assert -(2 << 20) < of_pass - (output + gradient) < 8 << 20
    # Heap that one call has touched isn't there for the next.
    assert all(abs(growth - 8_000_000) < 1 << 20 for growth in of_small)


@pytest.mark.parametrize("name", every_other([case.name for case in CASES]))
def test_every_case_runs_tiny(name):
    case = BY_NAME[name]
    rows = list(measure.measure_case(case, TINY))
    variants = ["reference", "cpu", *(["bfloat16"] if case.bfloat16_targets and bfloat16_unit() else [])]
    assert [(r.phase, r.variant) for r in rows] == [(p, v) for p in case.targets for v in variants]
    for row in rows:
        assert row.rounds == 3
        assert row.p20_ms is not None and row.median_ms is not None and row.p80_ms is not None
        assert 0 < row.p20_ms <= row.median_ms <= row.p80_ms
        assert (row.saved_bytes is None) == (row.phase == FORWARD)
        assert (row.vs_reference is None) == (row.variant == "reference")
        assert (row.vs_float32 is None) == (row.variant != "bfloat16")
        assert row.min_bytes > 0 and row.flops is not None and 0 < row.floor_ms < row.median_ms


def test_bias_act_keeps_its_output_alone():
    """Leaky ReLU's slope is recovered from its output, so half of what plain PyTorch keeps is enough."""
    saved = {
        row.variant: row.saved_bytes for row in measure.measure_case(BY_NAME["bias_act"], TINY) if row.phase == BOTH
    }
    activation = 4 * math.prod((BY_NAME["bias_act"].tiny_size["n"], 4, 16, 16))
    assert saved == {"reference": 2 * activation, "cpu": activation}


def test_ratios_come_from_the_paired_times(monkeypatch):
    seconds = {"reference": [0.4, 0.8, 0.6], "cpu": [0.1, 0.4, 0.2], "baseline": [0.1, 0.2, 0.1]}
    seconds |= {name: [1e-4] * 3 for name in limits.PROBES}
    monkeypatch.setattr(measure, "interleave", lambda *_: seconds)
    reference, measured = measure.measure_case(dataclasses.replace(BY_NAME["filter2d"], targets={BOTH: Target()}), TINY)
    assert (reference.median_ms, reference.vs_reference) == (pytest.approx(600.0), None)
    assert (measured.median_ms, measured.vs_reference) == (pytest.approx(200.0), pytest.approx(3.0))
    assert measured.vs_baseline == pytest.approx(0.5)


def test_bfloat16_is_compared_with_both_in_float32(monkeypatch, capsys):
    monkeypatch.setattr(measure, "bfloat16_unit", lambda: "AMX")
    seconds = {"reference": [0.4] * 3, "cpu": [0.2] * 3, "bfloat16": [0.05] * 3}
    # Products of bfloat16 are bounded by their own probes.
    seconds |= {"product": [0.06] * 3, "convolution": [1.0] * 3, "product in bfloat16": [1e-3] * 3}
    monkeypatch.setattr(measure, "interleave", lambda stages, *_: {n: seconds[n] for n in stages if n in seconds})
    rows = list(measure.measure_case(dataclasses.replace(BY_NAME["styled"], targets={BOTH: Target()}), TINY))
    assert [(row.vs_reference, row.vs_float32, row.note) for row in rows] == [
        (None, None, ""), (pytest.approx(2.0), None, ""), (pytest.approx(8.0), pytest.approx(4.0), ""),
    ]  # fmt: skip
    assert rows[2].min_bytes < rows[1].min_bytes and rows[2].flops == rows[1].flops
    commands._show(rows)
    # A table each, and a note on the second.
    titles = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert titles.count(rows[1].title) == titles.count(rows[2].title) == 1 and rows[1].title != rows[2].title


def planted(monkeypatch, name: str, fault):
    """Lets a Function of the library's, such as bias_act's backward, return something else on the CPU."""
    from hsr_kernels.bias_act import autograd

    function = getattr(autograd, name)
    apply = function.apply
    monkeypatch.setattr(function, "apply", lambda *args: fault(apply(*args)))


def figures(case: str) -> dict[str, tuple[float | None, str]]:
    """Each variant's last time, and its note."""
    rows = measure.measure_case(BY_NAME[case], TINY)
    return {row.variant: (row.median_ms, row.note) for row in rows}


def test_wrong_second_derivatives_are_not_timed(monkeypatch):
    """Values and gradients are right: the graph of the backward pass is lost, as in a backward that calls a raw op."""
    planted(monkeypatch, "BiasActBackward", lambda results: tuple(r if r is None else r.detach() for r in results))
    ((time, note),) = figures("bias_act").values()
    assert time is None and note.startswith("wrong: double backward of bias_act on random numbers: ")


@pytest.mark.parametrize(
    "inputs, broken",
    [
        ("zeros", lambda x: (x == 0).all(dim=(1, 2, 3)).any()),
        ("huge numbers", lambda x: x.abs().max() > 1e9),
        ("subnormal numbers", lambda x: 0 < x.abs().max() < 1e-38),
        ("NaN", lambda x: x.isnan().any()),
        ("infinite values", lambda x: x.isinf().any()),
    ],
)
def test_adversarial_inputs_are_compared(monkeypatch, inputs, broken):
    call = BY_NAME["filter2d"].workload(tiny=True).calls[0]
    assert gate.fault(call, "cpu") == ""
    run = Call.call

    def faulty(self, tensors):
        y = run(self, tensors)
        return y * 1.001 + 1e-40 if tensors["x"].dtype == torch.float32 and broken(tensors["x"]) else y

    measured = type("Faulty", (Call,), {"call": faulty})(call.op, call.name, call.shapes, call.options)
    found = gate.fault(call, "cpu", measured=measured)
    assert found.startswith(f"forward of filter2d on {inputs}: "), found


def test_a_result_that_differs_at_the_size_that_is_timed_is_not_timed(monkeypatch):
    """What is right on small tensors may be wrong on large ones."""
    stage = Variant.stage

    def wrong(self, name):
        if self.backend == "reference" or name != SECOND:
            return stage(self, name)
        return lambda: lambda: [None if g is None else g * 1.1 for g in stage(self, name)()()]

    monkeypatch.setattr(Variant, "stage", wrong)
    ((time, note),) = figures("filter2d").values()
    assert (time, note) == (
        None,
        "wrong: second order at the size that is timed: result 1 is off by 1.0e-01 of the norm",
    )


def test_errors_of_what_vanishes_are_shares_of_the_largest_result():
    expected = [torch.full((4,), 1000.0), torch.zeros(3), None]
    assert gate.fault_at_size(expected, [expected[0], torch.full((3,), 0.5), torch.full((2,), 0.5)]) == ""
    assert (
        gate.fault_at_size(expected, [expected[0], torch.full((3,), 2.0), None])
        == "result 1 is off by 1.7e-03 of the norm"
    )
    assert gate.fault_at_size(expected, [expected[0] * 1.002, None, None]) == "result 0 is off by 2.0e-03 of the norm"


def test_a_time_that_the_machine_cannot_reach_is_no_figure(monkeypatch):
    seconds = {"reference": [0.4] * 3, "cpu": [0.001] * 3, "copy": [0.01] * 3, "sum": [0.004, 0.005, 0.006]}
    monkeypatch.setattr(measure, "interleave", lambda stages, *_: {n: seconds[n] for n in stages if n in seconds})
    for time, note in (found := figures("bias_act"))["reference"], found["cpu"]:
        assert (time is None) == bool(note)
    assert found["cpu"][1].startswith("an error of measuring: 1 ms for ")
    assert found["cpu"][1].endswith(" which take at least 4 ms here")


def test_limits_are_those_of_the_fastest_rounds():
    needed = Cost(1000, 2e6)
    found = limits.limits(needed, {"copy": [2.0, 1.0], "sum": [0.5, 3.0], "product": [4.0, 2.0]}, product_side=100)
    assert (found.bytes_per_second, found.flops_per_second) == (2000.0, pytest.approx(1.1 * 1e6))
    assert found.floor(needed) == pytest.approx(2 / 1.1)
    assert found.floor(Cost(10_000, 0.0)) == 5.0
    # A processor whose convolutions are faster than its matrix products.
    times = {"product": [4.0, 2.0], "convolution": [8.0]}
    multiplied = 2 * 6 * 4 * 4 * 128**2 * 9
    assert limits.limits(needed, times, product_side=100).flops_per_second == pytest.approx(1.1 * multiplied / 8)


def test_bytes_and_operations_follow_from_shapes():
    work = BY_NAME["bias_act"].workload(tiny=True)
    image, bias = 4 * 4 * 16 * 16, 4 * 4
    costs = {phase: cost(work, phase, ("output",)) for phase in (FORWARD, BACKWARD, SECOND, BOTH)}
    assert {phase: found.min_bytes for phase, found in costs.items()} == {
        FORWARD: 2 * image + bias, BACKWARD: 3 * image + bias, SECOND: 2 * image + bias, BOTH: 5 * image + 2 * bias,
    }  # fmt: skip
    layer = BY_NAME["styled"].workload(tiny=True)
    assert [cost(layer, phase).flops / layer.flops for phase in (FORWARD, BACKWARD, SECOND, BOTH)] == [1, 2, 4, 3]
    # Rows of 16 to 32 pixels, then columns, each output of two taps.
    up = cost(BY_NAME["upsample2d"].workload(tiny=True), FORWARD)
    assert up.flops == 4 * (16 * 32 + 32 * 32) * 2 * 2
    network = BY_NAME["inference"].workload(tiny=True)
    assert cost(network, FORWARD).flops > 2 * 4 * sum(p.numel() for p in network.parameters if p.ndim == 4)


def test_every_suite_has_cases():
    assert {case.suite for case in CASES} == {*SUITES}


def test_failure_to_compile_is_reported(monkeypatch):
    def broken(*_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no compiler.\nsecond line")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    rows = list(measure.measure_case(BY_NAME["filter2d"], dataclasses.replace(TINY, compiled=True)))
    failed = [row for row in rows if row.variant == "compile"]
    assert [(row.phase, row.median_ms, row.note) for row in failed] == [
        (phase, None, "RuntimeError: no compiler") for phase in (FORWARD, BACKWARD, BOTH)
    ]
    assert "forward+backward: RuntimeError: no compiler." in text(rows)


def test_what_cannot_be_compiled_has_a_row_with_the_reason():
    case = BY_NAME["training_step"]
    rows = list(measure.measure_case(case, dataclasses.replace(TINY, compiled=True)))
    assert [(row.median_ms, row.note) for row in rows if row.variant == "compile"] == [(None, case.why_not_compiled)]


def test_compiled_double_backward_is_indeed_impossible():
    """The reason that the table gives for the training step."""
    assert "differentiate twice" in BY_NAME["training_step"].why_not_compiled
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    function = torch.compile(lambda x: hsr_kernels.bias_act(x, act="swish"), backend="aot_eager")
    with hsr_kernels.use_backend("reference"):
        (gradient,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="double backward"):
            gradient.sum().backward()


def row(**values) -> CpuRow:
    """A row with nothing measured but what is passed."""
    blank = {field.name: None for field in dataclasses.fields(CpuRow)}
    texts = dict(case="c", title="C", suite="ops", phase=BOTH, variant="cpu", note="", peer="")
    texts |= dict(chip="chip", torch="2", commit="abc")
    return CpuRow(**{**blank, **texts, "rounds": 3, "cores": 2, **values})


def test_csv_gives_back_what_was_written(tmp_path):
    rows = [row(median_ms=0.1, saved_bytes=7, title='a, "b"'), row(variant="compile", note="why: this, that")]
    write_csv(tmp_path / "x.csv", rows)
    assert read_csv(tmp_path / "x.csv") == rows
    (tmp_path / "y.csv").write_text("case,other\n1,2\n")
    with pytest.raises(ValueError, match="must have the columns"):
        read_csv(tmp_path / "y.csv")


def test_verdicts():
    reference = row(variant="reference", median_ms=50.0, saved_bytes=4_000_000, peak_bytes=900_000_000)
    demands = dict(target_reference=2.5, target_compile=1.0, target_peak=1 / 3)
    measured = row(median_ms=20.0, vs_reference=2.5, vs_compile=0.9, saved_bytes=0, peak_bytes=300_000_000, **demands)
    ((_, _, time, factor, verdicts, compiled, _, saved, peak, *_),), notes = cells([reference, measured])
    assert (time, factor, compiled, saved, peak) == ("50 → 20", "2.5x", "0.9x", "4 → 0", "900 → 300")
    assert verdicts == "2.5x: reached; 1x compile: **not reached**; 0.33 of peak: reached"
    assert notes == []
    bound = dataclasses.replace(measured, min_bytes=2_000_000, flops=3e9, floor_ms=5.0)
    assert cells([reference, bound])[0][0][-3:] == ["2", "3", "25%"]
    wrong = row(note="wrong: all of it", min_bytes=1, flops=0.0)
    assert wrong.is_invalid and cells([wrong])[0][0][2] == "wrong: all of it"
    dearer = row(median_ms=24.0, vs_baseline=20 / 24, target_baseline=1.15)
    ((_, _, _, _, verdicts, *_),), notes = cells([reference, dearer])
    assert verdicts == "1.15x the baseline's time: **not reached**"
    assert notes == ["Of C, forward+backward: 1.2x the baseline's time."]
    worse = dataclasses.replace(measured, vs_reference=2.49, vs_compile=None, peak_bytes=301_000_000)
    assert cells([reference, worse])[0][0][4] == (
        "2.5x: **not reached**; 1x compile: not measured; 0.33 of peak: **not reached**"
    )


def test_command_line(tmp_path, capsys):
    command = [sys.executable, "-m", "benchmarks", "run", "--device", "cpu", "--quick", "--no-compile"]
    command += ["--case", "upsample2d", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = read_csv(tmp_path / "cpu.csv")
    assert [(r.case, r.phase, r.variant) for r in rows] == [
        ("upsample2d", phase, variant)
        for phase in (FORWARD, BACKWARD, SECOND, BOTH)
        for variant in ("reference", "cpu")
    ]
    assert all(row.peak_bytes is not None for row in rows)
    assert rows[0].torch == torch.__version__
    commands.report(tmp_path / "cpu.csv")
    assert capsys.readouterr().out == (tmp_path / "cpu.md").read_text()


def test_what_was_measured_can_be_read():
    assert read_csv(ROOT / "benchmarks/results/cpu.csv")


def test_a_case_that_fails_costs_its_own_rows(monkeypatch, capsys):
    def ask(self, request, case, **options):
        if case == "filter2d":
            raise RuntimeError("the process that measures ended: no memory")
        return [dataclasses.asdict(row(case=case, median_ms=1.0))]

    monkeypatch.setattr(commands.Worker, "ask", ask)
    with pytest.raises(SystemExit) as stop:
        commands.run(suite="ops", case="2d", quick=True)
    printed = capsys.readouterr().out
    assert stop.value.code == 1
    assert "filter2d: the process that measures ended: no memory" in printed and printed.count("forward+backward") == 2


def test_bad_arguments_end_in_a_sentence(tmp_path, capsys):
    for call, sentence in (
        (lambda: commands.run(suite="layers", case="bias"), "no case is called 'bias'; there are styled,"),
        (lambda: commands.run(case="nonsense"), "no case is called 'nonsense'"),
        (lambda: commands.run(repeats=0), "--repeats must be at least 1, got 0"),
        (lambda: commands.report(tmp_path / "none.csv"), "No such file"),
    ):
        with pytest.raises(SystemExit) as stop:
            call()
        assert stop.value.code == 2
        assert sentence in capsys.readouterr().err


def test_every_speed_that_the_project_sets_itself_has_its_case():
    demanded = {(c.name, phase): t for c in CASES for phase, t in c.targets.items() if t != Target()}
    assert demanded == {
        ("upsample2d", FORWARD): Target(8.0),
        ("upsample2d", BOTH): Target(6.0),
        ("downsample2d", BOTH): Target(4.0),
        ("filter2d", BOTH): Target(3.0),
        ("bias_act", BOTH): Target(2.5, compiled=1.0),
        ("filtered_lrelu", FORWARD): Target(3.0),
        ("filtered_lrelu", BOTH): Target(3.0),
        ("filtered_lrelu_radial", FORWARD): Target(3.0),
        ("filtered_lrelu_radial", BOTH): Target(3.0),
        ("styled", BOTH): Target(1.3),
        ("styled_up", BOTH): Target(1.5),
        ("feature_loss", BOTH): Target(3.5, peak=1 / 3),
        ("training_step", STEP): Target(1.5),
        ("training_step_augmented", STEP): Target(baseline=1.15),
    }
    in_bfloat16 = {(c.name, phase): t for c in CASES for phase, t in c.bfloat16_targets.items() if t != Target()}
    assert in_bfloat16 == {
        ("styled", BOTH): Target(3.0),
        ("feature_loss", BOTH): Target(8.0),
        ("training_step", STEP): Target(4.5, float32=2.9),
    }
    assert all(isinstance(case, Case) for case in CASES)
    assert IMAGE_OPERATORS.keys() <= BY_NAME.keys()
