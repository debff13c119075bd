# SPDX-License-Identifier: Apache-2.0
"""cuda beside triton in the GPU report, with a CPU in the place of the GPU."""

import math

import pytest
import torch

from benchmarks import gpu, gpu_backends, gpu_table
from benchmarks.gpu_backends import TENSORS, TINY, Comparison
from benchmarks.gpu_cases import GPU_CASES
from benchmarks.gpu_table import Choices
from benchmarks.workloads import BOTH
from hsr_kernels import _backends, _measured
from tests.benchmarks.conftest import SETTING
from tests.benchmarks.test_gpu_report import BY_NAME, measured, report
from tests.native import requires_native

OPERATORS = ("bias_act", "upfirdn2d", "modulated_conv2d")
LINE = Comparison("bias_act", TINY[0], torch.float16, "channels_last")


def test_what_is_measured_speaks_for_all_of_stylegan2():
    """From RGB images of 4x4, one at a time, to the largest activations; no measurement hides another."""
    sizes = sorted(tensor.elements for tensor in TENSORS)
    assert len(set(sizes)) == len(sizes) and sizes[-1] == 4 * 32 * 1024**2
    for elements in (3 * 4 * 4, *(2**i for i in range(6, 29)), 3 * 2**24):
        assert min(abs(math.log2(elements / size)) for size in sizes) <= _measured._REACH - 0.5
    todo = list(gpu_backends.comparisons())
    assert len(todo) == len(set(todo)) == len(TENSORS) * 3 * 2 * len(OPERATORS)
    assert {(one.op, one.dtype, one.layout) for one in todo} == {
        (op, dtype, layout)
        for op in OPERATORS
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
        for layout in ("contiguous", "channels_last")
    }


@pytest.mark.parametrize("one", list(gpu_backends.comparisons(TINY)), ids=str)
def test_images_are_what_is_written_down(one):
    work = one.workload("cpu")
    x, (_, c, side) = work.inputs[0], (one.tensor.n, one.tensor.channels, one.tensor.side)
    assert (x.numel(), x.shape[1], x.shape[3], x.dtype) == (one.tensor.elements, c, side, one.dtype)
    assert (x.stride(1) == 1) == (one.layout == "channels_last") and x.requires_grad


@requires_native
@pytest.mark.usefixtures("both_backends")
def test_backends_take_turns_in_batches_as_long_as_each_needs():
    made = []

    def batch(run, calls):
        run()
        made.append((_backends.requested(), calls))
        return {"cpu": 1e-3, "reference": 4e-3}[made[-1][0]]

    found = gpu_backends.measure(LINE, "cpu", batch)
    assert (found.chip, found.op, found.dtype, found.layout) == ("none", "bias_act", "float16", "channels_last")
    assert (found.elements, found.cuda, found.triton) == (256, pytest.approx(1000), pytest.approx(4000))
    assert made[:4] == [("cpu", 3), ("cpu", 3), ("reference", 3), ("reference", 3)]
    cpu, reference = ("cpu", 5), ("reference", 3)  # 5 ms, but no fewer than 3 calls
    assert made[4:] == [cpu, reference, reference, cpu, cpu, reference, reference, cpu, cpu, reference]


@requires_native
@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize("name", ["bias_act_fp32_last", "styled_256_bf16", "training_256"])
def test_cases_are_measured_on_both(name, tmp_path):
    rows, text, said = report(tmp_path, name)
    case = BY_NAME[name]
    for phase in case.targets:
        mine = {
            row["mode"]: row for row in rows if (row["case"], row["phase"], row["variant"]) == (name, phase, "cuda")
        }
        assert set(mine) == ({"eager", "graph"} if "training" not in name else {"eager"})
        assert all(float(row["vs_reference"]) > 0 and not row["note"] for row in mine.values())
    both = _measured.read(str(tmp_path / "measured.csv"))
    assert [m.op for m in both] == [one.op for one in gpu_backends.comparisons(TINY)]
    assert all(m.cuda > 0 and m.triton > 0 and m.chip == "none" for m in both)
    assert "cuda beside triton: measured 18 times" in said and "measured.csv" in said[-1]
    assert text.count("\n| bias_act | float") == 4 and "not measured: there" not in text


