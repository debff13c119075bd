# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: weights for use, and the full state for a bit-exact continuation, both safetensors.

A run folder holds `checkpoints/<kimg>.safetensors` with the weights of all networks, and one
`checkpoints/state.safetensors` with what else training needs (optimizers, random generators, counters), which
names the weights it belongs to. The weights are written first and each file appears by an atomic rename, so
the state always names complete weights. Nothing is pickled: reading a checkpoint executes no code.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import UserError
from .trainer import Trainer

STATE = "state.safetensors"
SPARE_BYTES = 2**20  # Kept free for logs and pictures.


@dataclass(frozen=True)
class Header:
    """What a checkpoint file says about itself."""

    config: Config
    resolution: int
    num_classes: int
    images_seen: int


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, run: Path):
        self.folder = run / "checkpoints"
        self.folder.mkdir(exist_ok=True)

    def save(self, trainer: Trainer, extra: dict[str, Any], keep: int) -> Path:
        """Writes weights and state, then removes all but the last `keep` weights.

        Args:
            trainer: What to save.
            extra: Further JSON values to store with the state.
            keep: Number of weight files that stay.

        Raises:
            UserError: The disk is full; the previous checkpoint is intact.
        """
        weights = prefixed({name: module.state_dict() for name, module in trainer.modules().items()})
        state = prefixed(
            {
                "opt_G": _moments(trainer.opt_G),
                "opt_D": _moments(trainer.opt_D),
                "loss": trainer.loss.state_dict(),
                "rng": _random_state(trainer.device),
            }
        )
        path = self.folder / f"{trainer.images_seen / 1000:010.3f}.safetensors"
        self.require_space(sum(t.nbytes for t in [*weights.values(), *state.values()]))
        header = {
            "config": json.loads(trainer.config.to_json()),
            "resolution": trainer.G.resolution,
            "num_classes": trainer.c_dim,
            "images_seen": trainer.images_seen,
        }
        _write(weights, path, header)
        counters = {"weights": path.name, "steps": trainer.steps, "images_seen": trainer.images_seen}
        _write(state, self.folder / STATE, counters | extra)
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

    def weights(self) -> list[Path]:
        """Returns the files with weights, oldest first."""
        return sorted(p for p in self.folder.glob("*.safetensors") if p.name != STATE)


def restore(trainer: Trainer, run: Path) -> dict[str, Any]:
    """Loads weights and state of a run's last checkpoint, and returns the state's JSON values.

    Raises:
        UserError: There is none, or it does not fit the trainer.
    """
    state, counters = _read(run / "checkpoints" / STATE)
    load_weights(run / "checkpoints" / counters["weights"], trainer.modules())
    groups = unprefixed(state)
    for name, optimizer in (("opt_G", trainer.opt_G), ("opt_D", trainer.opt_D)):
        _restore_moments(optimizer, groups.get(name, {}))
    trainer.loss.load_state_dict(groups["loss"])
    trainer.steps, trainer.images_seen = counters["steps"], counters["images_seen"]
    torch.set_rng_state(groups["rng"]["cpu"])
    if trainer.device.type == "cuda" and "cuda" in groups["rng"]:
        torch.cuda.set_rng_state(groups["rng"]["cuda"], trainer.device)
    return counters


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
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})["hsr"])
        config = Config.from_dict(values["config"], str(path))
        return Header(config, values["resolution"], values["num_classes"], values["images_seen"])
    except (OSError, safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def find_weights(path: Path) -> Path:
    """Returns the file of weights that `path`, a file or a run folder, stands for.

    Raises:
        UserError: There is none.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if path.is_file():
        return path
    files = sorted(p for p in path.glob("checkpoints/*.safetensors") if p.name != STATE)
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
    part = path.with_suffix(".part")
    try:
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        part.touch()
        mode = part.stat().st_mode  # safetensors would leave the file to its owner alone.
        safetensors.torch.save_file(contiguous, part, metadata={"hsr": json.dumps(header)})
        part.chmod(mode)
        os.replace(part, path)
    except (OSError, safetensors.SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error}).") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["hsr"])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as a checkpoint ({error}).")


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
