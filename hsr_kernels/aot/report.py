# SPDX-License-Identifier: Apache-2.0
"""Tables of compiled kernels: human-readable, and CSV."""

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
    """Returns the launch with the largest tile of each kernel, dtype and precision of products.

    Products of float32 in tf32 have tiles of their own, so the largest of all tells nothing of those in ieee.
    """
    largest: dict[tuple[str, str, object], Launch] = {}
    for launch in sorted(launches, key=lambda launch: launch.size):
        largest[launch.kernel, launch.dtypes, launch.constexprs.get("PRECISION")] = launch
    return list(largest.values())


def configuration(launch: Launch) -> str:
    """Returns what a kernel was compiled for, human-readable: dtypes, constants, launch options."""
    constants = [f"{name}={value}" for name, value in launch.constexprs.items()]
    abbreviations = {"num_warps": "warps", "num_stages": "stages"}
    options = [f"{abbreviations.get(name, name)}={value}" for name, value in launch.options.items()]
    return " ".join([launch.dtypes, *constants, *options])


def table(builds: Sequence[Build], compiled: Sequence[CudaBuild] = ()) -> Table:
    """Returns a row per kernel, configuration and chip: the maxima of those that differ only in alignment and so on."""
    view = Table(*HEADER, box=SIMPLE)
    for column in view.columns[3:6]:
        column.justify = "right"
    for row in (*rows(builds), *sorted(b.row for b in compiled)):
        view.add_row(*row)
    return view


def rows(builds: Sequence[Build]) -> list[tuple[str, ...]]:
    """Returns the cells of `table`'s rows of Triton kernels."""

    def key(build: Build) -> tuple[str, str, tuple[str, str]]:
        return build.launch.kernel, configuration(build.launch), build.chip.order

    cells = []
    for (kernel, text, _), group in itertools.groupby(sorted(builds, key=key), key):
        variants = list(group)
        resources = [max(getattr(b, name) for b in variants) for name in ("registers", "spills", "shared")]
        tensor_core = " / ".join(dict.fromkeys(b.tensor_core for b in variants))
        cells.append((kernel, text, variants[0].chip.name, *map(str, resources), tensor_core))
    return cells


def write_csv(path: Path, builds: Sequence[Build], compiled: Sequence[CudaBuild] = ()) -> None:
    """Writes one line per compiled kernel, with everything that it was compiled for."""
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
