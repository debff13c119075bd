# SPDX-License-Identifier: Apache-2.0
"""Whether a run can be continued with given settings."""

import dataclasses
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import UserError
from ..weights import find_weights, read_header

# Settings that may change when a run goes on, as they don't change what is trained.
CONTINUABLE = {
    "data",
    "encoder_weights",
    "kimg",
    "tick_kimg",
    "checkpoint_ticks",
    "checkpoints_kept",
    "metrics",
    "metric_ticks",
    "threads",
    "batch_gpu",
}
# Settings of this kind are places, and of no interest to a reader.
_SILENT = {"data", "encoder_weights"}


def check_continuation(run: Path, config: Config) -> list[str]:
    """Compares settings with those that a run's last checkpoint was trained with.

    Returns:
        Sentences on what changes.

    Raises:
        UserError: The run has no checkpoint, or something changes that would make it another run.
    """
    weights = find_weights(run)
    trained = read_header(weights).config
    changes = _changes(trained, config)
    refused = [_describe(name, *values) for name, values in changes.items() if name not in CONTINUABLE]
    if refused:
        raise UserError(
            f"{run} cannot be continued with other settings than it was trained with: {'; '.join(refused)}. Leave "
            f"{'that' if len(refused) == 1 else 'them'} out, or start a new run from its weights with --resume "
            f"{weights}."
        )
    told = [_describe(name, *values) for name, values in changes.items() if name not in _SILENT]
    return [f"Since the last checkpoint, {'; '.join(told)}."] if told else []


def _changes(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the settings that differ, with both values."""
    pairs = {f.name: (getattr(before, f.name), getattr(after, f.name)) for f in dataclasses.fields(Config)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _describe(name: str, before: Any, after: Any) -> str:
    return f"{name} was {_spell(before)} and is {_spell(after)} now"


def _spell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "unset" if value is None else str(value)
