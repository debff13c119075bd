# SPDX-License-Identifier: Apache-2.0
"""The list of a source's images, in the order of their names."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from ..errors import UserError
from .decoding import IMAGE_SUFFIXES
from .names import ENCODINGS, display_name, hidden_path, normalized
from .sources import Entry, Skip, Source

LABEL_FILE = "dataset.json"
ATTRIBUTE_FILE = "attributes.json"


@dataclass(frozen=True)
class Listing:
    """The files of a source, with their names read in one encoding.

    Attributes:
        encoding: Encoding in which names without a stated one were read; None: as the source read them.
        entries: The images, in the order of their names.
        names: Their normalized names, ascending.
        label_files: Normalized name and entry of each `dataset.json` that has images beside or below it.
        skipped: Normalized names of all files that are not used, and the reasons.
        attribute_file: Normalized name and entry of the uppermost `attributes.json`, or None.
    """

    encoding: str | None
    entries: list[Entry]
    names: list[str]
    label_files: list[tuple[str, Entry]]
    skipped: list[tuple[str, Skip]]
    attribute_file: tuple[str, Entry] | None = None


def list_images(source: Source) -> Iterator[Listing]:
    """Yields a listing of a source for each encoding that its names may be in, the likeliest first."""
    raw_names = [entry.raw for entry in source.entries if entry.raw is not None]
    encodings = [e for e in ENCODINGS if e is None or _fits(raw_names, e)] if raw_names else [None]
    for encoding in encodings:
        yield _list_images(source, encoding)


def _list_images(source: Source, encoding: str | None) -> Listing:
    """Returns the listing of a source, with names that don't state their encoding read in this one."""
    images: list[tuple[str, Entry]] = []
    label_files: list[tuple[str, Entry]] = []
    attribute_files: list[tuple[str, Entry]] = []
    skipped = [(normalized(name), skip) for name, skip in source.skipped]
    hidden: dict[str, None] = {}
    for entry in source.entries:
        name = normalized(entry.name if entry.raw is None or encoding is None else entry.raw.decode(encoding))
        hidden_parent = hidden_path(name)
        if hidden_parent is not None:
            hidden[hidden_parent] = None
        elif name.lower().endswith(IMAGE_SUFFIXES):
            images.append((name, entry))
        elif PurePosixPath(name).name == LABEL_FILE:
            label_files.append((name, entry))
        elif PurePosixPath(name).name == ATTRIBUTE_FILE:
            attribute_files.append((name, entry))
        else:
            skipped.append((name, Skip.SUFFIX))
    images.sort(key=lambda image: image[0])
    names = [name for name, _ in images]
    skipped += [(name, Skip.HIDDEN) for name in hidden]
    skipped += [(name, Skip.AWAY) for name, _ in label_files if not _holds_images(names, folder_of(name))]
    label_files = [(name, entry) for name, entry in label_files if _holds_images(names, folder_of(name))]
    attribute_file = min(attribute_files, key=lambda file: (file[0].count("/"), file[0]), default=None)
    return Listing(encoding, [entry for _, entry in images], names, label_files, skipped, attribute_file)


def check_names(source: Source, listing: Listing) -> None:
    """Raises `UserError` if two images have the same name."""
    for name, following in pairwise(listing.names):
        if name == following:
            raise UserError(
                f"{display_name(str(source.root))} holds two images named {display_name(name)}, "
                "as slashes and forms of Unicode make no difference: rename or remove one."
            )


def check_label_file(source: Source, listing: Listing) -> None:
    """Raises `UserError` if it is unclear which file has the labels."""
    title = display_name(str(source.root))
    for name, skip in listing.skipped:
        if PurePosixPath(name).name == LABEL_FILE and skip in (Skip.DANGLING, Skip.SPECIAL, Skip.ZIP_LINK):
            raise UserError(f"{display_name(name)} in {title} is not a file from which labels can be read.")
    if len(listing.label_files) > 1:
        files = " and ".join(display_name(name) for name, _ in listing.label_files[:3])
        raise UserError(
            f"{title} holds {len(listing.label_files)} files of labels, and it is unclear which one applies: keep one "
            f"of {files}{' and others' if len(listing.label_files) > 3 else ''}."
        )


def folder_of(name: str) -> str:
    """Returns the folder of a normalized name with its slash, such as `a/b/`, or "" at the top."""
    return name[: name.rfind("/") + 1]


def _holds_images(names: list[str], folder: str) -> bool:
    index = bisect_left(names, folder)
    return index < len(names) and names[index].startswith(folder)


def _fits(raw_names: list[bytes], encoding: str) -> bool:
    try:
        for raw in raw_names:
            raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
