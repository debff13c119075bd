# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: weights for use, and the full state for a bit-exact continuation, both safetensors.

A run folder holds `checkpoints/<kimg>.safetensors` with the weights of all networks, and one
`checkpoints/state.safetensors` with what else training needs (optimizers, random generators, counters), which
names the weights it belongs to. The weights are written first and each file appears by an atomic rename, so
the state always names complete weights. Nothing is pickled: reading a checkpoint executes no code.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import UserError, exists, reading, writing
from ..files import remove_leftovers, replacing
from .trainer import Trainer

STATE = "state.safetensors"
# The whole name that a run gives a file of weights: anything else in the folder is somebody's own.
_WEIGHTS = re.compile(r"(\d{6,}\.\d{3})\.safetensors")
# What the state says of the moment it was saved at; `extra` values of the same names would be of another moment.
_COUNTERS = ("weights", "steps", "images_seen")
# Kept free for logs and pictures.
SPARE_BYTES = 2**20


@dataclass(frozen=True)
class Header:
    """What a checkpoint file says about itself; `classes` are the labels of its data, in the networks' order."""

    config: Config
    resolution: int
    classes: tuple[int, ...]
    images_seen: int

    @property
    def num_classes(self) -> int:
        """Number of classes that the networks know, 0 for unconditional ones."""
        return len(self.classes)


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, run: Path):
        self.folder = run / "checkpoints"
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            remove_leftovers(self.folder)

    def save(self, trainer: Trainer, extra: dict[str, Any], keep: int) -> Path:
        """Writes weights and state, then removes all but the last `keep` weights.

        Args:
            trainer: What to save.
            extra: Further JSON values to store with the state.
            keep: Number of weight files that stay.

        Raises:
            UserError: The disk is full, or a weight isn't finite; the previous checkpoint is intact.
        """
        weights = prefixed({name: module.state_dict() for name, module in trainer.modules().items()})
        self._require_finite(weights)
        state = prefixed(
            {
                "opt_G": _moments(trainer.opt_G),
                "opt_D": _moments(trainer.opt_D),
                "loss": trainer.loss.state_dict(),
                "rng": _random_state(trainer.device),
                "skipped_updates": trainer.skipped_updates,
            }
        )
        path = self.folder / f"{trainer.images_seen / 1000:010.3f}.safetensors"
        self.require_space(sum(t.nbytes for t in [*weights.values(), *state.values()]))
        header = {
            "config": json.loads(trainer.config.to_json()),
            "resolution": trainer.G.resolution,
            "classes": list(trainer.classes),
            "images_seen": trainer.images_seen,
        }
        _write(weights, path, header)
        counters = {"weights": path.name, "steps": trainer.steps, "images_seen": trainer.images_seen}
        _write(state, self.folder / STATE, extra | counters)
        for old in self.weights()[:-keep]:
            if old != path:
                old.unlink()
        return path

    def require_space(self, size: int) -> None:
        """Raises `UserError` if `size` bytes do not fit on the disk."""
        need, free = size + SPARE_BYTES, shutil.disk_usage(self.folder).free
        if free < need:
            raise UserError(
                f"No space left for a checkpoint: {self.folder} needs {_megabytes(need)} and has "
                f"{_megabytes(free)}{self._last_good()}."
            )

    def _last_good(self) -> str:
        kept = self.weights()
        return f"; the last good checkpoint is {kept[-1]}" if kept else ""

    def _require_finite(self, weights: dict[str, Tensor]) -> None:
        """Raises `UserError` where training has left numbers that nothing can come of."""
        broken = [name for name, value in weights.items() if not value.isfinite().all()]
        if broken:
            raise UserError(
                f"Training diverged: {len(broken)} of {len(weights)} tensors of the networks are not finite, among "
                f"them {broken[0]}, so nothing was saved{self._last_good()}; a larger --gamma may help."
            )

    def weights(self) -> list[Path]:
        """Returns the run's own files with weights, oldest first."""
        return weight_files(self.folder)


