# SPDX-License-Identifier: Apache-2.0
"""The commands that compare counts."""

import importlib.util

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import hsr_kernels

from ..messages import fail
from . import instructions as kernels
from . import recorded
from .recorded import Counts

console = Console(width=150)


def counted() -> list[Counts]:
    """Counts everything that can be counted here."""
    from . import cpu

    found = [*cpu.counts()]
    if importlib.util.find_spec("triton") is not None:
        from . import triton

        found += triton.counts()
    return found


def counts(write: bool = False) -> None:
    """Counts what every pass does, and compares with what is recorded.

    Args:
        write: Record it instead.
    """
    if missing := hsr_kernels.backends(device="cpu")["cpu"]:
        fail(f"there is nothing to count: {missing}")
    with console.status("counting"):
        found = counted()
    if write:
        recorded.write(found)
        console.print(f"written: {recorded.FILE}", highlight=False, soft_wrap=True)
        return
    before, version = recorded.read()
    names = recorded.compared(version)
    if names != recorded.COUNTED:
        left_out = ", ".join(recorded.OF_PYTORCH)
        console.print(f"recorded with PyTorch {version}, this is {recorded.pytorch()}: {left_out} aren't compared")
    if gained := recorded.gains(found, before, names):
        console.print(f"{gained} passes do less than recorded: {recorded.COMMAND}", highlight=False)
    _conclude([*recorded.faults(found, before, names)], f"{len(found)} passes do no more than recorded")


def instructions(write: bool = False, against: str = "", kernel: str = "") -> None:
    """Counts the instructions of each native kernel on one thread, with AVX2.

    Args:
        write: Record them.
        against: A commit whose kernels are built too, and compared with in place of the recorded counts.
        kernel: Only the kernels whose name contains this.
    """
    try:
        if reason := kernels.missing():
            fail(reason)
        names = kernels.select(kernel)
        with console.status("building and counting"):
            now = kernels.count(names)
            before = kernels.count(names, against) if against else {}
        if write:
            kernels.write(now)
            console.print(f"written: {kernels.FILE}", highlight=False, soft_wrap=True)
            return
        if not against:
            before, compiler = kernels.read()
            if compiler != kernels.compiler():
                fail(f"recorded with {compiler}, this is {kernels.compiler()}: compare with --against GITREF")
    except (RuntimeError, ValueError) as error:
        fail(str(error))
    table = Table("kernel", "before", "now", "times", box=SIMPLE)
    for name, number in now.items():
        old = before.get(name)
        table.add_row(name, str(old or ""), str(number), f"{number / old:.3f}" if old else "")
    console.print(table)
    _conclude([*kernels.faults(now, before)], f"{len(now)} kernels take no more instructions")


def _conclude(faults: list[str], sentence: str) -> None:
    for fault in faults:
        console.print(fault, highlight=False, markup=False, style="red")
    if faults:
        raise SystemExit(1)
    console.print(sentence, highlight=False)
    return None
