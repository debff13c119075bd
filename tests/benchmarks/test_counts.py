# SPDX-License-Identifier: Apache-2.0
"""The guard against slower code: counts against recorded ones, and slower code that it has to find."""

import dataclasses
import re

import pytest

from benchmarks.counts import commands, instructions, recorded
from benchmarks.cpu.cases import CASES
from tests.native import requires_native
from tests.selection import FULL

pytestmark = requires_native


def cpu_counts(name: str) -> list[recorded.Counts]:
    from benchmarks.counts import cpu

    return [*cpu.counts(tuple(case for case in CASES if case.name == name))]


def grown(counts: list[recorded.Counts]) -> dict[str, float]:
    """What has grown since it was recorded, and how many times."""
    before = recorded.read()[0]
    before = {one.name: before[one.name] for one in counts}
    names = recorded.compared(recorded.read()[1])
    found = [
        re.fullmatch(r"(.*) grew from \d+ to \d+(?: \((.*)x\))?", s) for s in recorded.faults(counts, before, names)
    ]
    return {one[1]: float(one[2] or "inf") for one in found if one}


def test_no_pass_does_more_than_recorded():
    pytest.importorskip("triton")
    before, version = recorded.read()
    assert [*recorded.faults(commands.counted(), before, recorded.compared(version))] == [], recorded.COMMAND


def test_a_copy_more_is_found(monkeypatch):
    from hsr_kernels.upfirdn2d import cpu_impl

    dense_image = cpu_impl.dense_image
    monkeypatch.setattr(cpu_impl, "dense_image", lambda x: dense_image(x.clone()))
    found = grown(cpu_counts("filter2d"))
    assert found["cpu, filter2d, forward: bytes"] >= 1.5
    assert found["cpu, filter2d, forward: allocated"] >= 1.5


def test_a_native_call_more_is_found(monkeypatch):
    from hsr_kernels.upfirdn2d import cpu_impl

    native = cpu_impl.native

    class Twice:
        """The extension, each of whose kernels runs twice."""

        def __getattr__(self, name):
            kernel = getattr(native.cpu(), name)
            return lambda *args: (kernel(*args), kernel(*args))[0]

    monkeypatch.setattr(cpu_impl, "native", type("Native", (), {"cpu": staticmethod(Twice)}))
    assert grown(cpu_counts("filter2d"))["cpu, filter2d, forward: kernels"] == 2


def test_python_on_the_way_of_a_call_is_found(monkeypatch):
    from hsr_kernels.upfirdn2d import cpu_impl

    image_format = cpu_impl.image_format

    def repeated(x):
        for _ in range(40):
            image_format(x)
        return image_format(x)

    monkeypatch.setattr(cpu_impl, "image_format", repeated)
    assert grown(cpu_counts("filter2d"))["cpu, filter2d, forward: calls"] > 1.5


def test_a_launch_more_is_found(monkeypatch):
    pytest.importorskip("triton")
    from benchmarks import roofline
    from benchmarks.counts import triton
    from benchmarks.gpu.cases import GPU_CASES
    from hsr_kernels.bias_act import triton_impl

    launch = triton_impl.bias_act
    operator = roofline.library.triton_operators["hsr_kernels::bias_act.triton"]
    monkeypatch.setattr(operator, "function", lambda *args: (launch(*args), launch(*args))[0])
    found = grown([*triton.counts(tuple(case for case in GPU_CASES if case.name == "bias_act_bf16"))])
    assert found["triton, bias_act_bf16, forward: kernels"] == 2
    assert found["triton, bias_act_bf16, forward: bytes"] == 2


def test_what_is_compared(tmp_path):
    one = recorded.Counts("cpu", "c", "forward", 10, 2, 4, 1000, None)
    recorded.write([one], tmp_path / "x.csv")
    before, version = recorded.read(tmp_path / "x.csv")
    assert (before, version) == ({"cpu, c, forward": one}, recorded.pytorch())
    more = dataclasses.replace(one, operations=6, bytes=1100)
    assert [*recorded.faults([more], before)] == ["cpu, c, forward: operations grew from 4 to 6 (1.50x)"]
    # What PyTorch does within is another version's.
    assert [*recorded.faults([more], before, recorded.compared("1.0"))] == []
    slower = dataclasses.replace(one, calls=15, kernels=3)
    assert [*recorded.faults([slower], before, recorded.compared("1.0"))] == [
        "cpu, c, forward: calls grew from 10 to 15 (1.50x)",
        "cpu, c, forward: kernels grew from 2 to 3 (1.50x)",
    ]
    other = dataclasses.replace(one, case="new")
    assert [*recorded.faults([other], before)] == [
        f"cpu, new, forward isn't recorded: {recorded.COMMAND}",
        f"cpu, c, forward is recorded and wasn't counted: {recorded.COMMAND}",
    ]
    assert recorded.gains([dataclasses.replace(one, bytes=999)], before) == 1
    assert recorded.gains([more], before) == 0


def test_command_ends_with_what_has_grown(monkeypatch, capsys):
    before, _ = recorded.read()
    slower = [dataclasses.replace(one, kernels=one.kernels + (one.case == "filter2d")) for one in before.values()]
    monkeypatch.setattr(commands, "counted", lambda: slower)
    with pytest.raises(SystemExit) as stop:
        commands.counts()
    assert (
        stop.value.code == 1 and "cpu, filter2d, forward: kernels grew from 1 to 2 (2.00x)" in capsys.readouterr().out
    )


def test_more_instructions_are_found():
    assert [*instructions.faults({"a": 110, "b": 150, "c": 1}, {"a": 100, "b": 100})] == [
        "b: instructions grew from 100 to 150 (1.50x)",
        f"c isn't recorded: {instructions.COMMAND}",
    ]
    assert instructions.read()[0].keys() == {*instructions.kernels()}


def test_instructions_without_valgrind_end_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(instructions.shutil, "which", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        commands.instructions()
    assert stop.value.code == 2 and "there is no valgrind here" in capsys.readouterr().err


@pytest.mark.skipif(bool(instructions.missing()), reason=instructions.missing())
@FULL
def test_instructions_are_the_same_in_every_run():
    first, second = (instructions.count(["bias_act"]) for _ in range(2))
    assert first == second and first["bias_act"] > 2 * 16 * 32 * 32 / 8
