# SPDX-License-Identifier: Apache-2.0
"""Classes from the folders that images lie in, or from a CSV file."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.decoding import IMAGE_SUFFIXES
from ..data.names import display_name, normalized
from ..errors import UserError, reading

# Values of --labels that are no files.
FROM_FOLDERS, NO_LABELS = "from-folders", "none"
# Headings of the columns of a CSV file, in the order of preference.
_FILE_HEADINGS = ("file", "filename", "file_name", "image", "path", "name", "id")
_LABEL_HEADINGS = ("label", "class", "category", "target")
# Number of names that a sentence lists.
_MAX_NAMES = 5


@dataclass(frozen=True)
class Classes:
    """The classes of a set's images.

    Attributes:
        values: Class of each image.
        names: Name of each class, by its number; None if the labels are numbers themselves.
        sentences: What was read.
    """

    values: list[int]
    names: list[str] | None = None
    sentences: list[str] = field(default_factory=list)


def classes_from_folders(names: list[str], title: str) -> Classes:
    """Returns the classes of images by the first folder of their names, below the folders that all share.

    Args:
        names: Normalized names of the images.
        title: The set in messages.

    Raises:
        UserError: An image lies in no folder.
    """
    parts = _below_shared_folders(names)
    bare = [name for name, path in zip(names, parts, strict=True) if len(path) < 2]
    if bare:
        raise UserError(
            f"--labels {FROM_FOLDERS}: {display_name(bare[0])} in {title} lies in no folder, so it has no class "
            f"({len(bare):,} of {len(names):,} images do)."
        )
    return _classes([path[0] for path in parts], "the names of folders")


def classes_from_csv(path: Path, names: list[str], title: str) -> Classes:
    """Returns the classes of images by a CSV file with a line for each: its name, and its label.

    Args:
        path: The file, with or without a line of headings.
        names: Normalized names of the images.
        title: The set in messages.

    Raises:
        UserError: The file can't be read, contradicts itself, or lacks an image.
    """
    shown = display_name(str(path))
    with reading(f"--labels {shown}", "a table of labels"):
        text = path.read_text(encoding="utf-8-sig")
        rows = _rows(text, shown)
    # Names may begin below the folders that all images share.
    full = {name: name for name in names}
    short = {"/".join(parts): name for parts, name in zip(_below_shared_folders(names), names, strict=True)}
    found: dict[str, str] = {}
    absent = []
    for file, label in rows:
        key = normalized(file)
        name = full.get(key) or short.get(key)
        if name is None:
            absent.append(file)
        elif found.setdefault(name, label) != label:
            raise UserError(f"{shown} gives {display_name(name)} two labels, {found[name]} and {label}.")
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(
            f"{shown} has no label for {display_name(missing[0])} in {title} "
            f"({len(missing):,} of {len(names):,} are missing)."
        )
    classes = _classes([found[name] for name in names], shown)
    if absent:
        first = f"first: {display_name(absent[0])}" if len(absent) > 1 else display_name(absent[0])
        are = "are for images that are" if len(absent) > 1 else "is for an image that is"
        classes.sentences.append(f"{len(absent):,} of its lines {are} not there ({first}).")
    return classes


def _below_shared_folders(names: Sequence[str]) -> list[list[str]]:
    """Returns the parts of names, without the folders that all images lie in as long as there are folders below."""
    parts = [name.split("/") for name in names]
    while all(len(path) > 2 and path[0] == parts[0][0] for path in parts):
        parts = [path[1:] for path in parts]
    return parts


def _rows(text: str, shown: str) -> list[tuple[str, str]]:
    """Returns file and label of each line of a CSV file; columns may be separated by commas, semicolons or tabs."""
    first_line = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first_line.count)
    lines = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter)]
    lines = [row for row in lines if any(row)]
    if not lines:
        raise ValueError("it is empty")
    file_column, label_column = 0, 1
    if not any(cell.lower().endswith(IMAGE_SUFFIXES) for cell in lines[0]):
        headings = [cell.lower() for cell in lines.pop(0)]
        file_column = next((headings.index(h) for h in _FILE_HEADINGS if h in headings), 0)
        label_column = next((headings.index(h) for h in _LABEL_HEADINGS if h in headings), 1 - min(file_column, 1))
    for number, row in enumerate(lines, 1):
        if len(row) <= max(file_column, label_column) or not row[file_column] or not row[label_column]:
            raise UserError(
                f"Entry {number} of {shown} lacks a file or a label: each line needs both, as in a.png,cat."
            )
    return [(row[file_column], row[label_column]) for row in lines]


def _classes(labels: list[str], origin: str) -> Classes:
    """Returns the classes for labels in words or numbers; words are numbered in their order."""
    words = sorted(set(labels))
    if all(word.isascii() and word.isdecimal() and word == str(int(word)) for word in words):
        values, names = {word: int(word) for word in words}, None
        words.sort(key=int)
    else:
        values, names = {word: index for index, word in enumerate(words)}, words
    shown = ", ".join(display_name(word) for word in words[:_MAX_NAMES])
    shown += ", ..." if len(words) > _MAX_NAMES else ""
    plural = "classes" if len(words) > 1 else "class"
    sentence = f"Labels of {len(words):,} {plural} were read from {origin}: {shown}."
    return Classes([values[label] for label in labels], names, [sentence])
