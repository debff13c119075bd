# SPDX-License-Identifier: Apache-2.0
"""The host's time per call: what is counted, and how; the emulated extension is measured in `-m emulate`."""

import csv
import dataclasses
import json
import subprocess

import pytest
import torch
import torch.nn.functional as F

import hsr_kernels as hk
from benchmarks import commands, overhead, timing
from benchmarks.overhead import BIAS_ACT, Operations, Overhead
from tests.native import requires_native

ROW = Overhead("no device, idle launches", BIAS_ACT, 11.94, 11.0, 1, 0, 0.5, 12.0)


def names_in(run) -> list[str]:
    """PyTorch's operations in a call, without their namespace."""
    with torch.no_grad(), Operations() as operations:
        run()
    return [name.removeprefix("aten::") for name in operations.names]


def test_operations_are_those_that_compute():
    x, w = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3)
    assert names_in(lambda: F.leaky_relu(x + x.view(-1).view_as(x), 0.2)) == ["add.Tensor", "leaky_relu"]
    assert names_in(lambda: torch.empty_like(x).reshape(4, 64)[1:].detach()) == []
    assert names_in(lambda: F.conv2d(x, w)) == []
    assert names_in(lambda: x.transpose(1, 2).contiguous()) == ["clone"]
    assert names_in(lambda: x.half()) == ["_to_copy"]


@requires_native
def test_what_a_fused_operator_calls_is_counted_and_itself_is_not():
    x, b = torch.randn(1, 4, 8, 8), torch.randn(4)
    with hk.use_backend("cpu"):
        assert names_in(lambda: hk.bias_act(x, b, act="lrelu")) == []
        # Images with gaps are copied first.
        assert "copy_" in names_in(lambda: hk.bias_act(x[:, :, ::2], b, act="lrelu"))


def test_time_of_issuing_and_of_waiting(monkeypatch):
    now = [0.0]

    def take(seconds):
        def run():
            now[0] += seconds

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    assert timing.seconds_per_call(take(2.0), 10, take(30.0), waits=False) == 2.0
    assert timing.seconds_per_call(take(2.0), 10, take(30.0), waits=True) == 5.0


def test_short_batches_go_round_until_the_time_is_over(monkeypatch):
    def take(name, seconds):
        def run():
            now[0] += seconds
            made.append(name)

        return run

    now, made = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    times = overhead._interleave({"a": take("a", 1e-5), "b": take("b", 3e-4)}, lambda: None, seconds=0.0)
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys("ab", overhead.MIN_ROUNDS)
    assert times["a"] == [pytest.approx(1e-5)] * 20 and times["b"] == [pytest.approx(3e-4)] * 20
    # A batch takes a millisecond, and has 50 calls at most.
    assert made == ["a"] * 9 + ["b"] * 9 + (["a"] * 50 + ["b"] * 3) * 20


def test_targets_are_limits_of_the_median():
    assert overhead.cells(ROW) == [ROW.device, BIAS_ACT, "11.9", "11.0", "1", "0", "< 12 µs: met"]
    assert dataclasses.replace(ROW, median_us=12.0).verdict == "< 12 µs: met by the minimum only"
    assert dataclasses.replace(ROW, median_us=13.0, min_us=12.0).verdict == "< 12 µs: missed"
    other = dataclasses.replace(ROW, call="upsample2d", launches=None, target_us=None)
    assert overhead.cells(other)[2:] == ["11.9", "11.0", "—", "0", ""]


def test_a_measurement_has_a_process_of_its_own(monkeypatch, tmp_path):
    def fake(command, **options):
        asked.append((command[1:], options["env"].get("HSR_CUDA_EMULATED"), options["env"].get("TRITON_INTERPRET")))
        rows = json.dumps([dataclasses.asdict(ROW)])
        return subprocess.CompletedProcess(command, 0, stdout=f"a warning\n{rows}\n", stderr="")

    asked = []
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("HSR_CUDA_EMULATED", "/somewhere/else.so")
    monkeypatch.setattr(overhead.subprocess, "run", fake)
    assert overhead.measure_in_process("cpu", tmp_path / "x.so") == overhead.measure_in_process("cuda", None) == [ROW]
    module = ["-m", "benchmarks.overhead"]
    assert asked == [([*module, "cpu"], str(tmp_path / "x.so"), None), ([*module, "cuda"], None, None)]


def test_a_process_that_fails_ends_in_a_sentence(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nImportError: no such file\n")
    monkeypatch.setattr(overhead.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"^-m benchmarks.overhead cpu failed: ImportError: no such file$"):
        overhead.measure_in_process("cpu", None)


@pytest.mark.parametrize("microseconds, verdict", [(11.0, "met"), (13.0, "missed")])
def test_command(monkeypatch, tmp_path, capsys, microseconds, verdict):
    rows = [dataclasses.replace(ROW, median_us=microseconds, min_us=microseconds)]
    monkeypatch.setattr(overhead, "build_emulated", lambda: tmp_path / "x.so")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(overhead, "measure_in_process", lambda device, emulated: rows)
    commands.overhead_table(tmp_path / "overhead.csv")
    printed = capsys.readouterr().out
    assert f"< 12 µs: {verdict}" in printed and "On a device: not measured" in printed
    with (tmp_path / "overhead.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["call"], float(row["median_us"]), row["torch"]) == (BIAS_ACT, microseconds, torch.__version__)


def test_what_cannot_be_built_ends_in_a_sentence(monkeypatch, capsys):
    broken = "Traceback\nRuntimeError: there is no cmake; it comes with the [test] extra\n"
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr=broken)
    monkeypatch.setattr(overhead.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit) as stop:
        commands.overhead_table()
    error = capsys.readouterr().err
    assert (
        stop.value.code == 2 and "can't be built: RuntimeError: there is no cmake" in error and error.count("\n") == 1
    )


@pytest.mark.emulate
def test_the_emulated_extension_is_measured_and_left_as_it_was():
    rows = {row.call: row for row in overhead.measure_calls("cpu", seconds=0.0)}
    assert set(rows) == set(overhead.calls("cpu"))
    assert all(0 < row.min_us <= row.median_us and row.device == "no device, idle launches" for row in rows.values())
    assert (rows[BIAS_ACT].launches, rows[BIAS_ACT].operations) == (1, 0)
    assert [rows[f"upsample2d, 1x8x{side}x{side}"].launches for side in (4, 16)] == [1, 1]
    for name, row in rows.items():
        is_fused = name.startswith(("bias_act", "upsample2d", "styled"))
        assert (row.launches > 0) == is_fused
    assert rows["F.leaky_relu(x + b), 1x4x8x8"].operations == 2
    x = torch.randn(1, 4, 8, 8)
    # Its kernels run again.
    with hk.use_backend("cuda"):
        torch.testing.assert_close(hk.bias_act(x, act="relu", gain=1.0), x.relu())
