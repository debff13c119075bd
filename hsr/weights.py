# SPDX-License-Identifier: Apache-2.0
"""Files of weights: their names in a run folder, their headers, and the networks that they fill.

Files are safetensors with a JSON header. Nothing is pickled: reading one executes no code.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from .config import Config
from .errors import UserError, exists, reading
from .files import replacing

# The folder of weights and training state in a run folder.
CHECKPOINTS = "checkpoints"
# Of files of weights. In the first the weights of upsampling layers were mirrored.
FORMAT = 2
# Matches whole names alone: a file of any other name belongs to the user.
_WEIGHTS_NAME = re.compile(r"(\d{6,}\.\d{3})\.safetensors")


@dataclass(frozen=True)
class Header:
    """The header of a file of weights.

    `classes` are the labels of its data, in the networks' order. `source` names the project whose file the networks
    were converted from, and is empty for networks of `hsr`'s own. `format` says what the tensors mean.
    """

    config: Config
    resolution: int
    classes: tuple[int, ...]
    images_seen: int
    source: str = ""
    format: int = FORMAT

    @property
    def num_classes(self) -> int:
        """Number of classes that the networks know, 0 for unconditional ones."""
        return len(self.classes)


def weights_name(images_seen: int) -> str:
    """Returns the name of a run's file of weights, such as 000012.345.safetensors after 12,345 images."""
    return f"{images_seen / 1000:010.3f}.safetensors"


def weight_files(folder: Path) -> list[Path]:
    """Returns the files in a folder that are named as a run names its weights, oldest first."""
    matches = [(m, p) for p in folder.iterdir() if (m := _WEIGHTS_NAME.fullmatch(p.name)) and p.is_file()]
    return [path for _, path in sorted(matches, key=lambda pair: float(pair[0][1]))]


def load_weights(path: Path, modules: dict[str, nn.Module]) -> None:
    """Loads a file's weights into modules of the same names.

    Raises:
        UserError: The file cannot be read, or holds networks of another shape.
    """
    fill_modules(split_groups(load_tensors(path)[0]), modules, path)


def fill_modules(groups: dict[str, dict[str, Tensor]], modules: dict[str, nn.Module], path: Path) -> None:
    """Loads the tensors of each module's group into it; a module on the meta device takes them as its own.

    Raises:
        UserError: The networks of `path`, where the groups come from, have another shape.
    """
    for name, module in modules.items():
        expected, loaded = module.state_dict(), groups.get(name, {})
        for key in sorted(expected.keys() | loaded.keys()):
            shapes = [list(d[key].shape) if key in d else "missing" for d in (loaded, expected)]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"{path} is a checkpoint of another shape: {name}.{key} is {shapes[0]} there "
                    f"and {shapes[1]} in the networks of this run."
                )
        is_empty = any(value.is_meta for value in expected.values())
        module.load_state_dict(loaded, assign=is_empty)


def read_header(path: Path) -> Header:
    """Reads the header of a file of weights.

    Raises:
        UserError: It is no such file.
    """
    with reading(path, "a checkpoint"):
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})["hsr"])
        if values.get("format", 1) != FORMAT:
            raise UserError(
                f"{path} was written by another version of hsr, whose upsampling layers mean their weights in another "
                "way: go on with that version, or train again."
            )
        config = Config.from_dict(values["config"], str(path))
        classes = tuple(values["classes"])
        return Header(config, values["resolution"], classes, values["images_seen"], values.get("source", ""))


def find_weights(path: Path) -> Path:
    """Returns the file of weights that `path`, a file or a run folder, stands for.

    Raises:
        UserError: There is none.
    """
    if not exists(path, "a checkpoint"):
        raise UserError(f"{path} does not exist.")
    if not path.is_dir():
        return path
    folder = path / CHECKPOINTS
    with reading(path, "a run folder"):
        files = weight_files(folder) if folder.is_dir() else []
    if not files:
        raise UserError(f"{path} is not a run folder with a checkpoint.")
    return files[-1]


def join_groups(groups: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Joins named groups of tensors into one: {"G": {"w": t}} becomes {"G.w": t}."""
    return {f"{group}.{key}": tensor for group, named in groups.items() for key, tensor in named.items()}


def split_groups(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Undoes `join_groups`."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, key = name.split(".", 1)
        groups.setdefault(group, {})[key] = tensor
    return groups


def save_tensors(tensors: dict[str, Tensor], path: Path, header: dict[str, Any]) -> None:
    """Writes tensors by their names, with a header of JSON values.

    Raises:
        UserError: The file cannot be written.
    """
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as part:
        safetensors.torch.save_file(contiguous, part, metadata={"hsr": json.dumps(header)})


def load_tensors(path: Path, kind: str = "a checkpoint") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the header that `save_tensors` wrote; `kind` is what messages call such a file.

    Raises:
        UserError: The file cannot be read.
    """
    with reading(path, kind), safetensors.safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})["hsr"])
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
