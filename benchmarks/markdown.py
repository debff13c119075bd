# SPDX-License-Identifier: Apache-2.0
"""Numbers and tables as the reports write them."""

from collections.abc import Sequence

NOT_MEASURED = "—"


def number(value: float | None, unit: str = "") -> str:
    """Three digits, or all digits of a number from 1000."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.3g}{unit}" if value < 1000 else f"{value:.0f}{unit}"


def duration(seconds: float | None) -> str:
    """A time in the largest unit that it reaches."""
    if seconds is None:
        return NOT_MEASURED
    unit, size = next(((unit, size) for unit, size in (("s", 1.0), ("ms", 1e-3)) if seconds >= size), ("µs", 1e-6))
    return number(seconds / size, f" {unit}")


def table(header: Sequence[str], alignment: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table.

    Args:
        header: The columns' names.
        alignment: "l" or "r" for each column.
        rows: The cells.
    """
    rule = ["---:" if letter == "r" else "---" for letter in alignment]
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]
