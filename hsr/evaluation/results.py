# SPDX-License-Identifier: Apache-2.0
"""What an evaluation has found: as a table, and as JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from ..files import replacing


@dataclass(frozen=True)
class Result:
    """A value of a metric.

    Attributes:
        subject: Name of the generator.
        metric: Name of the metric.
        value: The value; NaN if there is none, as `note` says.
        network: Name of the network that it was measured with, and of what else it depends on.
        low: Lower end of the 95% interval of its sampling error; None where there is none.
        high: Upper end of it.
        note: What it is of, such as the numbers of images.
        details: Further JSON values, which the table leaves out.
    """

    subject: str
    metric: str
    value: float
    network: str
    low: float | None = None
    high: float | None = None
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The value with its interval."""
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def results_table(results: Sequence[Result]) -> Table:
    """Returns a table with a row for each metric and network, and a column for each generator."""
    subjects = list(dict.fromkeys(result.subject for result in results))
    table = Table()
    table.add_column("metric")
    for subject in subjects:
        table.add_column(subject, justify="right", overflow="fold")
    table.add_column("measured with", overflow="fold")
    table.add_column("of", overflow="fold")
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for result in results:
        rows.setdefault((result.metric, result.network, result.note), {})[result.subject] = result.text
    for (metric, network, note), values in rows.items():
        table.add_row(metric, *(values.get(subject, "—") for subject in subjects), network, note)
    return table


def write_results(results: Sequence[Result], settings: dict[str, Any], path: Path) -> None:
    """Writes results as JSON, with the settings that they were measured under; a missing value is null.

    Raises:
        UserError: The file can't be written.
    """
    contents = {"settings": settings, "results": [_plain(asdict(result)) for result in results]}
    with replacing(path) as part:
        part.write_text(json.dumps(contents, indent=1) + "\n")


def _plain(value: Any) -> Any:
    """Returns a value with null in the place of NaN and infinity, which JSON doesn't have."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
