# SPDX-License-Identifier: Apache-2.0
"""The GPU report as far as it goes without a GPU: a CPU stands in, and what needs a device is replaced."""

import csv
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import gpu, run
from benchmarks.cases import BOTH, GPU_CASES, STEP
from benchmarks.memory import ROOT
from tests.native import requires_native

SETTING = {"chip": "none", "driver": "0", "torch": torch.__version__, "triton": "0", "commit": "0"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_one_sentence_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "gpu-report", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "gpu-report needs a CUDA device, and PyTorch sees none; `roofline` works without one"
    )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def cpu_for_gpu(monkeypatch):
    """The report's own logic on CPU tensors and the cpu backend."""

    def timed(call):
        began = time.perf_counter()
        call()
        spent = time.perf_counter() - began
        return gpu.Time(spent, spent, spent)

    monkeypatch.setattr(gpu, "available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gpu, "environment", lambda: SETTING)
    monkeypatch.setattr(gpu, "_time", timed)
    monkeypatch.setattr(gpu, "copy_bandwidth", lambda size: 1e9)
    monkeypatch.setattr(gpu, "_captured", lambda call: call)
    monkeypatch.setattr(gpu, "_peak", lambda call: 1_000_000)

    def variants(case, options, device):
        plain = run.Options("cpu", 1, options.tiny, compiled=False)
        found = run.variants_of(case, plain)
        return {"reference": found["reference"], "triton": found["cpu"]}

    monkeypatch.setattr(gpu, "variants_of", variants)


@requires_native
@pytest.mark.usefixtures("cpu_for_gpu")
@pytest.mark.parametrize("case", GPU_CASES, ids=lambda case: case.name)
def test_every_case_is_measured(case, tmp_path):
    said: list[str] = []
    gpu.report(tmp_path, case.name, quick=True, minutes=5, say=said.append)
    with (tmp_path / "gpu.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["case"] == case.name]
    assert {row["phase"] for row in rows} == set(case.targets)
    modes = {(row["variant"], row["mode"]) for row in rows}
    assert {("triton", "eager"), ("reference", "eager")} <= modes
    assert (("triton", "graph") in modes) == (STEP not in case.targets)
    assert (("convolution", "eager") in modes) == case.name.startswith("styled")
    for row in rows:
        assert not row["note"] and float(row["median_us"]) > 0 and row["chip"] == "none"
        if row["variant"] == "triton":
            assert float(row["vs_reference"]) > 0
    text = (tmp_path / "gpu.md").read_text()
    assert case.title in text and "left out" in text


@requires_native
@pytest.mark.usefixtures("cpu_for_gpu")
def test_a_failure_is_noted_and_the_rest_measured(tmp_path, monkeypatch):
    def broken(call):
        raise RuntimeError("capture failed\nand more")

    monkeypatch.setattr(gpu, "_captured", broken)
    gpu.report(tmp_path, "bias_act_fp32", quick=True, minutes=5, say=lambda line: None)
    text = (tmp_path / "gpu.md").read_text()
    assert "triton graph: RuntimeError: capture failed." in text and "and more" not in text


@requires_native
@pytest.mark.usefixtures("cpu_for_gpu")
def test_out_of_time_is_not_measured(tmp_path):
    gpu.report(tmp_path, "bias_act_fp32", quick=True, minutes=0, say=lambda line: None)
    assert "not measured: out of time" in (tmp_path / "gpu.md").read_text()


def test_ratios_and_shares_of_the_copy():
    case = next(case for case in GPU_CASES if case.name == "bias_act_bf16")
    times = {("triton", "eager"): gpu.Time(1e-3, 1e-3, 2e-3), ("reference", "eager"): gpu.Time(3e-3, 3e-3, 3e-3)}
    row = gpu._row(case, BOTH, "triton", "eager", times, fewest=10**9, copy=2e12, peak=5)
    assert row.median_us == pytest.approx(1000) and row.p80_us == pytest.approx(2000)
    assert row.vs_reference == pytest.approx(3) and row.vs_compile is None
    assert row.of_copy == pytest.approx(0.5)
    assert row.target == "0.9 of copy"


def test_tests_are_run_into_a_log(tmp_path, monkeypatch):
    def fake(command, **options):
        options["stdout"].write("....\n4 passed in 0.1s\n")
        assert command[-4:] == ["-m", "gpu", "-p", "no:cacheprovider"]

    monkeypatch.setattr(gpu.subprocess, "run", fake)
    assert gpu.run_tests(tmp_path / "tests.log", 5) == "4 passed in 0.1s"

    def slow(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(gpu.subprocess, "run", slow)
    assert gpu.run_tests(tmp_path / "tests.log", 5) == "stopped after 5 s"
