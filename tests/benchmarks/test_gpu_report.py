# SPDX-License-Identifier: Apache-2.0
"""Processes, time limits and files of the GPU report; a script that imports next to nothing stands in for workers."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as cli
from benchmarks import once
from benchmarks.gpu import files, report
from benchmarks.gpu.items import Task
from benchmarks.gpu.journal import DONE, Journal
from benchmarks.setting import ROOT, commit
from tests.selection import FULL

_WORKER = """
import os, signal, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from benchmarks.gpu.journal import Journal
journal = Journal(Path({path!r}))
journal.refresh()
for item in {items!r}:
    if journal.ended("cases", item):
        continue
    journal.begin("cases", item, {limit!r})
    what = item.split()[0]
    if what == "hang":
        child = subprocess.Popen(["sleep", "60"])
        Path({path!r} + ".child").write_text(str(child.pid))
        time.sleep(60)
    elif what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        sys.exit("no such module")
    elif what == "lost":
        journal.fail("cases", item, "illegal access")
        sys.exit(3)
    journal.done("cases", item, {{}})
"""


@pytest.fixture
def workers(monkeypatch, journal):
    """Lets the report's workers do items that are named by what happens to them; returns their task."""

    def use(*items: str, limit: float = 5.0) -> Task:
        script = _WORKER.format(root=str(ROOT), path=str(journal.path), items=items, limit=limit)
        monkeypatch.setattr(report, "_command", lambda stage, task: [sys.executable, "-c", script])
        monkeypatch.setattr(files, "write", lambda *_: None)
        return Task(journal.path.parent, "", True)

    return use


def run(task: Task, journal: Journal, seconds: float = 30.0) -> str:
    return report._run("cases", task, journal, time.monotonic() + seconds, lambda line: None)


def child_is_gone(journal: Journal) -> bool:
    """Whether what a worker started has ended; the system may take a moment to end what it was told to."""
    status = Path(f"/proc/{Path(f'{journal.path}.child').read_text()}/status")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if "zombie" not in status.read_text():
                time.sleep(0.02)
                continue
        return True
    return False


def test_what_happens_to_an_item_costs_that_item_alone(workers, journal):
    task = workers("ok 1", "crash 2", "exit 3", "lost 4", "hang 5", "ok 6", limit=1.0)
    assert run(task, journal) == ""
    assert {name: entry.reason for name, entry in journal.of("cases").items()} == {
        "ok 1": "",
        "crash 2": "its process ended by SIGKILL: no message",
        "exit 3": "its process ended with status 1: no such module",
        "lost 4": "illegal access",
        "hang 5": "stopped after 1 s",
        "ok 6": "",
    }
    assert child_is_gone(journal), "what a worker started ends with it"


@FULL
def test_time_is_kept_and_what_was_cut_off_is_done_next_time(workers, journal):
    began = time.monotonic()
    assert run(workers("ok 1", "hang 2", limit=60.0), journal, seconds=4.0) == "out of time"
    assert time.monotonic() - began < 30 and child_is_gone(journal)
    assert journal.of("cases")["ok 1"].state == DONE and not journal.ended("cases", "hang 2")
    assert run(workers("ok 1", "hang 2"), journal, seconds=-1.0) == "out of time"
    assert run(workers("ok 1", "hang 2", limit=0.2), journal) == ""
    assert journal.of("cases")["hang 2"].reason == "stopped after 0.2 s"


def test_a_worker_that_cannot_start_is_not_started_for_ever(workers, journal, monkeypatch):
    task = workers()
    broken = [sys.executable, "-c", "import sys; sys.exit('no module named nothing')"]
    monkeypatch.setattr(report, "_command", lambda stage, task: broken)
    assert run(task, journal) == "its process ended with status 1 before anything was done: no module named nothing"


