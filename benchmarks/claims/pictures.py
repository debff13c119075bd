# SPDX-License-Identifier: Apache-2.0
"""The pictures of the page: changes of each seed, curves of training, images and edits of each arm."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hsr.errors import UserError, writing
from hsr.evaluation.edits import lines, map_codes
from hsr.evaluation.subjects import Subject, draw, load_subjects
from hsr.images import to_uint8
from hsr.metrics.exact import exact_generator

from ..curves import label_panel, read_run
from .arms import BASELINE, title_of
from .findings import Findings
from .training import FINISHED, WARM_START

CODES_SHOWN = 12
LINES_SHOWN = 2
# Inches of a panel, and dots per inch.
PANEL_WIDTH, PANEL_HEIGHT, DPI = 4.4, 3.2, 100
# Inches of an image in a row, of the titles beside rows, and between blocks of rows.
IMAGE_INCHES, TITLE_INCHES, BLOCK_GAP = 0.64, 2.0, 0.2
# Curves that are further apart than this share a logarithmic axis.
DECADE = 10
CHANGES_SHOWN = ("ppl2_wend", "path_relative", "fd", "als_shared", "linear_separability")
CURVES_SHOWN = ("Loss/G/gan", "Loss/D/gan", "Loss/G/path_length", "Loss/G/hsr")


def draw_pictures(findings: Findings, folder: Path) -> dict[str, Path]:
    """Draws all pictures of a page; returns their paths by name.

    Those of the first seed's runs stay as they are where these runs aren't at hand any more.

    Raises:
        UserError: A picture can't be written, or there are neither the runs nor a picture of them.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.png" for name in ("changes", *_OF_RUNS)}
    draw_changes(findings, paths["changes"])
    experiment = findings.experiment
    runs = experiment.folder(findings.seeds[0])
    has_runs = all((runs / name / FINISHED).exists() for name in (WARM_START, *experiment.arms))
    for name, draw_runs in _OF_RUNS.items():
        if has_runs:
            draw_runs(findings, paths[name])
        elif not paths[name].exists():
            raise UserError(f"{paths[name]} isn't there, and can't be drawn without the runs of {runs}.")
    return paths


def draw_changes(findings: Findings, path: Path) -> None:
    """Draws the ratio of each metric to the baseline's, a dot for each seed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    panels = [(metric, network) for network in findings.networks for metric in CHANGES_SHOWN]
    panels = [panel for panel in panels if panel in findings.values]
    columns = len(CHANGES_SHOWN)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(columns * PANEL_WIDTH * 0.8, rows * PANEL_HEIGHT), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (metric, network) in zip(axes, panels, strict=False):
        of_arms = findings.values[metric, network]
        for position, arm in enumerate(findings.arms):
            ratios = np.divide(of_arms[arm], of_arms[BASELINE])
            jitter = np.linspace(-0.15, 0.15, len(ratios)) if len(ratios) > 1 else np.zeros(len(ratios))
            axis.plot(position + jitter, ratios, "o", ms=4, alpha=0.6)
            change = findings.change(metric, network, arm)
            if np.isfinite(change.low):
                bars = [[change.mean - change.low], [change.high - change.mean]]
                axis.errorbar([position], [1 + change.mean], yerr=bars, fmt="_", color="black", capsize=4, ms=14)
        axis.axhline(1, color="grey", lw=0.8)
        axis.set_title(f"{metric}, {network}", fontsize=8)
        axis.set_xticks(range(len(findings.arms)), findings.arms, rotation=30, ha="right", fontsize=8)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel("of the baseline", fontsize=8)
    with writing(path):
        figure.savefig(path)


def draw_curves(findings: Findings, path: Path) -> None:
    """Draws losses of all arms of the first seed over the images seen."""
    from matplotlib.figure import Figure

    experiment = findings.experiment
    folder = experiment.folder(findings.seeds[0])
    figure = Figure(figsize=(len(CURVES_SHOWN) * PANEL_WIDTH, PANEL_HEIGHT), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, len(CURVES_SHOWN), squeeze=False).flatten()
    for name in (WARM_START, *experiment.arms):
        run = read_run(str(folder / name))
        for axis, scalar in zip(axes, CURVES_SHOWN, strict=True):
            points = run.series.get(scalar, [])
            # An empty line keeps the colours of the arms alike in all panels.
            xy = [list(values) for values in zip(*points, strict=True)] or [[], []]
            axis.plot(*xy, label=title_of(name), lw=1.2)
    for axis, scalar in zip(axes, CURVES_SHOWN, strict=True):
        label_panel(axis, scalar)
        # Targets of different kinds have losses of different orders of magnitude.
        lowest, highest = axis.dataLim.intervaly
        if 0 < DECADE * lowest < highest:
            axis.set_yscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    with writing(path):
        figure.savefig(path)


def _subjects(findings: Findings) -> list[Subject]:
    """Returns the generators of the first seed: that of the warm start, and those of the arms."""
    experiment = findings.experiment
    folder = experiment.folder(findings.seeds[0])
    return load_subjects([folder / name for name in (WARM_START, *experiment.arms)], experiment.device)


def draw_samples(findings: Findings, path: Path) -> None:
    """Draws images of the same codes, a row for each arm."""
    rows = []
    for subject in _subjects(findings):
        z, c = draw(subject, None, CODES_SHOWN, 0)
        with torch.no_grad(), exact_generator(subject.G, findings.experiment.device) as G:
            rows.append(to_uint8(G(z, c, noise_mode="const")))
    _draw_rows(findings, [rows], path)


def draw_strips(findings: Findings, path: Path) -> None:
    """Draws lines in W between the same codes: for each pair of codes, a row for each arm."""
    strips = []
    for subject in _subjects(findings):
        z, c = draw(subject, None, 2 * LINES_SHOWN, 0)
        with torch.no_grad(), exact_generator(subject.G, findings.experiment.device) as G:
            codes = lines(map_codes(G, z, c, findings.experiment.device, len(z)).unflatten(0, (LINES_SHOWN, 2)))
            layers = codes[:, :, None].expand(-1, -1, G.num_ws, -1)
            strips.append([to_uint8(G.synthesis(ws, noise_mode="const")) for ws in layers])
    _draw_rows(findings, list(zip(*strips, strict=True)), path)


def _draw_rows(findings: Findings, blocks: Sequence[Sequence[np.ndarray]], path: Path) -> None:
    """Draws blocks of rows of images [columns, R, R, 3], in each of which the rows are the warm start and all arms."""
    from matplotlib.figure import Figure

    titles = [title_of(name) for name in (WARM_START, *findings.experiment.arms)]
    height = len(blocks) * (len(titles) * IMAGE_INCHES + BLOCK_GAP)
    width = len(blocks[0][0]) * IMAGE_INCHES + TITLE_INCHES
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    for block, part in zip(blocks, figure.subfigures(len(blocks), 1, squeeze=False).flat, strict=True):
        for axis, title, images in zip(part.subplots(len(titles), 1), titles, block, strict=True):
            axis.imshow(np.concatenate(list(images), axis=1), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    with writing(path):
        figure.savefig(path, bbox_inches="tight")


_OF_RUNS = {"curves": draw_curves, "samples": draw_samples, "strips": draw_strips}
