# SPDX-License-Identifier: Apache-2.0
"""The metrics of all arms of a seed: by both networks, with the same codes, and attributes by classifiers of reals."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hsr.data import ImageDataset
from hsr.evaluation.evaluation import Evaluation, Sizes
from hsr.evaluation.learning import learn_attributes
from hsr.evaluation.results import Result
from hsr.evaluation.subjects import load_subjects
from hsr.semantics.encoders import Encoder

# By the kind of judge. What takes long is measured by one of them alone.
METRICS = {
    "squeezenet": ("ppl2_wend", "ppl_wfull", "path_relative", "fd", "prdc", "als", "linear_separability", "feature_r2"),
    "lite0": ("ppl2_wend", "fd", "als", "feature_r2"),
}


def measure_arms(
    weights: Mapping[str, Path],
    judges: Mapping[str, Encoder],
    dataset: ImageDataset,
    sizes: Sizes,
    device: torch.device,
    console: Console,
) -> list[dict[str, Any]]:
    """Returns the results of all arms of a seed, as JSON values, with the names of arms as subjects.

    Args:
        weights: File of weights of each arm.
        judges: Networks that measure, by their kinds.
        dataset: Real images, which also teach the classifiers of attributes.
        sizes: How much is measured.
        device: Where the networks of all are.
        console: Where to show the progress.
    """
    subjects = [
        dataclasses.replace(subject, name=name)
        for name, subject in zip(weights, load_subjects(list(weights.values()), device), strict=True)
    ]
    results: list[Result] = []
    for kind, judge in judges.items():
        evaluation = Evaluation(
            subjects,
            sizes,
            device,
            features=judge,
            distance=judge,
            classifier=learn_attributes(judge, dataset, device, console=console),
            reals=dataset,
            console=console,
        )
        results += evaluation.measure(METRICS[kind])
    return [dataclasses.asdict(result) for result in results]
