# SPDX-License-Identifier: Apache-2.0
"""Counts in a file, and those that have grown since."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

FILE = Path(__file__).with_name("recorded.csv")
COMMAND = "python -m benchmarks counts --write"
# Times the recorded count: what is more is a fault.
MAX_GROWTH = 1.1


@dataclass(frozen=True)
class Counts:
    """What one pass of a case does, however long it takes.

    Attributes:
        backend, case, phase: What ran.
        calls: Calls of this library's Python functions; None where they aren't counted.
        kernels: Native kernels that were called, or Triton kernels that were launched.
        operations: Of PyTorch's, those that compute.
        bytes: What operations and kernels take and return.
        allocated: Bytes of fresh memory; None where they aren't counted.
    """

    backend: str
    case: str
    phase: str
    calls: int | None
    kernels: int
    operations: int
    bytes: int
    allocated: int | None

    @property
    def name(self) -> str:
        return f"{self.backend}, {self.case}, {self.phase}"


# These also depend on what PyTorch does within, so they are compared with the same PyTorch only.
OF_PYTORCH = ("operations", "bytes", "allocated")
COUNTED = ("calls", "kernels", *OF_PYTORCH)


def pytorch() -> str:
    """PyTorch's version, as far as counts depend on it."""
    return ".".join(torch.__version__.split(".")[:2])


def write(counts: Iterable[Counts], path: Path = FILE) -> None:
    """Records counts, with PyTorch's version."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*(field.name for field in fields(Counts)), "pytorch"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(one) | {"pytorch": pytorch()} for one in counts)


def read(path: Path = FILE) -> tuple[dict[str, Counts], str]:
    """Returns what was recorded, by name, and with which PyTorch."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    version = rows[0]["pytorch"]
    numbers = [{name: int(row[name]) if row[name] else None for name in COUNTED} for row in rows]
    texts = [{name: row[name] for name in ("backend", "case", "phase")} for row in rows]
    read = [Counts(**(text | number)) for text, number in zip(texts, numbers, strict=True)]  # type: ignore[arg-type]
    return {one.name: one for one in read}, version


def compared(version: str) -> tuple[str, ...]:
    """The names of the counts that can be compared with those that were recorded with a version of PyTorch."""
    return COUNTED if version == pytorch() else tuple(name for name in COUNTED if name not in OF_PYTORCH)


def faults(counts: Iterable[Counts], recorded: dict[str, Counts], names: tuple[str, ...] = COUNTED) -> Iterator[str]:
    """Yields a sentence for each count that has grown, and for each pass that was counted on one side only."""
    missing = dict(recorded)
    for now in counts:
        before = missing.pop(now.name, None)
        if before is None:
            yield f"{now.name} isn't recorded: {COMMAND}"
            continue
        for name in names:
            new, old = getattr(now, name), getattr(before, name)
            if new is not None and old is not None and new > MAX_GROWTH * old:
                yield f"{now.name}: {name} grew from {old} to {new}{f' ({new / old:.2f}x)' if old else ''}"
    yield from (f"{name} is recorded and wasn't counted: {COMMAND}" for name in missing)


def gains(counts: Iterable[Counts], recorded: dict[str, Counts], names: tuple[str, ...] = COUNTED) -> int:
    """How many passes have a count that has become smaller, so that recording again would guard more."""

    def gained(now: Counts) -> bool:
        before = recorded.get(now.name)
        pairs = [(getattr(now, name), getattr(before, name)) for name in names] if before else []
        return any(new is not None and old is not None and new < old for new, old in pairs)

    return sum(map(gained, counts))
