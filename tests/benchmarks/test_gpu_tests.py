# SPDX-License-Identifier: Apache-2.0
"""The GPU's tests as the report runs them: what crashes costs itself alone, and nothing is run twice."""

import subprocess

import pytest

from benchmarks.gpu import testing
from benchmarks.gpu.items import Task
from benchmarks.gpu.journal import DONE, FAILED
from benchmarks.gpu.testing import Group
from tests.selection import FULL, kept

_HEAD = """
import os
import signal

import pytest
import torch

from tests.selection import SELECTION

pytestmark = pytest.mark.gpu
SELECTION.has_gpu = True
torch.cuda.is_available = lambda: True
broken = False

def synchronize():
    if broken:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

torch.cuda.synchronize = synchronize

def test_passes():
    pass
"""
_SILENT = """
def test_loses_the_device():
    global broken
    broken = True
"""
_LOUD = (
    _SILENT
    + """
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
"""
)
_FAILING = """
def test_fails():
    assert 1 + 1 == 3
"""
_CRASHING = """
def test_crashes():
    os.kill(os.getpid(), signal.SIGSEGV)
"""
_LAST = """
def test_passes_too():
    pass
"""


@pytest.fixture
def task(journal, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    return Task(journal.path.parent, "", True)


@pytest.mark.parametrize("single_process, parts", kept((
    pytest.param(True, (_SILENT, _FAILING, _CRASHING), id="one process"),
    pytest.param(False, (_LOUD,), marks=FULL, id="several"),
)))  # fmt: skip
def test_a_lost_device_and_a_crash_cost_one_test_each(task, journal, single_process, parts):
    if not single_process:
        pytest.importorskip("xdist")
    (task.folder / "test_some.py").write_text("".join((_HEAD, *parts, _LAST)))
    arguments = ("-p", "tests.conftest", str(task.folder / "test_some.py"))
    testing.run(Group("some", arguments, single_process=single_process), task)
    journal.refresh()
    states = {name.partition("::")[2]: entry.state for name, entry in journal.of("tests").items()}
    lost = [name for name in ("test_loses_the_device", "test_fails", "test_crashes") if name in "".join(parts)]
    assert states == {"test_passes": DONE, "test_passes_too": DONE} | dict.fromkeys(lost, FAILED)
    assert journal.path.read_text().count('::test_passes", "state": "began"') == 1, "nothing is run twice"
    failures = (task.folder / "failures.txt").read_text()
    assert all(f"::{name} [" in failures for name in lost) and "test_passes [" not in failures
    assert not single_process or "assert (1 + 1) == 3" in failures
    assert f"2 passed, {len(lost)} failed" in testing.summary(journal)
    assert "##### some" in (task.folder / "tests.log").read_text()


def test_what_cannot_be_collected_is_a_failure_with_its_output(task, journal):
    (task.folder / "test_some.py").write_text("import nothing_of_that_name")
    with pytest.raises(RuntimeError, match=r"pytest ended with status 2: .*1 error"):
        testing.run(Group("some", (str(task.folder / "test_some.py"),), single_process=True), task)
    assert "nothing_of_that_name" in (task.folder / "tests.log").read_text()


def test_what_a_sanitizer_finds_is_reported(task, monkeypatch):
    asked = []

    def run(command, **options):
        asked.append((command, options["env"]))
        options["stdout"].write("========= ERROR SUMMARY: 3 errors\n")
        return subprocess.CompletedProcess(command, 86)

    monkeypatch.setattr(testing.subprocess, "run", run)
    monkeypatch.setattr(testing.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(testing.device, "rehearsing", lambda: False)
    monkeypatch.delenv("HSR_JOURNAL", raising=False)
    (memcheck, racecheck) = [group for group in testing.groups() if group.prefix]
    with pytest.raises(RuntimeError, match=r"ERROR SUMMARY: 3 errors \(exit status 86\)"):
        testing.run(memcheck, task)
    ((command, environment),) = asked
    assert command[:3] == ["/bin/compute-sanitizer", "--tool", "memcheck"] and "-n" not in command
    assert "HSR_JOURNAL" not in environment, "what was tested before is tested again"
    assert racecheck.prefix[2] == "racecheck"


def test_groups_leave_nothing_out():
    *_, rest = testing.groups()
    assert rest.arguments == testing.EVERY_TEST and not rest.prefix