def weight_files(folder: Path) -> list[Path]:
    """Returns the files in a folder that bear the name of a run's weights, oldest first."""
    found = [(m, p) for p in folder.iterdir() if (m := _WEIGHTS.fullmatch(p.name)) and p.is_file()]
    return [path for _, path in sorted(found, key=lambda pair: float(pair[0][1]))]


def restore(trainer: Trainer, run: Path) -> dict[str, Any]:
    """Loads weights and state of a run's last checkpoint.

    Returns:
        The JSON values that were saved with it; what belongs to the moment of saving goes into the trainer instead.

    Raises:
        UserError: There is none, or it does not fit the trainer.
    """
    path = run / "checkpoints" / STATE
    state, values = _read(path)
    with reading(path, "the state of a run"):
        load_weights(run / "checkpoints" / values["weights"], trainer.modules())
        groups = unprefixed(state)
        for name, optimizer in (("opt_G", trainer.opt_G), ("opt_D", trainer.opt_D)):
            _restore_moments(optimizer, groups.get(name, {}))
        trainer.loss.load_state_dict(groups["loss"])
        trainer.steps, trainer.images_seen = values["steps"], values["images_seen"]
        for name, count in groups.get("skipped_updates", {}).items():
            trainer.skipped_updates[name].copy_(count)
        torch.set_rng_state(groups["rng"]["cpu"])
        if trainer.device.type == "cuda" and "cuda" in groups["rng"]:
            torch.cuda.set_rng_state(groups["rng"]["cuda"], trainer.device)
    return {name: value for name, value in values.items() if name not in _COUNTERS}


def load_weights(path: Path, modules: dict[str, nn.Module]) -> None:
    """Loads a file's weights into modules of the same names.

    Raises:
        UserError: The file cannot be read, or holds networks of another shape.
    """
    groups = unprefixed(_read(path)[0])
    for name, module in modules.items():
        expected, found = module.state_dict(), groups.get(name, {})
        for key in sorted(expected.keys() | found.keys()):
            shapes = [list(d[key].shape) if key in d else "missing" for d in (found, expected)]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"{path} is a checkpoint of another shape: {name}.{key} is {shapes[0]} there "
                    f"and {shapes[1]} in the networks of this run."
                )
        module.load_state_dict(found)


def read_header(path: Path) -> Header:
    """Reads what a file of weights says about itself.

    Raises:
        UserError: It is no such file.
    """
    with reading(path, "a checkpoint"):
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})["hsr"])
        config = Config.from_dict(values["config"], str(path))
        return Header(config, values["resolution"], tuple(values["classes"]), values["images_seen"])


def find_weights(path: Path) -> Path:
    """Returns the file of weights that `path`, a file or a run folder, stands for.

    Raises:
        UserError: There is none.
    """
    if not exists(path, "a checkpoint"):
        raise UserError(f"{path} does not exist.")
    if not path.is_dir():
        return path
    folder = path / "checkpoints"
    with reading(path, "a run folder"):
        files = weight_files(folder) if folder.is_dir() else []
    if not files:
        raise UserError(f"{path} is not a run folder with a checkpoint.")
    return files[-1]


def prefixed(groups: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Joins named groups of tensors into one: {"G": {"w": t}} becomes {"G.w": t}."""
    return {f"{group}.{key}": tensor for group, named in groups.items() for key, tensor in named.items()}


def unprefixed(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Undoes `prefixed`."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, key = name.split(".", 1)
        groups.setdefault(group, {})[key] = tensor
    return groups


def _moments(optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": tensor for index, values in state.items() for key, tensor in values.items()}


def _restore_moments(optimizer: torch.optim.Adam, tensors: dict[str, Tensor]) -> None:
    groups = optimizer.state_dict()["param_groups"]
    state = {int(index): values for index, values in unprefixed(tensors).items()}
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _write(tensors: dict[str, Tensor], path: Path, header: dict[str, Any]) -> None:
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as part:
        safetensors.torch.save_file(contiguous, part, metadata={"hsr": json.dumps(header)})


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with reading(path, "a checkpoint"), safetensors.safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})["hsr"])
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
