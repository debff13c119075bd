# SPDX-License-Identifier: Apache-2.0
"""Which Triton kernels the GPU tests launch: they are run on tensors without data, on a machine without a GPU.

This is a plugin of pytest: `python -m pytest -m gpu -p benchmarks.gpu.recording`. A test's outcome means nothing then,
as tensors have no values to compare; one that needs a value before its last launch hides the launches after it, which
are then compiled when the test runs on a GPU.
"""

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from hsr_kernels.aot import record
from hsr_kernels.aot.record import Launch

from ..device import REHEARSAL
from ..messages import last_line
from ..setting import ROOT
from .testing import EVERY_TEST

ARCH_VARIABLE, FILE_VARIABLE = "HSR_RECORDED_ARCH", "HSR_RECORDED_LAUNCHES"
aten = torch.ops.aten
_launches: dict[str, Launch] = {}
_outcomes: dict[str, int] = {}


def launches(arch: str, arguments: Sequence[str] = EVERY_TEST) -> list[Launch]:
    """Returns the distinct launches of the GPU's tests.

    Args:
        arch: The GPU to pretend, such as "sm_90".
        arguments: pytest's, which select the tests.

    Raises:
        RuntimeError: pytest couldn't run; the message ends in its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "launches"
        environment = os.environ | {ARCH_VARIABLE: arch, FILE_VARIABLE: str(out), REHEARSAL: "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "benchmarks.gpu.recording"]
        command += ["-p", "no:cacheprovider", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if not out.exists():
            raise RuntimeError(f"pytest ended with status {done.returncode}: {last_line(done.stderr, done.stdout)}")
        return pickle.loads(out.read_bytes())


class _Values(TorchDispatchMode):
    """Answers 0 where a test asks a tensor without data for a value: as an error that is within every bound."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default:
            return {torch.bool: False}.get(args[0].dtype, 0.0 if args[0].is_floating_point() else 0)
        if func in (aten.equal.default, aten.is_nonzero.default):
            return func is aten.equal.default
        return func(*args, **(kwargs or {}))


@contextmanager
def _on_cpu() -> Iterator[None]:
    """Lets tensors that a test moves to a GPU stay where they are: the recorder takes them for a GPU's there."""
    to, cuda = torch.Tensor.to, torch.Tensor.cuda

    def stays(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        replaced: list[Any] = ["cpu" if a == "cuda" else a for a in args]
        return to(tensor, *replaced, **kwargs)

    patched: Any = torch.Tensor
    patched.to, patched.cuda = stays, lambda tensor, *_, **__: tensor
    try:
        yield
    finally:
        patched.to, patched.cuda = to, cuda


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out tests that launch no kernel of Triton's."""
    items[:] = [item for item in items if _backend(item) in ("triton", None)]


def _backend(item: pytest.Item) -> str | None:
    return item.callspec.params.get("backend") if hasattr(item, "callspec") else None


def pytest_configure() -> None:
    """Lets the tests draw real inputs: they are drawn again until their values fit."""
    inputs: Any = importlib.import_module("benchmarks.parity.inputs")
    draw = inputs.draw

    def drawn(*args: Any) -> Any:
        with _disable_current_modes():
            return draw(*args)

    inputs.draw = drawn


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Runs a test on tensors without data and keeps what it would have launched."""
    with record.recording(record.CHIPS[os.environ[ARCH_VARIABLE]]) as found, _Values(), _on_cpu():
        try:
            result = yield
            outcome = "ran to their end"
        except Exception as error:
            result, outcome = True, type(error).__name__
    _launches.update(found.launches)
    _outcomes[outcome] = _outcomes.get(outcome, 0) + 1
    return result


def pytest_sessionfinish() -> None:
    """Writes what was found."""
    Path(os.environ[FILE_VARIABLE]).write_bytes(pickle.dumps(list(_launches.values())))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints what became of the tests."""
    terminalreporter.write_line(f"{len(_launches)} launches; tests: {_outcomes}")
