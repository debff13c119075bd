# SPDX-License-Identifier: Apache-2.0
"""Curves of training runs in one picture: what `hsr train` logged, over the images seen."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsr.config import Config, load_config
from hsr.errors import UserError, reading, writing
from hsr.weights import read_header

from .messages import fail

# Inches of a panel, and dots per inch.
PANEL_WIDTH, PANEL_HEIGHT, DPI = 4.2, 3.0, 100
MAX_COLUMNS = 3


@dataclass(frozen=True)
class Run:
    """The scalars of a run.

    Attributes:
        name: What the legend calls it.
        series: By the name of a scalar, its positions in kimg and its values, in the order of the log.
    """

    name: str
    series: dict[str, list[tuple[float, float]]]


def curves(runs: Sequence[str], out: Path, scalars: str = "") -> None:
    """Draws the scalars of several runs over each other, with a panel for each scalar.

    A run that started from another run's weights is drawn behind that one's images.

    Args:
        runs: Run folders, each as FOLDER or NAME=FOLDER.
        out: The picture, whose ending says the format, such as .png or .svg.
        scalars: Beginnings of the names of scalars, with commas between, in the order of the panels; empty: the
            metrics.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        fail('curves needs Matplotlib: pip install "hsr-kernels[plots]"')
    try:
        read = [read_run(run) for run in runs]
        panels = select(read, [prefix.strip() for prefix in (scalars or "Metrics/").split(",")])
        columns = min(len(panels), MAX_COLUMNS)
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(columns * PANEL_WIDTH, rows * PANEL_HEIGHT), dpi=DPI, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        for axis, scalar in zip(axes, panels, strict=False):
            for run in read:
                points = run.series.get(scalar, [])
                # An empty line keeps the colours of the runs alike in all panels.
                axis.plot(*([list(values) for values in zip(*points, strict=True)] or [[], []]), label=run.name, lw=1.2)
            label_panel(axis, scalar.removeprefix("Metrics/").replace(", ", ",\n"))
        axes[0].legend(fontsize=8)
        with writing(out):
            figure.savefig(out)
    except UserError as error:
        fail(str(error))
    print(f"Wrote {out}.")


def label_panel(axis: Any, title: str) -> None:
    """Gives a panel of scalars over the images seen its title and its grid."""
    axis.set_title(title, fontsize=8)
    axis.set_xlabel("kimg", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)


def read_run(argument: str) -> Run:
    """Reads the log of a run that is named as FOLDER or NAME=FOLDER.

    Raises:
        UserError: There is no such run, or its log can't be read.
    """
    # The words of --desc in a folder's name may hold = themselves.
    name, _, folder = ("", "", argument) if Path(argument).is_dir() else argument.partition("=")
    path = Path(folder or argument)
    before = _kimg_before(load_config(path / "config.json"))
    series: dict[str, list[tuple[float, float]]] = {}
    with reading(path / "log.jsonl", "a log"):
        for line in (path / "log.jsonl").read_text().splitlines():
            event = json.loads(line)
            for key, value in event.items():
                if "/" in key and isinstance(value, int | float):
                    series.setdefault(key, []).append((before + event["kimg"], value))
    return Run(name or path.resolve().name, series)


def select(runs: Sequence[Run], prefixes: Sequence[str]) -> list[str]:
    """Returns the names of scalars of any of the runs that begin with a prefix, in the order of the prefixes.

    Raises:
        UserError: No scalar's name begins with one of them.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.series))
    selected = []
    for prefix in prefixes:
        found = [name for name in names if name.startswith(prefix)]
        if not found:
            raise UserError(f"No scalar's name begins with {prefix!r}: there are {', '.join(names) or 'none'}.")
        selected += found
    return list(dict.fromkeys(selected))


def _kimg_before(config: Config) -> float:
    """Returns the thousands of images that a run's networks had seen in the runs that it goes back to."""
    if config.start is None:
        return 0
    header = read_header(Path(config.start))
    # The networks of other projects have seen an unknown number.
    return 0 if header.source else header.images_seen / 1000 + _kimg_before(header.config)
