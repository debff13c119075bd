# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: weights for use, and the full state for a bit-exact continuation, both safetensors.

A run folder holds `checkpoints/<kimg>.safetensors` with the weights of all networks, the best of them also as
`checkpoints/best.safetensors`, and one `checkpoints/state.safetensors` with what else training needs (optimizers,
random generators, counters), which names the weights that it belongs to. The weights are written first and each file
appears by an atomic rename, so the state always names complete weights. Nothing is pickled: reading a checkpoint
executes no code.
"""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, reading, writing
from ..files import remove_leftovers, replacing
from ..weights import (
    CHECKPOINTS,
    Header,
    join_groups,
    load_tensors,
    load_weights,
    save_tensors,
    split_groups,
    weight_files,
    weights_name,
)
from .trainer import Trainer

STATE = "state.safetensors"
BEST = "best.safetensors"
# Values of the state that belong to the moment it was saved at.
_COUNTERS = ("weights", "steps", "images_seen")
# Disk space that stays free for logs and pictures.
SPARE_BYTES = 2**20


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, run: Path):
        self.folder = run / CHECKPOINTS
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            remove_leftovers(self.folder)

    def save(self, trainer: Trainer, extra: dict[str, Any], keep: int, is_best: bool = False) -> Path:
        """Writes weights and state, then removes all but the last `keep` files of weights.

        Args:
            trainer: The trainer to save.
            extra: Further JSON values to store with the state.
            keep: Number of files of weights that stay.
            is_best: Keep the weights as the best ones, too.

        Raises:
            UserError: The disk is full, or a weight isn't finite; the previous checkpoint is intact.
        """
        weights = join_groups({name: module.state_dict() for name, module in trainer.modules().items()})
        self._require_finite(weights)
        state = join_groups(
            {
                "opt_G": _moments(trainer.opt_G),
                "opt_D": _moments(trainer.opt_D),
                "loss": trainer.loss.state_dict(),
                "rng": _random_state(trainer.device),
                "skipped_updates": trainer.skipped_updates,
                "adaptation": {} if trainer.adaptation is None else trainer.adaptation.state_dict(),
            }
        )
        path = self.folder / weights_name(trainer.images_seen)
        self.require_space(sum(t.nbytes for t in [*weights.values(), *state.values()]))
        header = Header(trainer.config, trainer.G.resolution, trainer.classes, trainer.images_seen)
        save_tensors(weights, path, dataclasses.asdict(header))
        if is_best:
            self._link(path, BEST)
        counters = {"weights": path.name, "steps": trainer.steps, "images_seen": trainer.images_seen}
        save_tensors(state, self.folder / STATE, extra | counters)
        for previous in self.weights()[:-keep]:
            if previous != path:
                previous.unlink()
        return path

    def _link(self, path: Path, name: str) -> None:
        """Gives a file of weights a second name, which outlives the first one."""
        with replacing(self.folder / name) as part:
            part.unlink()
            try:
                os.link(path, part)
            except OSError:
                # Some file systems have no links.
                shutil.copyfile(path, part)

    def require_space(self, size: int) -> None:
        """Raises `UserError` if `size` bytes do not fit on the disk."""
        needed, free = size + SPARE_BYTES, shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"No space left for a checkpoint: {self.folder} needs {_megabytes(needed)} and has "
                f"{_megabytes(free)}{self._last_checkpoint()}."
            )

    def _last_checkpoint(self) -> str:
        """Returns a clause that names the last good checkpoint, empty if there is none."""
        paths = self.weights()
        return f"; the last good checkpoint is {paths[-1]}" if paths else ""

    def _require_finite(self, weights: dict[str, Tensor]) -> None:
        """Raises `UserError` where a weight is infinite or NaN, as training cannot recover from that."""
        names = [name for name, value in weights.items() if not value.isfinite().all()]
        if names:
            raise UserError(
                f"Training diverged: {len(names)} of {len(weights)} tensors of the networks are not finite, among "
                f"them {names[0]}, so nothing was saved{self._last_checkpoint()}; a larger --gamma may help."
            )

    def weights(self) -> list[Path]:
        """Returns the run's files of weights, oldest first."""
        return weight_files(self.folder)


def restore(trainer: Trainer, run: Path) -> dict[str, Any]:
    """Loads weights and state of a run's last checkpoint.

    Returns:
        The JSON values that were saved with it, without the counters, which go into the trainer.

    Raises:
        UserError: There is none, or it does not fit the trainer.
    """
    path = run / CHECKPOINTS / STATE
    state, values = load_tensors(path)
    with reading(path, "the state of a run"):
        load_weights(run / CHECKPOINTS / values["weights"], trainer.modules())
        groups = split_groups(state)
        for name, optimizer in (("opt_G", trainer.opt_G), ("opt_D", trainer.opt_D)):
            _restore_moments(optimizer, groups.get(name, {}))
        trainer.loss.load_state_dict(groups["loss"])
        if trainer.adaptation is not None:
            trainer.adaptation.load_state_dict(groups["adaptation"])
            if not trainer.ranks.is_main:
                # The main process goes on with what all had collected.
                trainer.adaptation.collected.zero_()
        trainer.steps, trainer.images_seen = values["steps"], values["images_seen"]
        for name, count in groups.get("skipped_updates", {}).items():
            trainer.skipped_updates[name].copy_(count)
        torch.set_rng_state(groups["rng"]["cpu"])
        if trainer.device.type == "cuda" and "cuda" in groups["rng"]:
            torch.cuda.set_rng_state(groups["rng"]["cuda"], trainer.device)
    return {name: value for name, value in values.items() if name not in _COUNTERS}


def _moments(optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": tensor for index, values in state.items() for key, tensor in values.items()}


def _restore_moments(optimizer: torch.optim.Adam, tensors: dict[str, Tensor]) -> None:
    groups = optimizer.state_dict()["param_groups"]
    state = {int(index): values for index, values in split_groups(tensors).items()}
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
