# SPDX-License-Identifier: Apache-2.0
"""Attributes of images as files say them: {"file name": {"attribute": value, ...}}, or a CSV file with a header."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from ..errors import UserError, reading
from .listing import Listing, folder_of
from .names import display_name, normalized
from .sources import Source

Value = str | int | float | bool | None
Attributes = dict[str, dict[str, Value]]

_FORM = '{"file name": {"attribute": value, ...}, ...}'


def own_attributes(source: Source, listing: Listing) -> Attributes | None:
    """Returns what a data set's own attributes.json says, by the names of images in the listing; None without one.

    Raises:
        UserError: The file has another form, or none of its names is an image's.
    """
    if listing.attribute_file is None:
        return None
    name, entry = listing.attribute_file
    title = f"{display_name(name)} in {display_name(str(source.root))}"
    with reading(title, "attributes of images"):
        values = parse_json(source.read(entry.name).decode(), title)
    return match_names(values, listing.names, title, folder_of(name))


def read_attribute_file(path: Path) -> Attributes:
    """Reads a file of attributes, JSON or (.csv) a table whose first column has the names of files.

    Raises:
        UserError: It can't be read, or has another form.
    """
    with reading(path, "attributes of images"):
        text = path.read_text(encoding="utf-8-sig")
        return _parse_csv(text, str(path)) if path.suffix.lower() == ".csv" else parse_json(text, str(path))


def parse_json(text: str, title: str) -> Attributes:
    """Returns the attributes in a JSON text of the file `title`.

    Raises:
        UserError: The text has another form.
    """
    values: Any = json.loads(text)
    has_form = isinstance(values, dict) and all(isinstance(of_image, dict) for of_image in values.values())
    if not has_form:
        raise UserError(f"{title} must have the form {_FORM}.")
    for name, of_image in values.items():
        for attribute, value in of_image.items():
            if not isinstance(value, Value):
                raise UserError(
                    f"{title} must have the form {_FORM}, with words, numbers, true, false or null as values, but "
                    f"{attribute} of {display_name(name)} is none of these."
                )
    return {normalized(name): of_image for name, of_image in values.items()}


def _parse_csv(text: str, title: str) -> Attributes:
    rows = list(csv.reader(io.StringIO(text)))
    if len(rows) < 2 or len(rows[0]) < 2:
        raise UserError(f"{title} needs a header and a line for each image, of its name and its attributes.")
    header = [name.strip() for name in rows[0][1:]]
    values: Attributes = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(rows[0]):
            raise UserError(f"Line {number} of {title} has {len(row)} columns, but the header has {len(rows[0])}.")
        values[normalized(row[0])] = dict(zip(header, map(_cell, row[1:]), strict=True))
    return values


def _cell(text: str) -> Value:
    """Returns the value of a CSV cell: a number where it is one, nothing where it is empty, else the word."""
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def match_names(values: Attributes, names: list[str], title: str, folder: str = "") -> Attributes:
    """Returns the attributes of those names that are images', by the images' names.

    Args:
        values: Attributes by the names in the file `title`.
        names: Normalized names of the images.
        title: The file in messages.
        folder: Folder that its names may be relative to, with its slash.

    Raises:
        UserError: None of its names is an image's.
    """
    known = set(names)
    matched = {}
    for name, of_image in values.items():
        found = next((candidate for candidate in (folder + name, name) if candidate in known), None)
        if found is not None:
            matched[found] = of_image
    if not matched:
        first = next(iter(values), None)
        example = f", as with {display_name(first)}" if first is not None else ""
        raise UserError(f"{title} names none of the images{example}.")
    return matched
