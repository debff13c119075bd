# SPDX-License-Identifier: Apache-2.0
"""The page of what an experiment has found: Markdown, the same as HTML, and every value as JSON, with pictures."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from hsr.files import replacing

from ..markdown import NOT_MEASURED, table
from .arms import ARMS, BASELINE, title_of
from .command import PRIMARY_JUDGE, PRIMARY_METRIC, Experiment
from .findings import SHOWN, Findings, gather
from .pictures import draw_pictures
from .statistics import CLAIMED_RATIO, POWER, Difference, paired_change
from .training import WARM_START
from .values import page_values

_SUBTITLES = {
    "claims": "what the claim comes to",
    "weight": "a tenth of the weight, and ten times the weight",
    "search": "other ways to use it",
}
_STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { border: 1px solid #ccc; padding: .3rem .6rem }
td { font-variant-numeric: tabular-nums } img { max-width: 100% } code { background: #f3f3f3 }"""


def write_page(experiment: Experiment, folder: Path, seeds: int | None) -> list[Path]:
    """Writes the page of an experiment, and returns its files.

    Raises:
        UserError: Nothing is measured yet, or a file can't be written.
    """
    findings = gather(experiment, seeds)
    stem = experiment.page_name
    shown = draw_pictures(findings, folder / stem)
    text = "\n".join(page_lines(findings, {name: f"{stem}/{path.name}" for name, path in shown.items()})) + "\n"
    body = MarkdownIt("commonmark").enable("table").render(text)
    title = f"HSR on {experiment.preset.title}"
    contents = {
        f"{stem}.md": text,
        f"{stem}.html": f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style>\n{body}</html>\n",
        f"{stem}.json": json.dumps(page_values(findings), indent=1) + "\n",
    }
    for name, content in contents.items():
        with replacing(folder / name) as part:
            part.write_text(content)
    return [folder / name for name in contents] + list(shown.values())


def page_lines(findings: Findings, pictures: Mapping[str, str]) -> list[str]:
    """Returns the lines of the page in Markdown."""
    experiment, preset = findings.experiment, findings.experiment.preset
    config = preset.config
    lines = [
        f"# HSR on {preset.title}: {_SUBTITLES[experiment.group]}",
        "",
        f"For each of {len(findings.seeds)} seeds a baseline is trained for {config.kimg:g} kimg, and from its weights "
        f"every arm for {preset.arm_kimg:g} kimg more, with the same images, codes and noise. All arms of a seed are "
        "measured with the same codes, so that differences are paired; intervals are 95%, by Student's t over seeds. "
        f"Changes are against the {ARMS[BASELINE].title} unless said otherwise.",
        "",
        f"Networks: {preset.resolution}x{preset.resolution} pixels, without classes. Teacher and judges see images "
        f"brought to {preset.image_size} pixels. HSR: weight {preset.hsr_weight:g}, targets {config.hsr_targets}, "
        f"heads {config.hsr_head} of width {config.hsr_hidden}, unless the arm says otherwise.",
        "",
        f"Made by `python -m benchmarks.claims --preset {experiment.name} --group {experiment.group}`: "
        + "; ".join(dict.fromkeys(_machine_text(machine) for machine in findings.machines))
        + ".",
        "",
        *_power_lines(findings),
        *_verdict_lines(findings),
        *_control_lines(findings),
    ]
    for network in findings.networks:
        lines += ["", f"## As {network} judges", "", *_table_lines(findings, network)]
    lines += [
        "",
        "An arm marked *own teacher* is judged by the network that it was trained with, which proves nothing. Lower is "
        "better for path lengths, Frechet distance, ALS and linear separability. An ALS is worth as much as the range "
        "beside it: an edit that changes nothing is perfectly linear.",
    ]
    for network in findings.networks:
        lines += _attribute_lines(findings, network)
    lines += [
        "",
        "## Each seed",
        "",
        f"![Changes of every seed and arm against the baseline]({pictures['changes']})",
        "",
        "*A dot for each seed, and the mean with its 95% interval.*",
        "",
        "## Training",
        "",
        f"![Losses of the arms over the images seen]({pictures['curves']})",
        "",
        *_time_lines(findings),
        "",
        "## Pictures",
        "",
        f"![Images of the same codes, a row for each arm]({pictures['samples']})",
        "",
        f"*Images of the same codes, without truncation, of seed {findings.seeds[0]}.*",
        "",
        f"![Lines in W, a row for each arm]({pictures['strips']})",
        "",
        "*Straight lines in W between two codes, 11 frames: what ALS and path lengths measure.*",
    ]
    return lines


def _machine_text(machine: Mapping[str, str]) -> str:
    return f"commit {machine['commit']}, {machine['processor']}, PyTorch {machine['torch']}"


def _power_lines(findings: Findings) -> list[str]:
    plan, preset = findings.plan, findings.experiment.preset
    unfinished = "" if len(findings.seeds) >= plan["seeds"] else f" Only {len(findings.seeds)} of them are done yet."
    if plan["spread"] is None:
        return [f"Number of seeds: {plan['seeds']}.{unfinished}"]
    return [
        f"Power: over the first {plan['pilot']} seeds the logarithm of the ratio of {PRIMARY_METRIC} between HSR and "
        f"baseline has a standard deviation of {plan['spread']:.3f}. The claimed ratio of {CLAIMED_RATIO:.4g} is then "
        f"seen with {POWER:.0%} probability by {plan['needed']} seeds; {plan['seeds']} are run (at least "
        f"{preset.min_seeds}, and at most {preset.max_seeds} for want of time).{unfinished}"
    ]


