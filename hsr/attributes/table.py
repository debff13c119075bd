# SPDX-License-Identifier: Apache-2.0
"""The attributes of a data set's images, each as yes, no or unknown."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import ImageDataset
from ..data.attributes import Attributes, Value, match_names, own_attributes, read_attribute_file
from ..data.labels import label_images
from ..data.sources import open_source
from ..errors import UserError

# An attribute that fewer images have, or lack, can't be learned.
MIN_EXAMPLES = 20
# Words or numbers of more values are names of single images rather than kinds of them.
MAX_VALUES = 50
# An attribute of this name tells which images belong together, such as the same drawing in several colours.
GROUP_ATTRIBUTE = "family"
MAX_SHOWN = 8


@dataclass(frozen=True, eq=False)
class AttributeTable:
    """Yes or no for each image and attribute.

    Attributes:
        names: Names of the A attributes.
        values: [N, A] float32: 1 for yes, 0 for no, NaN where it isn't known.
        groups: [N] int64: images of one group belong together.
    """

    names: tuple[str, ...]
    values: Tensor
    groups: np.ndarray


def read_attributes(
    dataset: ImageDataset, path: Path | None = None, log: Callable[[str], None] = print
) -> AttributeTable:
    """Returns the attributes of a data set's images.

    They are those of a file, or else of the data set's own attributes.json, or else its class labels. Words, and whole
    numbers other than 0 and 1, become an attribute for each value, such as `tone=3`; other numbers one of being above
    their median, such as `age>35`. An attribute `family` says which images belong together, and becomes none.

    Args:
        dataset: The images.
        path: File of attributes, by the names of images.
        log: Takes a sentence on what is left out.

    Raises:
        UserError: There is nothing of the kind, or the file can't be used.
    """
    found = _file_attributes(dataset, path)
    if found is None:
        return _class_attributes(dataset, log)
    rows = [found.get(dataset.names[i], {}) for i in dataset.indices] if dataset.names else []
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns: dict[str, np.ndarray] = {}
    left_out = []
    for key in keys:
        values = [row.get(key) for row in rows]
        if key == GROUP_ATTRIBUTE:
            continue
        binary = _binary_columns(key, values)
        if not binary:
            left_out.append(f"{key} has too many values, or both words and fractions")
        columns |= binary
    groups = _groups([row.get(GROUP_ATTRIBUTE) for row in rows])
    return _table(columns, groups, left_out, log)


def _file_attributes(dataset: ImageDataset, path: Path | None) -> Attributes | None:
    if path is not None:
        if not dataset.names:
            raise UserError(f"{path} names images, but those of {dataset.name} have no names.")
        return match_names(read_attribute_file(path), list(dataset.names), str(path))
    if dataset.path is None:
        return None
    source = open_source(dataset.path)
    return own_attributes(source, label_images(source)[0])


def _class_attributes(dataset: ImageDataset, log: Callable[[str], None]) -> AttributeTable:
    if dataset.labels is None or dataset.num_classes < 2:
        raise UserError(
            f"{dataset.name} has neither attributes nor classes to learn: name a file with --attributes, or a "
            "classifier of your own with --classifier."
        )
    names = dataset.class_names or tuple(f"class {value}" for value in dataset.classes)
    columns = {name: (dataset.labels == i).astype(np.float32) for i, name in enumerate(names)}
    return _table(columns, np.arange(len(dataset)), [], log)


def _binary_columns(key: str, values: Sequence[Value]) -> dict[str, np.ndarray]:
    """Returns an attribute's values as columns of 1, 0 and NaN, by their names; none if they have too many values."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) or value in (0, 1) for value in known):
        return {key: np.array([np.nan if value is None else float(value) for value in values], dtype=np.float32)}
    kinds = sorted(Counter(known), key=str)
    is_counted = all(isinstance(value, int | str) for value in known)
    if is_counted and len(kinds) <= MAX_VALUES:
        return {f"{key}={kind}": _compare(values, lambda value, kind=kind: value == kind) for kind in kinds}
    if all(isinstance(value, int | float) for value in known):
        median = float(np.median([float(value) for value in known]))
        return {f"{key}>{median:g}": _compare(values, lambda value: value > median)}
    return {}


def _compare(values: Sequence[Value], test: Callable) -> np.ndarray:
    return np.array([np.nan if value is None else float(test(value)) for value in values], dtype=np.float32)


def _groups(values: Sequence[Value]) -> np.ndarray:
    """Returns a number for each image, the same one for images whose group has the same name."""
    numbers: dict[Value, int] = {}
    alone = len(values)
    groups = []
    for value in values:
        if value is None:
            alone += 1
            groups.append(alone)
        else:
            groups.append(numbers.setdefault(value, len(numbers)))
    return np.array(groups, dtype=np.int64)


def _table(
    columns: dict[str, np.ndarray], groups: np.ndarray, left_out: list[str], log: Callable[[str], None]
) -> AttributeTable:
    """Returns the attributes that enough images have and enough lack, and says which ones are left out."""
    kept = {}
    for name, values in columns.items():
        count = int(np.nansum(values))
        if min(count, int((values == 0).sum())) < MIN_EXAMPLES:
            left_out.append(f"{name} is had by {count} images and lacked by {int((values == 0).sum())}")
        else:
            kept[name] = values
    if left_out:
        shown = "; ".join(left_out[:MAX_SHOWN])
        more = f"; and {len(left_out) - MAX_SHOWN} more" if len(left_out) > MAX_SHOWN else ""
        log(
            f"Attributes that fewer than {MIN_EXAMPLES} images have or lack, or that name single images, are left out: "
            f"{shown}{more}."
        )
    if not kept:
        raise UserError(f"No attribute is had and lacked by {MIN_EXAMPLES} images each, so that none can be learned.")
    return AttributeTable(tuple(kept), torch.from_numpy(np.stack(list(kept.values()), axis=1)), groups)
