# SPDX-License-Identifier: Apache-2.0
"""Curves over batch, resolution, channels and threads, their exponents, and comparisons with another commit."""

import dataclasses
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cpu import against, commands, scaling
from benchmarks.cpu.cases import CASES
from benchmarks.cpu.report import CpuRow
from benchmarks.cpu.worker import OPEN, ORIGIN, TIME
from benchmarks.variants import REFERENCE
from tests.native import requires_native


def case(name: str):
    return next(one for one in CASES if one.name == name)


def row(variant: str, median_ms: float | None, note: str = "") -> CpuRow:
    values = {field.name: None for field in dataclasses.fields(CpuRow)} | {"suite": "ops", "phase": "forward"}
    spread = {} if median_ms is None else {"p20_ms": median_ms / 2, "p80_ms": median_ms * 2, "floor_ms": 1e-3}
    return CpuRow(**values | spread | {"variant": variant, "median_ms": median_ms, "note": note})  # type: ignore[arg-type]


def test_exponents_and_their_spread_are_those_of_the_points():
    x = [8, 16, 32, 64]
    exact = scaling.fit(x, [3 * one**1.5 for one in x])
    assert exact is not None and exact.spread is not None
    assert (exact.exponent, exact.constant) == pytest.approx((1.5, 3)) and exact.spread < 1e-6
    noisy = scaling.fit(x, [1.0, 2.2, 3.7, 8.5])
    # Another implementation.
    slope, covariance = np.polyfit(np.log(x), np.log([1.0, 2.2, 3.7, 8.5]), 1, cov=True)
    assert noisy is not None
    assert (noisy.exponent, noisy.spread) == pytest.approx((slope[0], math.sqrt(covariance[0, 0])))
    assert scaling.fit([8], [1.0]) is None and str(scaling.fit([8, 16], [1.0, 4.0])) == "2.00"


def test_points_change_one_axis_of_the_size():
    styled = case("styled")
    for axis, key in (("batch", "n"), ("resolution", "side"), ("channels", "c_in")):
        points = scaling.points(styled, axis)
        assert len(points) >= 3 and [p.x for p in points] == sorted({p.x for p in points})
        for point in points:
            changed = {name for name, value in point.case.size.items() if value != styled.size[name]}
            assert point.case.size[key] == point.x
            assert changed <= ({"c_in", "c_out"} if axis == "channels" else {key})
    scales = [point.case.size["sides"] for point in scaling.points(case("feature_loss"), "resolution")]
    assert scales == [(8, 16, 32, 64), (16, 32, 64, 128)]
    assert next(point.threads for point in scaling.points(styled, "threads")) == 1


def test_curves_are_drawn_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(commands.report, "setting", lambda rows: "on a test's machine")
    wrong = row("cpu", None, "wrong: db")
    measured = {x: [row(REFERENCE, float(x)), row("cpu", x**0.5)] for x in (4, 8, 16)} | {32: [wrong]}
    monkeypatch.setattr(
        commands, "_measured", lambda points, over, options: (measured, ["batch 32, forward, cpu: wrong"])
    )
    with pytest.raises(SystemExit) as end:
        commands.scale("bias_act", "batch", out=tmp_path)
    # One point has no figure.
    assert end.value.code == 1
    assert (tmp_path / "scale_bias_act_batch.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "scale_bias_act_batch.svg").read_text()
    text = (tmp_path / "scale_bias_act_batch.md").read_text()
    for variant, exponent in ((REFERENCE, "1.00"), ("cpu", "0.50")):
        (line,) = [line for line in text.splitlines() if line.startswith(f"| forward | {variant} |")]
        assert f"| {exponent} ± 0.00 |" in line
    assert "no figure: batch 32" in capsys.readouterr().out


def test_a_case_that_does_not_exist_ends_with_a_sentence(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        commands.scale("nothing", "batch")
    assert end.value.code == 2 and "no case is called 'nothing'" in capsys.readouterr().err


class Side:
    """A process that answers with a fixed time."""

    def __init__(self, seconds: float, asked: list[float], fault: str = "", origin: str = "") -> None:
        self.seconds, self.asked, self.fault, self.origin = seconds, asked, fault, origin

    def ask(self, request: str, **_: object) -> object:
        if request == OPEN:
            return self.fault
        if request == ORIGIN:
            return self.origin
        assert request == TIME
        self.asked.append(self.seconds)
        return self.seconds


def test_two_commits_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "PAUSE_SECONDS", 0.0)
    asked: list[float] = []
    now, before = Side(1.0, asked), Side(1.5, asked)
    found = [*against.compare(case("bias_act"), now, before, 6, tiny=True)]  # type: ignore[arg-type]
    assert [one.phase for one in found] == [*case("bias_act").targets]
    assert all(one.speedup.median == 1.5 and len(one.now) == 6 for one in found)
    # Neither is always the first.
    assert asked[:4] == [1.0, 1.5, 1.5, 1.0]
    with pytest.raises(RuntimeError, match="before: wrong"):
        [*against.compare(case("bias_act"), now, Side(1.5, asked, "wrong: dx"), 6, tiny=True)]  # type: ignore[arg-type]


@requires_native
def test_another_commit_is_checked_out_with_its_own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "repository"
    for package in against.PACKAGES:
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").write_text("BEFORE = True\n")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")

    def git(*arguments: str) -> None:
        subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "before")
    (root / "hsr_kernels" / "__init__.py").write_text("BEFORE = False\n")
    # It isn't committed, and the sources are the same.
    (root / "hsr_kernels" / "_cpu.x.so").touch()
    monkeypatch.setattr(against, "ROOT", root)
    with against.Checkout("HEAD") as other:
        packages = other.packages
        assert not other.is_built and (packages / "hsr_kernels" / "_cpu.x.so").exists()
        assert (packages / "hsr_kernels" / "__init__.py").read_text() == "BEFORE = True\n"
        assert sorted(path.name for path in packages.iterdir()) == sorted(against.PACKAGES)
        other.check(Side(0.0, [], origin=str(packages / "hsr_kernels" / "__init__.py")))  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="isn't what would be measured"):
            other.check(Side(0.0, [], origin=str(root / "hsr_kernels" / "__init__.py")))  # type: ignore[arg-type]
    assert not packages.exists()
    with pytest.raises(RuntimeError, match="git rev-parse failed"):
        against.Checkout("no-such-commit")
