# SPDX-License-Identifier: Apache-2.0
"""The images of data sets of Hugging Face `datasets` and of torchvision, which are imported only when one is named."""

import importlib
import inspect
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.attributes import Attributes
from ..data.decoding import open_image
from ..errors import UserError, reading, reason

_HUGGING_FACE, _TORCHVISION = "hf:", "torchvision:"
# Files that `datasets` leaves in a folder that it saves: those of a set, or of several splits.
_SAVED_FILES = (("state.json", "dataset_info.json"), ("dataset_dict.json",))
# Names of columns of labels, in the order of preference.
_LABEL_COLUMNS = ("label", "labels", "class", "fine_label")


def is_hugging_face(source: str) -> bool:
    """Returns whether this names a set of `datasets`, or is a folder that it saved."""
    return source.startswith(_HUGGING_FACE) or _is_saved(source)


def is_torchvision(source: str) -> bool:
    """Returns whether this names a set of torchvision."""
    return source.startswith(_TORCHVISION)


class HuggingFaceInput:
    """The images of a set of `datasets`.

    Args:
        source: hf:NAME[:SPLIT], where NAME is that of the hub or a folder; or a folder that `datasets` saved.
        with_labels: Read labels.

    Raises:
        UserError: The package is missing, or the set can't be opened or holds no images.
    """

    def __init__(self, source: str, with_labels: bool):
        name = source.removeprefix(_HUGGING_FACE).partition(":")[0]
        self.title = source
        self.short_name = Path(name).name
        self.path = Path(name) if _is_saved(name) else None
        self.sentences: list[str] = []
        datasets = _require("datasets", source)
        rows = _choose_split(*_open_hugging_face(datasets, source), source)
        columns = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        if not columns:
            raise UserError(f"{source} has no column of images, but {', '.join(rows.features) or 'no columns at all'}.")
        self._column = columns[0]
        self._label_column = _label_column(datasets, rows.features) if with_labels else None
        self.class_names: Sequence[str] | None = None
        if self._label_column is not None:
            self.class_names = getattr(rows.features[self._label_column], "names", None)
            self.sentences.append(f"Labels were read from the column {self._label_column}.")
        used = [name for name in (self._column, self._label_column) if name is not None]
        # Files are decoded by this package, as EXIF tags and colour profiles would be lost otherwise.
        self._rows = rows.select_columns(used).cast_column(self._column, datasets.Image(decode=False))
        self._stamp = [rows._fingerprint, len(rows), self._column, self._label_column]
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return f"row {index}"

    def load(self, index: int) -> tuple[Image.Image, int | None]:
        with self._lock:
            row = self._rows[index]
        value = row[self._column]
        if value is None:
            raise ValueError("it has no image")
        name = value["path"] or ""
        content = value["bytes"] if value["bytes"] is not None else Path(name).read_bytes()
        return open_image(content, name), _class(None if self._label_column is None else row[self._label_column])

    def attributes(self) -> Attributes | None:
        return None

    def stamp(self) -> Any:
        return [self.title, *self._stamp]


