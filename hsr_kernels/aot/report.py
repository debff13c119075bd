# SPDX-License-Identifier: Apache-2.0
"""Tables of compiled kernels, for people and for machines."""

import csv
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from .build import Build
from .native import CudaBuild
from .record import Launch

HEADER = ("kernel", "configuration", "arch", "registers", "spills", "shared", "tensor core")


def sampled(launches: Iterable[Launch]) -> list[Launch]:
    """Of each kernel, dtype and way to multiply float32 the launch with the largest tile.

    float32 as tf32 has tiles of its own: the largest of all is no sample of those of ieee.
    """
    largest: dict[tuple[str, str, object], Launch] = {}
    for launch in sorted(launches, key=lambda launch: launch.size):
        largest[launch.kernel, launch.dtypes, launch.constexprs.get("PRECISION")] = launch
    return list(largest.values())


def configuration(launch: Launch) -> str:
    """What a kernel was compiled for, as far as people care: dtypes, constants, launch options."""
    values = [f"{name}={value}" for name, value in launch.constexprs.items()]
    options = {"num_warps": "warps", "num_stages": "stages"}
    return " ".join([launch.dtypes, *values, *(f"{options.get(k, k)}={v}" for k, v in launch.options.items())])


def table(builds: Sequence[Build], compiled: Sequence[CudaBuild] = ()) -> Table:
    """One row per kernel, configuration and chip: the worst of those that differ only in alignment and the like."""
    view = Table(*HEADER, box=SIMPLE)
    for column in view.columns[3:6]:
        column.justify = "right"
    for row in (*rows(builds), *sorted(b.row for b in compiled)):
        view.add_row(*row)
    return view


def rows(builds: Sequence[Build]) -> list[tuple[str, ...]]:
    """The lines of `table`."""

    def key(build: Build) -> tuple[str, str, int]:
        return build.launch.kernel, configuration(build.launch), build.chip.number

    lines = []
    for (kernel, text, _), group in itertools.groupby(sorted(builds, key=key), key):
        alike = list(group)
        numbers = (max(b.registers for b in alike), max(b.spills for b in alike), max(b.shared for b in alike))
        cores = " / ".join(dict.fromkeys(b.tensor_core for b in alike))
        lines.append((kernel, text, alike[0].chip.name, *map(str, numbers), cores))
    return lines


def write_csv(path: Path, builds: Sequence[Build], compiled: Sequence[CudaBuild] = ()) -> None:
    """One line per compiled kernel, with all that it was compiled for."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*(name.replace(" ", "_") for name in HEADER), "signature", "attributes", "problems"))
        for b in builds:
            writer.writerow(
                (
                    b.launch.kernel, configuration(b.launch), b.chip.name, b.registers, b.spills, b.shared,
                    b.tensor_core, b.launch.signature, b.launch.attributes, "; ".join(b.problems),
                )
            )  # fmt: skip
        for native in compiled:
            writer.writerow((*native.row, "", "", "; ".join(native.problems)))