def test_cuda_has_no_hsr_loss():
    """Which cases it is a contender for follows from the operators that it has."""
    lacking = {case.name for case in GPU_CASES if not gpu._has_cuda(case)}
    assert lacking == {*(f"feature_loss_{dtype}" for dtype in ("bf16", "fp16", "fp32")), "training_256_hsr"}


@requires_native
@pytest.mark.usefixtures("cpu_for_gpu")
def test_without_cuda_the_report_says_why(tmp_path):
    rows, text, said = report(tmp_path, "bias_act_fp32_last")
    assert not any(row["variant"] == "cuda" for row in rows) and not (tmp_path / "measured.csv").exists()
    assert "cuda beside triton: not measured: there is no CUDA device" in said
    assert "The cuda backend beside triton: not measured: there is no CUDA device." in text


@requires_native
@pytest.mark.usefixtures("both_backends")
def test_a_failure_is_noted_and_the_rest_compared(tmp_path, monkeypatch):
    measure = gpu_backends.measure

    def broken(one, *rest):
        if (one.op, one.dtype) == ("upfirdn2d", torch.float16):
            raise RuntimeError("out of memory\nand more")
        return measure(one, *rest)

    monkeypatch.setattr(gpu_backends, "measure", broken)
    found, note = gpu.measure_backends(tmp_path / "measured.csv", 60, quick=True)
    written = _measured.read(str(tmp_path / "measured.csv"))
    assert [(m.op, m.dtype, m.layout) for m in written] == [(m.op, m.dtype, m.layout) for m in found]
    assert len(found) == 16
    one = "upfirdn2d, 1x4x8x8, float16, channels_last: RuntimeError: out of memory"
    assert note.startswith(one) and note.count("RuntimeError") == 2 and "and more" not in note
    text = gpu_table.markdown([], SETTING, "", 1.0, Choices(backends=found, note=note))
    assert f"\nNot measured: {one}" in text
    assert gpu.measure_backends(tmp_path / "none.csv", 0, quick=True) == ([], "out of time after 0 of 18")


def test_the_table_says_which_is_faster():
    both = [
        _measured.Measurement("9.0", "bias_act", "float16", "contiguous", 256, 20.0, 50.04),
        _measured.Measurement("9.0", "upfirdn2d", "float32", "channels_last", 1 << 27, 2500.0, 2400.0),
    ]
    text = gpu_table.markdown([], SETTING, "", 1.0, Choices(backends=both))
    assert "| bias_act | float16 | contiguous | 256 | 20.0 | 50.0 | cuda |" in text
    assert "| upfirdn2d | float32 | channels_last | 134217728 | 2500.0 | 2400.0 | triton |" in text


def test_the_faster_one_is_judged():
    one = measured("styled_256_bf16", BOTH, triton=2.0, cuda=1.0, reference=1.8, cuda_graph=0.8)
    assert list(one.verdicts(1.0)) == ["1.5x reference: reached (1.8, by cuda)", "1.2x compile: not measured"]
    one.peaks = {"triton": 5_000_000, "cuda": 7_000_000, "reference": 9_000_000}
    text = gpu_table.markdown(list(gpu_table.rows(one, 1.0)), SETTING, "", 1e12, Choices())
    assert "| 2 ms | — | 1 ms | 800 µs | 1.8 | — | — | 9 → 7 | 1.5x reference: reached (1.8, by cuda)" in text
    slow = measured("styled_256_bf16", BOTH, triton=2.0, cuda=3.0, reference=3.0)
    assert next(slow.verdicts(1.0)) == "1.5x reference: reached (1.5)"
    copied = measured("bias_act_bf16", BOTH, triton=1.0, triton_graph=0.5, cuda=0.6, cuda_graph=0.55)
    copied.fewest = 10**9
    assert list(copied.verdicts(2e12)) == ["0.9 of copy: reached (1)"]