def test_two_calls_with_real_workers(tmp_path, monkeypatch):
    """A lost device costs one item, nothing is done twice, and the second call does all again, as it is asked to."""
    monkeypatch.setenv("HSR_COMMIT", "abc")
    journal = Journal(tmp_path / "journal.jsonl")

    def call(rehearsal: str, again: bool = False) -> int:
        monkeypatch.setenv("HSR_GPU_REHEARSAL", rehearsal)
        before = journal.path.stat().st_size if journal.path.exists() else 0
        name = "bias_act_fp32_last"
        report.report(tmp_path, ["cases"], name, tiny=False, seconds=300, again=again, say=said.append)
        journal.refresh()
        return journal.path.read_bytes()[before:].count(b'"began"')

    said: list[str] = []
    every = call("lost=forward, triton, eager")
    assert "commit abc" in said[0] and "chip none: a rehearsal" in said[0]
    (lost,) = [name for name, entry in journal.of("cases").items() if entry.reason]
    assert lost == "bias_act_fp32_last, forward, triton, eager" and every == len(journal.of("cases")) > 10
    text = (tmp_path / "gpu.md").read_text()
    assert "forward, triton eager: RuntimeError: rehearsed" in text and "none: a rehearsal" in text
    assert "reached (" not in text, "a rehearsal judges nothing"
    machine = journal.machine
    monkeypatch.setattr(report, "_machine", lambda seconds: {k: v for k, v in machine.items() if k != "sizes"})
    # The large copy is no part of that case.
    assert call("1", again=True) == every - 1
    assert not any(entry.reason for entry in journal.of("cases").values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("command, sentence", (
    pytest.param(lambda: cli.main(["gpu-report", "--out", "out"]),
                 "gpu-report needs a CUDA device, and PyTorch sees none; `roofline` works without one", id="report"),
    pytest.param(lambda: once.main("bias_act_bf16", "forward", "cuda", tiny=False),
                 "benchmarks.once needs a CUDA device, and PyTorch sees none", id="once"),
))  # fmt: skip
def test_without_a_gpu_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, command, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command()
    assert (stop.value.code, capsys.readouterr().err.strip()) == (2, sentence)
    assert not (tmp_path / "out").exists()


def test_bad_arguments_end_in_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "_machine", lambda seconds: {"chip": "none"})
    file = tmp_path / "file"
    file.write_text("")
    for options, sentence in (
        (["gpu-report", "--out", str(tmp_path), "--stages", "tests,nonsense"], "--stages must be a comma-separated"),
        (["gpu-report", "--out", str(tmp_path), "--case", "nonsense"], "no case is called 'nonsense'; there are "),
        (["gpu-report", "--out", str(tmp_path), "--minutes", "nan"], "--minutes must be above 0, got nan"),
        (["gpu-report", "--out", str(tmp_path), "--since", "0"], "--since must be less than --minutes ago, and 0 was"),
        (["gpu-report", "--out", str(file / "x")], "--out must be a folder that can be written to"),
        (["gpu-cache", str(tmp_path / "x.zip")], "OUT must be a file in an existing folder whose name ends in .tar.xz"),
        (["gpu-unpack", str(tmp_path / "none"), str(tmp_path)], "No such file"),
        (["gpu-unpack", str(file), str(tmp_path)], "is no archive of gpu-cache"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(options)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and sentence in error and error.count("\n") == 1


def test_the_documented_commands_can_be_parsed():
    """As they are to be typed, up to the time that the shell fills in; short enough to be passed on as one line."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "gpu-run.md").read_text(), re.DOTALL)
    calls = [block for block in blocks if "gpu-report" in block]
    assert len(calls) == 3 and all(len(call) < 2000 for call in calls)
    commands = re.findall(r"-m benchmarks (.*?)(?: &&.*)?$", "\n".join(blocks), re.MULTILINE)
    for command in commands:
        given = cli.parser().parse_args(shlex.split(command.replace("$began", "0")))
        if "stages" in given:
            assert given.minutes <= 9.5 and report.parse_stages(given.stages)
    assert len(commands) == 1 + 3 + 5


def test_a_copy_without_git_is_told_its_commit(monkeypatch):
    monkeypatch.setenv("HSR_COMMIT", "0123abc")
    assert commit() == "0123abc"
    monkeypatch.delenv("HSR_COMMIT")
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit() == "unknown"


# Packages that a machine with a GPU may lack.
_ABSENT = ("tyro", "rich", "tensorboard", "timm", "sklearn", "safetensors", "PIL")
_WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
class Present(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {_ABSENT!r} else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Present
"""


def test_a_gpus_machine_needs_no_other_packages(tmp_path):
    """All modules of its commands and tests are imported, and a training step is run, which takes most of `hsr`."""
    folders = [ROOT / "benchmarks" / "gpu", ROOT / "benchmarks" / "tune", ROOT / "tests" / "ops"]
    paths = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    script = f"""
import importlib
from pathlib import Path
import pytest
imported = []
for name in ("benchmarks.__main__", "benchmarks.once", "hsr_kernels.doctor", *{modules!r}):
    try:
        importlib.import_module(name)
        imported.append(name)
    except pytest.skip.Exception:
        assert name.startswith("tests.ops."), name
assert {{"tests.ops.test_gpu", "tests.ops.test_parity"}} <= set(imported), imported
from benchmarks.gpu import worker
from benchmarks.gpu.journal import Journal
folder = Path({str(tmp_path)!r})
journal = Journal(folder / "journal.jsonl")
journal.name({{}})
assert worker.main("cases", worker.Task(folder, "training_256", True)) == 0
"""
    command = [sys.executable, "-c", _WITHOUT + script]
    environment = os.environ | {"HSR_GPU_REHEARSAL": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    journal = Journal(tmp_path / "journal.jsonl")
    journal.refresh()
    reasons = {name: entry.reason for name, entry in journal.of("cases").items()}
    assert [name for name, reason in reasons.items() if reason and "training_256_hsr" not in name] == []
    assert sum("training_256," in name for name in reasons) == 9, "three passes of three variants"
    absent = [reason for name, reason in reasons.items() if "training_256_hsr" in name and ", baseline," not in name]
    assert len(absent) == 3 and all("No module named" in reason for reason in absent), "its encoder is a package's"
