# SPDX-License-Identifier: Apache-2.0
"""Tables of measurements: CSV files with one line per measurement, by which choices between kernels are made."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch

_Line = TypeVar("_Line")


def chip(device: torch.device) -> str:
    """A GPU's compute capability, "9.0", by which tables tell chips apart."""
    return "{}.{}".format(*torch.cuda.get_device_capability(device.index)) if device.type == "cuda" else "none"


def read(table: str, header: Sequence[str], parse: Callable[[Mapping[str, str]], _Line]) -> tuple[_Line, ...]:
    """The lines of a file, each as `parse` makes it of {column: text}.

    Raises:
        ValueError: It isn't such a file; the message says where.
    """
    found = []
    with open(table, newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != tuple(header):
            raise ValueError(f"{table} must begin with the columns {','.join(header)}")
        for row in rows:
            try:
                found.append(parse(row))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{table}, line {rows.line_num}: {error}") from None
    return tuple(found)


def write(table: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """What `read` reads."""
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
