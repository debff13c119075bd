# SPDX-License-Identifier: Apache-2.0
"""Every value of an experiment as JSON, which is part of its page, and the seeds of such a file again."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hsr.errors import UserError, reading
from hsr.files import replacing

from .command import Experiment
from .findings import MEAN, SHOWN, Findings
from .statistics import paired_change


def page_values(findings: Findings) -> dict[str, Any]:
    """Returns all values and differences as JSON values."""
    results = []
    for (metric, network), of_arms in findings.values.items():
        entry: dict[str, Any] = {"metric": metric, "network": network, "values": of_arms}
        if metric in SHOWN:
            kind = "relative" if SHOWN[metric][1] is paired_change else "absolute"
            changes = {arm: asdict(findings.change(metric, network, arm)) for arm in findings.arms}
            against = [
                {"arm": arm, "control": control} | asdict(findings.change(metric, network, arm, control))
                for arm, control in findings.controlled
            ]
            entry |= {"kind of change": kind, "changes": changes, "changes against controls": against}
        results.append(entry)
    return {
        "preset": findings.experiment.name,
        "group": findings.experiment.group,
        "machines": findings.machines,
        "seeds": findings.seeds,
        "plan": findings.plan,
        "seconds per kimg": findings.times,
        **_setup(findings.experiment),
        "results": results,
        "attributes": [
            {"attribute": name, "network": network}
            | {"als": {arm: [score.als for score in of_seeds] for arm, of_seeds in of_arms.items()}}
            | {"range": {arm: [score.range for score in of_seeds] for arm, of_seeds in of_arms.items()}}
            for (network, name), of_arms in findings.attributes.items()
        ],
    }


def _setup(experiment: Experiment) -> dict[str, Any]:
    """Returns what two experiments must have in common for their seeds to be of one."""
    preset = experiment.preset
    return {
        "settings": json.loads(preset.config.to_json()),
        "arms": {name: asdict(arm) for name, arm in experiment.arms.items()},
        "arm_kimg": preset.arm_kimg,
        "sizes": asdict(preset.sizes),
    }


def restore_seeds(experiment: Experiment, path: Path) -> list[int]:
    """Writes the results of the seeds of a page's JSON where `run_seed` would; returns those that weren't there.

    So an experiment may go on where its runs aren't at hand any more. Of a seed comes back what the page has of it.

    Raises:
        UserError: The file can't be read, or is of other arms or settings.
    """
    with reading(path, "the values of an experiment"):
        found = json.loads(path.read_text())
        records = _records(found)
    if changed := [name for name, value in _setup(experiment).items() if found.get(name) != value]:
        raise UserError(f"The seeds of {path} aren't of this experiment: {', '.join(changed)} were others.")
    restored = [record for record in records if not experiment.results(record["seed"]).exists()]
    for record in restored:
        target = experiment.results(record["seed"])
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")
    return [record["seed"] for record in restored]


def _records(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the results of each seed of a page's JSON, as `run_seed` writes them."""
    records = []
    for index, seed in enumerate(found["seeds"]):
        details: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        for entry in found["attributes"]:
            if MEAN not in entry["attribute"]:
                for arm in entry["als"]:
                    scores = {"als": entry["als"][arm][index], "range": entry["range"][arm][index]}
                    details.setdefault((entry["network"], arm), {})[entry["attribute"]] = scores
        results = []
        for entry in found["results"]:
            for arm, values in entry["values"].items():
                result = {"subject": arm, "value": values[index]} | {key: entry[key] for key in ("metric", "network")}
                has_details = entry["metric"] == "als_shared"
                results.append(result | {"details": details[entry["network"], arm] if has_details else {}})
        times = {arm: {"seconds_per_kimg": of_seeds[index]} for arm, of_seeds in found["seconds per kimg"].items()}
        records.append({"seed": seed, "machine": found["machines"][index], "times": times, "results": results})
    return records