def _verdict_lines(findings: Findings) -> list[str]:
    """Returns what the arms come to in the metric of the claim, as the primary judge has it."""
    network = _primary_network(findings)
    if network is None or len(findings.seeds) < 2:
        return []
    claim = CLAIMED_RATIO - 1
    lines = ["", f"The claim is {claim:+.1%} of path length. Of {PRIMARY_METRIC}, as {network} judges:", ""]
    for arm in findings.arms:
        found = findings.change(PRIMARY_METRIC, network, arm)
        lines.append(f"- {ARMS[arm].title}: {_change(findings, PRIMARY_METRIC, network, arm)}, {verdict(found, claim)}")
    return lines


def _primary_network(findings: Findings) -> str | None:
    """Returns the name of the judge of the claim, if that has judged."""
    judges = (network for metric, network in findings.values if metric == PRIMARY_METRIC)
    return next((network for network in judges if network.startswith(PRIMARY_JUDGE)), None)


def _control_lines(findings: Findings) -> list[str]:
    """Returns a table of how HSR differs from its controls, as the primary judge has it."""
    network = _primary_network(findings)
    if network is None or not findings.controlled:
        return []
    header = ["", *(f"{ARMS[arm].title}, against: {ARMS[control].title}" for arm, control in findings.controlled)]
    rows = [
        [SHOWN[metric][0], *(_change(findings, metric, network, *pair) for pair in findings.controlled)]
        for metric in SHOWN
        if (metric, network) in findings.values
    ]
    return [
        "",
        "## Against the controls",
        "",
        "How HSR differs from the arms whose teacher has learned nothing, or whose targets are those of other images, "
        f"as {network} judges. What is owed to semantics shows here.",
        "",
        *table(header, "l" + "r" * (len(header) - 1), rows),
    ]


def verdict(found: Difference, claim: float) -> str:
    """Returns what a change says of a claimed reduction."""
    if not found.low <= claim <= found.high:
        return "less than the claim" if found.low > claim else "more than the claim"
    return "in agreement with the claim" if found.is_significant else "too uncertain to tell the claim from no change"


def _table_lines(findings: Findings, network: str) -> list[str]:
    metrics = [metric for metric in SHOWN if (metric, network) in findings.values]
    header = ["", "warm start", ARMS[BASELINE].title]
    for arm in findings.arms:
        teacher = ARMS[arm].teacher
        is_own = teacher is not None and network.startswith(teacher) and not ARMS[arm].has_random_teacher
        header.append(ARMS[arm].title + (" (*own teacher*)" if is_own else ""))
    rows = []
    for metric in metrics:
        of_arms = findings.values[metric, network]
        cells = [SHOWN[metric][0], *(_mean(of_arms.get(name, [])) for name in (WARM_START, BASELINE))]
        cells += [f"{_mean(of_arms[arm])} ({_change(findings, metric, network, arm)})" for arm in findings.arms]
        rows.append(cells)
    return table(header, "l" + "r" * (len(header) - 1), rows)


def _attribute_lines(findings: Findings, network: str) -> list[str]:
    """Returns a table of the ALS of each attribute, with the range of its edits."""
    scores = {name: of_arms for (judge, name), of_arms in findings.attributes.items() if judge == network}
    if not scores:
        return []
    header = ["", f"ALS, {ARMS[BASELINE].title}", "range", *(ARMS[arm].title for arm in findings.arms)]
    rows = []
    for name, of_arms in scores.items():
        als = {arm: [score.als for score in of_seeds] for arm, of_seeds in of_arms.items()}
        ranges = {arm: [score.range for score in of_seeds] for arm, of_seeds in of_arms.items()}
        cells = [_spell(paired_change(als[arm], als[BASELINE]), is_relative=True) for arm in findings.arms]
        changes = [paired_change(ranges[arm], ranges[BASELINE]).mean for arm in findings.arms]
        cells = [f"{cell}; range {change:+.1%}" for cell, change in zip(cells, changes, strict=True)]
        rows.append([name, _mean(als[BASELINE]), _mean(ranges[BASELINE]), *cells])
    return [
        "",
        f"## ALS of each attribute, as {network} judges",
        "",
        "In sigmas of all arms. Of so many intervals one in twenty leaves out zero by chance alone.",
        "",
        *table(header, "l" + "r" * (len(header) - 1), rows),
    ]


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.4g}" if values else NOT_MEASURED


def _change(findings: Findings, metric: str, network: str, arm: str, against: str = BASELINE) -> str:
    return _spell(findings.change(metric, network, arm, against), is_relative=SHOWN[metric][1] is paired_change)


def _spell(found: Difference, *, is_relative: bool) -> str:
    """Returns a difference with its interval, in bold where that leaves out zero."""
    spell = (lambda x: f"{100 * x:+.1f}%") if is_relative else (lambda x: f"{x:+.3f}")
    text = spell(found.mean)
    if not math.isnan(found.low):
        text += f" [{spell(found.low)}, {spell(found.high)}]"
    return f"**{text}**" if found.is_significant else text


def _time_lines(findings: Findings) -> list[str]:
    rows = []
    for name in (WARM_START, *findings.experiment.arms):
        times = [time for time in findings.times.get(name, []) if time is not None]
        rows.append([title_of(name), f"{statistics.median(times):.1f}" if times else NOT_MEASURED])
    return [
        "Training time of 1,000 images, median over seeds; on CPUs with a thread for each of the seeds run at a time:",
        "",
        *table(["", "seconds"], "lr", rows),
    ]
