# SPDX-License-Identifier: Apache-2.0
"""What an experiment has found, read from the results of its seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hsr.errors import UserError

from .arms import BASELINE, CONTROLS
from .command import Experiment, plan_seeds, read_results
from .statistics import Difference, paired_change, paired_difference

# Metrics that are shown, with what they are called, and how arms are compared: by ratio or by difference.
SHOWN: dict[str, tuple[str, Callable[[Sequence[float], Sequence[float]], Difference]]] = {
    "ppl2_wend": ("path length in w, at path ends", paired_change),
    "ppl_wfull": ("path length in w, whole paths", paired_change),
    "path_relative": ("path length over squared distance of ends", paired_change),
    "fd": ("Frechet distance", paired_change),
    "precision": ("precision", paired_difference),
    "recall": ("recall", paired_difference),
    "coverage": ("coverage", paired_difference),
    "als_shared": ("ALS, sigma of all arms", paired_change),
    "als": ("ALS, sigma of each arm", paired_change),
    "als_squared_shared": ("ALS squared and summed, sigma of all arms", paired_change),
    "als_range_shared": ("range of the edits in sigmas of all arms", paired_change),
    "linear_separability": ("linear separability in w", paired_change),
    "linear_separability_z": ("linear separability in z", paired_change),
    "feature_r2@8": ("R² of encoder features at 8x8", paired_difference),
    "feature_r2@16": ("R² of encoder features at 16x16", paired_difference),
    "feature_r2@32": ("R² of encoder features at 32x32", paired_difference),
    "feature_r2@64": ("R² of encoder features at 64x64", paired_difference),
}


# Between the name of a thing and the number of its values: `tone, mean of 6`.
MEAN = ", mean of "


class EditScore(NamedTuple):
    """How linear the edits of an attribute are, and how far they go."""

    als: float
    range: float


@dataclass(frozen=True)
class Findings:
    """What an experiment has found.

    Attributes:
        experiment: The experiment.
        seeds: The seeds that are measured.
        values: By metric, network and arm, the value of each seed.
        attributes: By network, attribute and arm, the ALS of each seed and the range of its edits, in sigmas of all
            arms. Attributes such as `tone=0` to `tone=5` come with their mean, as `tone, mean of 6`.
        times: By arm, the training time of 1,000 images of each seed, in seconds; None where a training was too short.
        plan: What settled the number of seeds.
        machines: Where and with what each seed was run.
    """

    experiment: Experiment
    seeds: tuple[int, ...]
    values: dict[tuple[str, str], dict[str, list[float]]]
    attributes: dict[tuple[str, str], dict[str, list[EditScore]]]
    times: dict[str, list[float | None]]
    plan: dict[str, Any]
    machines: list[dict[str, str]]

    @property
    def networks(self) -> list[str]:
        """Names of the judges."""
        return list(dict.fromkeys(network for _, network in self.values))

    @property
    def arms(self) -> list[str]:
        """Names of the arms but the baseline."""
        return [name for name in self.experiment.arms if name != BASELINE]

    @property
    def controlled(self) -> list[tuple[str, str]]:
        """Each arm that has controls, with each of these."""
        arms = self.arms
        return [(arm, control) for arm in arms for control in CONTROLS.get(arm, ()) if control in arms]

    def change(self, metric: str, network: str, arm: str, against: str = BASELINE) -> Difference:
        """Returns how an arm differs from another, over the seeds."""
        of_arms = self.values[metric, network]
        return SHOWN[metric][1](of_arms[arm], of_arms[against])


def gather(experiment: Experiment, seeds: int | None) -> Findings:
    """Reads what the measured seeds of an experiment have found.

    Raises:
        UserError: Nothing is measured yet.
    """
    found = [int(path.parent.name.split("-")[1]) for path in experiment.runs.glob(f"seed-*/{experiment.group}.json")]
    plan = plan_seeds(experiment, seeds)
    measured = tuple(seed for seed in sorted(found) if seed < plan["seeds"])
    if not measured:
        raise UserError(f"{experiment.runs} has no results of {experiment.group} yet.")
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    attributes: dict[tuple[str, str], dict[str, list[EditScore]]] = {}
    times: dict[str, list[float | None]] = {}
    machines: list[dict[str, str]] = []
    for seed in measured:
        results = read_results(experiment, seed)
        machines.append(results["machine"])
        for result in results["results"]:
            arm, network = result["subject"], _network(result["network"])
            values.setdefault((result["metric"], network), {}).setdefault(arm, []).append(result["value"])
            if result["metric"] == "als_shared":
                for attribute, score in edit_scores(result["details"]).items():
                    attributes.setdefault((network, attribute), {}).setdefault(arm, []).append(score)
        for arm, time in results["times"].items():
            times.setdefault(arm, []).append(time["seconds_per_kimg"])
    return Findings(experiment, measured, values, attributes, times, plan, machines)


def _network(name: str) -> str:
    """Returns the name of a judge without what else a result depends on."""
    return name.split(",")[0]


def edit_scores(details: Mapping[str, Mapping[str, float]]) -> dict[str, EditScore]:
    """Returns the scores of attributes, and before those that are values of one thing their mean."""
    things: dict[str, dict[str, EditScore]] = {}
    for name, found in details.items():
        things.setdefault(name.split("=")[0], {})[name] = EditScore(found["als"], found["range"])
    scores = {}
    for thing, of_values in things.items():
        if len(of_values) > 1:
            means = (sum(column) / len(column) for column in zip(*of_values.values(), strict=True))
            scores[f"{thing}{MEAN}{len(of_values)}"] = EditScore(*means)
        scores |= of_values
    return scores
