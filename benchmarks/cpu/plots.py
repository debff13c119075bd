# SPDX-License-Identifier: Apache-2.0
"""Curves as pictures: time over an axis, both logarithmic, a panel for each pass."""

from collections.abc import Sequence
from pathlib import Path

from ..messages import fail
from ..variants import REFERENCE
from .scaling import Curve

PANEL_INCHES, DPI = (4.0, 3.4), 120
FORMATS = ("png", "svg")


def check() -> None:
    """Ends the program with a sentence where nothing can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        fail('pictures need Matplotlib: pip install "hsr-kernels[plots]"')


def draw(title: str, axis: str, found: Sequence[Curve], path: Path) -> list[Path]:
    """Draws the curves of a case, with the 20th and 80th percentile and the machine's floor; returns the files.

    Args:
        title: Of the picture.
        axis: What the curves are over.
        found: The curves.
        path: Of the files, without an ending.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    phases = list(dict.fromkeys(curve.phase for curve in found))
    variants = list(dict.fromkeys(curve.variant for curve in found))
    positions = sorted({x for curve in found for x in curve.x})
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * len(phases), height + 0.5), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=10)
    for panel, phase in zip(figure.subplots(1, len(phases), squeeze=False)[0], phases, strict=True):
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        for curve in (curve for curve in found if curve.phase == phase):
            medians = curve.milliseconds
            below, above = [], []
            for median, row in zip(medians, curve.rows, strict=True):
                below.append(max(0.0, median - (row.p20_ms or median)))
                above.append(max(0.0, (row.p80_ms or median) - median))
            label = curve.variant + (f": {axis}^{curve.fit}" if curve.fit is not None else "")
            colour = f"C{variants.index(curve.variant)}"
            panel.errorbar(
                curve.x, medians, [below, above], marker="o", ms=4, lw=1.3, capsize=2, color=colour, label=label
            )
            if curve.variant != REFERENCE and all(row.floor_ms for row in curve.rows):
                floors = [row.floor_ms for row in curve.rows]
                panel.plot(curve.x, floors, ls="--", lw=1, color="0.5", label="the machine's floor")
        panel.set_title(phase, fontsize=9)
        panel.set_xlabel(axis, fontsize=8)
        panel.set_ylabel("ms", fontsize=8)
        panel.xaxis.set_major_locator(FixedLocator(positions))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3, which="major")
        panel.legend(fontsize=7)
    files = [path.with_name(f"{path.name}.{ending}") for ending in FORMATS]
    for file in files:
        figure.savefig(file)
    return files