class TorchvisionInput:
    """The images of a set of torchvision, which downloads those that it lacks where it can.

    Args:
        source: torchvision:NAME[:ROOT[:SPLIT]], where ROOT is the folder that holds the set.
        with_labels: Read labels.

    Raises:
        UserError: The package is missing, or the set is unknown or can't be opened.
    """

    def __init__(self, source: str, with_labels: bool):
        self.title = source
        self.path: Path | None = None
        self.sentences: list[str] = []
        name, _, place = source.removeprefix(_TORCHVISION).partition(":")
        root, _, split = place.partition(":")
        self.short_name = name.lower()
        sets = _require("torchvision.datasets", source)
        kind = getattr(sets, name, None) if name in sets.__all__ else None
        if kind is None:
            raise UserError(f"{source}: torchvision has no data set {name}: they are named as in torchvision.datasets.")
        with reading(source, "a data set of torchvision"):
            self._pictures = kind(**_torchvision_arguments(kind, root, split))
            self._count = len(self._pictures)
        self._with_labels = with_labels
        names = getattr(self._pictures, "classes", None) if with_labels else None
        self.class_names: Sequence[str] | None = None
        if isinstance(names, list | tuple):
            self.class_names = [str(name) for name in names]
        self._root = os.path.abspath(root)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"image {index}"

    def load(self, index: int) -> tuple[Image.Image, int | None]:
        # Some of these sets read from one open file.
        with self._lock:
            item = self._pictures[index]
        image, label = item[:2] if isinstance(item, tuple) else (item, None)
        if not isinstance(image, Image.Image):
            raise ValueError(f"it is no image, but {type(image).__name__}")
        return image, _class(label) if self._with_labels else None

    def attributes(self) -> Attributes | None:
        return None

    def stamp(self) -> Any:
        return [self.title, self._root, self._count, self._with_labels]


def _require(module: str, source: str) -> Any:
    """Imports a library that isn't installed with this package."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise UserError(
            f"{source} needs the package {package}, which cannot be imported ({reason(error)}): pip install {package}."
        ) from error


def _is_saved(source: str) -> bool:
    try:
        return any(all((Path(source) / name).is_file() for name in names) for names in _SAVED_FILES)
    except (OSError, ValueError):
        return False


def _open_hugging_face(datasets: Any, source: str) -> tuple[Any, str]:
    """Returns a set, or several by the names of splits, and the name of the split that is still to be chosen."""
    name, _, split = source.removeprefix(_HUGGING_FACE).partition(":")
    with reading(source, "a data set of Hugging Face"):
        if _is_saved(name):
            return datasets.load_from_disk(name), split
        return datasets.load_dataset(name, split=split or None), ""


def _choose_split(opened: Any, split: str, source: str) -> Any:
    """Returns the rows of a split: the one that is named, else train, else the only one."""
    if not isinstance(opened, dict):
        return opened
    choice = split or ("train" if "train" in opened or len(opened) != 1 else next(iter(opened)))
    if choice not in opened:
        name = source.removeprefix(_HUGGING_FACE).partition(":")[0]
        raise UserError(
            f"{source} has no split {choice}, but {', '.join(map(str, opened))}: name one as in "
            f"{_HUGGING_FACE}{name}:{next(iter(opened), 'train')}."
        )
    return opened[choice]


def _label_column(datasets: Any, features: Any) -> str | None:
    """Returns the column of labels: classes where there are any, else whole numbers under a usual name."""
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    numbers = [name for name, kind in features.items() if "int" in str(getattr(kind, "dtype", ""))]
    usual = [name for name in _LABEL_COLUMNS if name in classes] + classes
    return next(iter([*usual, *(name for name in _LABEL_COLUMNS if name in numbers)]), None)


def _torchvision_arguments(kind: Any, root: str, split: str) -> dict[str, Any]:
    """Returns the arguments for a set of torchvision, which has a switch `train` or a word `split`, or neither."""
    parameters = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {}
    if "root" in parameters:
        if not root:
            raise ValueError(f"name its folder as well, as in {_TORCHVISION}{kind.__name__}:FOLDER")
        arguments["root"] = root
    if "download" in parameters:
        arguments["download"] = True
    if "split" in parameters:
        arguments |= {"split": split} if split else {}
    elif "train" in parameters:
        if split not in ("", "train", "test"):
            raise ValueError(f"its splits are train and test, not {split}")
        arguments["train"] = split != "test"
    elif split:
        raise ValueError(f"it has no splits, and so none named {split}")
    return arguments


def _class(value: Any) -> int | None:
    """Returns a label as a class, or None if it is none: several values, words or a negative number."""
    if isinstance(value, bool | str | bytes) or value is None or np.ndim(value) != 0:
        return None
    number = value.item() if hasattr(value, "item") else value
    return number if isinstance(number, int) and number >= 0 else None
