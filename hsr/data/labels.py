# SPDX-License-Identifier: Apache-2.0
"""Class labels from a `dataset.json`, matched with their images."""

import json
import reprlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from ..errors import UserError, reading, reason
from .listing import Listing, check_label_file, check_names, folder_of, list_images
from .names import display_name, normalized
from .sources import Source

_FORM = '{"labels": [["file name", class], ...]}'


@dataclass(frozen=True)
class Labels:
    """The labels of a data set's images.

    Attributes:
        file: Normalized name of the label file.
        values: The class of each image, in the data's own numbers; None where an image has none.
        repeated: Number of entries that repeat another one.
        absent: Names of entries without an image.
        conflict: The first image with two different labels, and the labels; or None.
    """

    file: str
    values: list[int | None]
    repeated: int
    absent: list[str]
    conflict: tuple[str, int, int] | None

    @property
    def num_labelled(self) -> int:
        """Number of images with a label."""
        return sum(value is not None for value in self.values)


def list_unlabelled(source: Source) -> Listing:
    """Lists the images of a source without looking for labels, with their names in the likeliest encoding.

    Raises:
        UserError: Two images have the same name.
    """
    listing = max(list_images(source), key=lambda candidate: len(candidate.names))
    check_names(source, listing)
    return listing


def label_images(source: Source) -> tuple[Listing, Labels | None]:
    """Lists the images of a source, and reads their labels if there are any.

    If names don't state their encoding, the encoding is the one in which the most images have labels.

    Raises:
        UserError: Images or labels are ambiguous, or not of the right form, or missing.
    """
    listings = list_images(source)
    candidates = [next(listings)]
    if candidates[0].encoding != "utf-8":
        candidates += listings
    # In a wrong encoding, half a character may look like a separator before a hidden name.
    listing = max(candidates, key=lambda candidate: len(candidate.names))
    check_label_file(source, listing)
    labels = None
    if listing.label_files:
        name, entry = listing.label_files[0]
        where = f"{display_name(name)} in {display_name(str(source.root))}"
        entries = _read_entries(source, entry.name, where)
        if entries is not None:
            if _match(listing, entries).num_labelled < len(listing.names):
                candidates += listings
            listing, labels = _best_match(candidates, entries, where)
            _check_labels(listing, labels, where)
    check_names(source, listing)
    return listing, labels


def _best_match(candidates: list[Listing], entries: list[tuple[str, int]], where: str) -> tuple[Listing, Labels]:
    """Returns the listing of which the most images have labels."""
    matches = [(listing, _match(listing, entries)) for listing in candidates if len(listing.label_files) == 1]
    best, labels = max(matches, key=lambda match: match[1].num_labelled)
    complete = [match for match in matches if match[1].num_labelled == labels.num_labelled == len(best.names)]
    if any(_labels_by_file(*match) != _labels_by_file(best, labels) for match in complete):
        raise UserError(f"{where} fits the names of the images in two ways: store them as UTF-8.")
    return best, labels


def _labels_by_file(listing: Listing, labels: Labels) -> dict[str, int | None]:
    return {entry.name: value for entry, value in zip(listing.entries, labels.values, strict=True)}


def _read_entries(source: Source, name: str, where: str) -> list[tuple[str, int]] | None:
    """Returns normalized names and labels in the order of the file, or None if it has no labels."""
    with reading(where, "labels"):
        text = source.read(name)
    try:
        pairs = json.loads(text, object_pairs_hook=_unique_labels).get("labels")
        entries = None if pairs is None else [(normalized(_file_name(name)), label) for name, label in pairs]
    except Exception as error:
        raise UserError(f"{where} is not of the form {_FORM} ({reason(error)}).") from error
    for name, label in entries or ():
        if type(label) is not int or label < 0:
            raise UserError(
                f"{where} gives {display_name(name)} the label {reprlib.repr(label)}, "
                "but labels must be integers from 0."
            )
    return entries


def _unique_labels(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if sum(key == "labels" for key, _ in pairs) > 1:
        raise ValueError('"labels" occurs twice')
    return dict(pairs)


def _file_name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{reprlib.repr(value)} is not a file name")
    return value


def _match(listing: Listing, entries: Iterable[tuple[str, int]]) -> Labels:
    """Finds the image of each entry, whose name may start at the top or at the folder of the label file."""
    file = listing.label_files[0][0]
    folder = folder_of(file)
    absolute = {name: index for index, name in enumerate(listing.names)}
    relative = {n.removeprefix(folder): i for i, n in enumerate(listing.names) if n.startswith(folder)}
    entry_names = {name for name, _ in entries}
    preferred, fallback = relative, absolute
    if len(entry_names & absolute.keys()) > len(entry_names & relative.keys()):
        preferred, fallback = absolute, relative
    values: list[int | None] = [None] * len(listing.names)
    repeated, absent, conflict = 0, [], None
    for name, label in entries:
        index = preferred.get(name, fallback.get(name))
        if index is None:
            absent.append(name)
            continue
        earlier_label = values[index]
        if earlier_label is None:
            values[index] = label
        elif earlier_label == label:
            repeated += 1
        elif conflict is None:
            conflict = listing.names[index], earlier_label, label
    return Labels(file, values, repeated, absent, conflict)


def _check_labels(listing: Listing, labels: Labels, where: str) -> None:
    if labels.conflict is not None:
        name, earlier_label, label = labels.conflict
        raise UserError(f"{where} gives {display_name(name)} two labels, {earlier_label} and {label}.")
    missing = [name for name, value in zip(listing.names, labels.values, strict=True) if value is None]
    if missing:
        raise UserError(
            f"{where} has no label for {display_name(missing[0])} ({len(missing)} of {len(listing.names)} are missing)."
        )


def own_class_names(source: Source, listing: Listing) -> list[str] | None:
    """Returns the names of classes in a set's own dataset.json, where a preparation left them; None without any."""
    with suppress(Exception):
        names = json.loads(source.read(listing.label_files[0][1].name))["class_names"]
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
    return None
