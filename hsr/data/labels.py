# SPDX-License-Identifier: Apache-2.0
"""Class labels from a `dataset.json`, matched with the images that they are for."""

import json
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UserError, reading, reason
from .listing import Listing, check_label_file, check_names, folder_of, list_images
from .names import normalized, shown
from .sources import Source

_FORM = '{"labels": [["file name", class], ...]}'


@dataclass(frozen=True)
class Labels:
    """The labels of a data set's images.

    Attributes:
        file: Normalized name of the file that they are from.
        values: The class of each image, in the data's own numbers; None where an image has none.
        repeated: Number of entries that say again what another one said.
        absent: Names of entries for which there's no image.
        conflict: The first image with two different labels, and these; or None.
    """

    file: str
    values: list[int | None]
    repeated: int
    absent: list[str]
    conflict: tuple[str, int, int] | None

    @property
    def found(self) -> int:
        """Number of images with a label."""
        return sum(value is not None for value in self.values)


def label_images(source: Source) -> tuple[Listing, Labels | None]:
    """Lists the images of a source, and reads their labels if there are any.

    Where names don't say their encoding, it's the one under which the most images have labels.

    Raises:
        UserError: Images or labels are ambiguous, or not of the right form, or missing.
    """
    more = list_images(source)
    candidates = [next(more)]
    if candidates[0].encoding != "utf-8":
        candidates += more
    # In a wrong encoding, half a character may look like a separator before a hidden name.
    listing = max(candidates, key=lambda candidate: len(candidate.names))
    check_label_file(source, listing)
    labels = None
    if listing.label_files:
        name, entry = listing.label_files[0]
        where = f"{shown(name)} in {shown(str(source.root))}"
        entries = _read_entries(source, entry.name, where)
        if entries is not None:
            if _match(listing, entries).found < len(listing.names):
                candidates += more
            listing, labels = _best_match(candidates, entries, where)
            _check(listing, labels, where)
    check_names(source, listing)
    return listing, labels


def _best_match(candidates: list[Listing], entries: list[tuple[str, int]], where: str) -> tuple[Listing, Labels]:
    """Returns the candidate of which the most images have labels."""
    matches = [(listing, _match(listing, entries)) for listing in candidates if len(listing.label_files) == 1]
    best, labels = max(matches, key=lambda match: match[1].found)
    complete = [match for match in matches if match[1].found == labels.found == len(best.names)]
    if any(_by_file(*match) != _by_file(best, labels) for match in complete):
        raise UserError(f"{where} fits the names of the images in two ways: store them as UTF-8.")
    return best, labels


def _by_file(listing: Listing, labels: Labels) -> dict[str, int | None]:
    return {entry.name: value for entry, value in zip(listing.entries, labels.values, strict=True)}


def _read_entries(source: Source, name: str, where: str) -> list[tuple[str, int]] | None:
    """Returns normalized names and labels as they stand in the file, or None where it gives no labels."""
    with reading(where, "labels"):
        text = source.read(name)
    try:
        pairs = json.loads(text, object_pairs_hook=_without_repetition).get("labels")
        entries = None if pairs is None else [(normalized(_name(name)), label) for name, label in pairs]
    except Exception as error:
        raise UserError(f"{where} is not of the form {_FORM} ({reason(error)}).") from error
    for name, label in entries or ():
        if type(label) is not int or label < 0:
            raise UserError(
                f"{where} gives {shown(name)} the label {reprlib.repr(label)}, and labels must be integers from 0."
            )
    return entries


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if sum(key == "labels" for key, _ in pairs) > 1:
        raise ValueError('"labels" occurs twice')
    return dict(pairs)


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{reprlib.repr(value)} is not a file name")
    return value


def _match(listing: Listing, entries: Iterable[tuple[str, int]]) -> Labels:
    """Finds the image of each entry, whose names may start at the top or at the folder of the label file."""
    file = listing.label_files[0][0]
    folder = folder_of(file)
    from_top = {name: index for index, name in enumerate(listing.names)}
    from_folder = {n.removeprefix(folder): i for i, n in enumerate(listing.names) if n.startswith(folder)}
    given = {name for name, _ in entries}
    first, second = from_folder, from_top
    if len(given & from_top.keys()) > len(given & from_folder.keys()):
        first, second = from_top, from_folder
    values: list[int | None] = [None] * len(listing.names)
    repeated, absent, conflict = 0, [], None
    for name, label in entries:
        index = first.get(name, second.get(name))
        if index is None:
            absent.append(name)
            continue
        known = values[index]
        if known is None:
            values[index] = label
        elif known == label:
            repeated += 1
        elif conflict is None:
            conflict = listing.names[index], known, label
    return Labels(file, values, repeated, absent, conflict)


def _check(listing: Listing, labels: Labels, where: str) -> None:
    if labels.conflict is not None:
        name, known, label = labels.conflict
        raise UserError(f"{where} gives {shown(name)} two labels, {known} and {label}.")
    missing = [name for name, value in zip(listing.names, labels.values, strict=True) if value is None]
    if missing:
        raise UserError(
            f"{where} has no label for {shown(missing[0])} ({len(missing)} of {len(listing.names)} are missing)."
        )
