# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures of all tests."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest
import torch
from torch.utils import deterministic

from benchmarks.gpu.journal import Journal
from tests.selection import SELECTION

# There is nothing to compile where kernels are interpreted.
_COMPILER_TESTS = ("ops/test_aot.py", "ops/test_vector_access.py")
# None of these tests is of interpreted or emulated kernels, and what they import takes seconds.
_FOLDERS_WITHOUT_KERNELS = ("hsr", "packaging")


def pytest_configure(config):
    # Jobs in the background of a shell or under nohup ignore these, and so would the processes that tests interrupt.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    # Programs that tests start compute little, and threads wait for each other where other tests keep all cores busy.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # "full" isn't a kind of tests, but asks for all of a kind: `pytest -m full`, `pytest -m "interpret and full"`.
    words = config.option.markexpr.split(" and ")
    config.option.markexpr = " and ".join(word for word in words if word != "full")
    # Triton reads this where kernels are defined, so the interpreter has a test process of its own.
    if config.option.markexpr == "interpret":
        os.environ["TRITON_INTERPRET"] = "1"
    if config.option.markexpr == "emulate":
        from tests.emulator.build import build

        os.environ["HSR_CUDA_EMULATED"] = str(build("_cuda_emulated"))
    SELECTION.runs_everything = "full" in words
    SELECTION.has_gpu = torch.cuda.is_available() or _rehearsing()
    if os.environ.get("TRITON_INTERPRET") == "1":
        SELECTION.kind = "interpret"
    elif os.environ.get("HSR_CUDA_EMULATED"):
        SELECTION.kind = "emulate"


def pytest_ignore_collect(collection_path):
    """Leaves out files in which no test is of the kind that this process runs."""
    left_out = _FOLDERS_WITHOUT_KERNELS if SELECTION.kind else ()
    left_out += _COMPILER_TESTS if SELECTION.kind == "interpret" else ()
    return True if collection_path in [Path(__file__).parent / name for name in left_out] else None


def pytest_collection_modifyitems(config, items):
    """Leaves out what this process can't run: interpreted and emulated kernels elsewhere, a GPU's without one."""
    tested = _tested_before()
    ran, left_out = [], []
    for item in items:
        runs = item.nodeid not in tested and SELECTION.runs({mark.name for mark in item.iter_markers()})
        (ran if runs else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = ran


def _rehearsing() -> bool:
    """Whether a GPU's tests are to be collected where there is none, as a rehearsal of the GPU report asks."""
    return bool(os.environ.get("HSR_GPU_REHEARSAL")) and not torch.cuda.is_available()


def _tested_before() -> set[str]:
    """The tests that the GPU report's journal has, as far as it was written when the report began these."""
    if not os.environ.get("HSR_JOURNAL"):
        return set()
    journal = Journal(Path(os.environ["HSR_JOURNAL"]))
    # All processes of pytest-xdist must leave out the same, also one that comes later in the place of a crashed one.
    journal.refresh(int(os.environ["HSR_JOURNAL_BYTES"]))
    return {name for name in journal.of("tests") if journal.ended("tests", name)}


def _is_worker() -> bool:
    """Whether this is one of the processes of pytest-xdist, whose main process hears of all tests."""
    return "PYTEST_XDIST_WORKER" in os.environ


def pytest_runtest_logstart(nodeid):
    """Notes in the GPU report's journal that a test begins."""
    if os.environ.get("HSR_JOURNAL") and not _is_worker():
        Journal(Path(os.environ["HSR_JOURNAL"])).begin("tests", nodeid)


def pytest_runtest_logreport(report):
    """Notes what became of a test in the GPU report's journal, and a failure in its file, at once."""
    if _is_worker():
        return
    if (path := os.environ.get("HSR_FAILURES")) and report.failed:
        with open(path, "a") as file:
            file.write(f"{report.nodeid} [{report.when}]\n{str(report.longrepr)[-1500:]}\n\n")
    if (path := os.environ.get("HSR_JOURNAL")) and (report.when == "call" or not report.passed):
        journal = Journal(Path(path))
        if report.failed:
            journal.fail("tests", report.nodeid, (str(report.longrepr).strip() or "no message").splitlines()[-1])
        else:
            journal.done("tests", report.nodeid, {"outcome": report.outcome})


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Where a GPU's tests are only rehearsed, they are collected and skipped."""
    recorded = item.config.pluginmanager.has_plugin("benchmarks.gpu.recording")
    if _rehearsing() and item.get_closest_marker("gpu") and not recorded:
        pytest.skip("a rehearsal: there is no CUDA device")


# Derandomised: a run that was green stays green. No deadline: the first call of an operator warms caches up.
hypothesis.settings.register_profile("hsr", derandomize=True, deadline=None, max_examples=60, database=None)
hypothesis.settings.load_profile("hsr")


@pytest.fixture(autouse=True, scope="session")
def _interpreter():
    if os.environ.get("TRITON_INTERPRET") == "1":
        from tests import interpreter

        interpreter.mend()


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors gain nothing from threads and wait for each other on a busy machine; test_threads.py sets its own
    number."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    # Not torch.manual_seed, which also walks all accelerators: 5 ms, in every one of thousands of tests.
    torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _device_survives(request):
    """Ends a process whose device doesn't answer any more, after an illegal access for instance.

    Otherwise every later test would fail because of this one.
    """
    yield
    if request.node.get_closest_marker("gpu") is None or not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        if _is_worker():
            # pytest-xdist takes this for this test's failure and starts another process.
            os._exit(1)
        request.session.shouldstop = f"the device was lost: {error}"
        pytest.fail(f"the device was lost: {error}")


@pytest.fixture(autouse=True)
def _default_backend(request):
    """Resets what a test selected, and the choices that it made on a simulated machine, before the next one."""
    # Imported here, as pytest_configure must run first.
    import hsr_kernels

    yield
    hsr_kernels.use_backend(None)
    if "monkeypatch" in request.fixturenames:
        hsr_kernels.reset_choices()


@pytest.fixture
def poisoned_memory():
    """Fresh tensors hold NaN instead of leftovers, so that output which a kernel doesn't write shows."""
    before = torch.get_deterministic_debug_mode(), deterministic.fill_uninitialized_memory
    # Where PyTorch has no deterministic algorithm on GPUs, as of pooling's derivative, a warning will do.
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    yield
    torch.set_deterministic_debug_mode(before[0])
    deterministic.fill_uninitialized_memory = before[1]
