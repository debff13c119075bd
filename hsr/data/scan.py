# SPDX-License-Identifier: Apache-2.0
"""Decoding every image once, which finds damaged files and gives the set's identity and report.

The findings on a large set are cached, so that it is decoded again only after it has changed.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np
import PIL

from ..concurrency import map_in_order
from ..console import track
from ..errors import UserError
from ..files import cache_folder, locked, replacing
from .dataset import ImageStore
from .decoded import DecodedPixels
from .decoding import Note, Picture
from .listing import Listing
from .store import FileStore

# Version of the findings, a part of the cache's key: raise it when images are decoded differently.
VERSION = 1
# Images that wait for each thread, so that none is idle.
_TASKS_PER_THREAD = 4


class Place(Enum):
    """Where a data set's pixels are read from while it is used."""

    MEMORY = "memory"
    # A file of decoded pixels in the cache, or the images' own files where there is no room for it.
    CACHE = "cache"
    FILES = "files"


@dataclass
class Findings:
    """The findings of decoding every image.

    Attributes:
        digests: Hash of each image's decoded pixels.
        formats: Number of files of each format.
        notes: Number of images of each note's value.
        firsts: Name of the first image of each note's value.
    """

    digests: list[str] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, str] = field(default_factory=dict)

    def add(self, title: str, picture: Picture, digest: str) -> None:
        """Adds the next image."""
        self.digests.append(digest)
        self.formats[picture.format] += 1
        for note in picture.notes:
            self.notes[note.value] += 1
            self.firsts.setdefault(note.value, title)


def scan(files: FileStore, listing: Listing, place: Place) -> tuple[Findings, ImageStore]:
    """Decodes every image, unless that was done before.

    Args:
        files: The images.
        listing: Their files.
        place: Where pixels are kept. Unless that is in memory, findings are read from the cache, or made and cached.

    Returns:
        The findings, and the store of the pixels.

    Raises:
        UserError: An image is damaged or of another size; the first one in order is named.
    """
    shape = (len(files), 3, files.resolution, files.resolution)
    if place is Place.MEMORY:
        pixels = np.empty(shape, np.uint8)
        return _find(files, pixels.__setitem__), pixels
    cache = _cache_path(files, listing)
    if cache is None:
        return _find(files), files
    if place is Place.FILES:
        return _load(cache, len(files)) or _save(cache, _find(files)), files
    # Several processes of one training would all write tens of gigabytes.
    with locked(cache.with_suffix(".lock")):
        findings, decoded = _load(cache, len(files)), DecodedPixels(cache, shape)
        if findings is None or not decoded.is_valid():
            if not decoded.fits():
                return findings or _save(cache, _find(files)), files
            with decoded.writing() as write:
                findings = _save(cache, _find(files, write))
        return findings, decoded if decoded.is_valid() else files


def _find(files: FileStore, keep: Callable[[int, np.ndarray], None] | None = None) -> Findings:
    """Decodes every image and returns the findings; `keep` takes each image's position and pixels, in order."""
    findings = Findings()
    for index, (picture, digest) in enumerate(track(_decoded(files), "Reading images", len(files))):
        findings.add(files.titles[index], picture, digest)
        if keep is not None:
            keep(index, picture.pixels)
    return findings


def identity(digests: list[str], values: list[int] | None) -> str:
    """Returns the hash of a sequence of images, by their pixels' hashes, and of their classes if they have any."""
    combined = hashlib.sha256()
    for index, digest in enumerate(digests):
        combined.update(f"{digest} {'' if values is None else values[index]}\n".encode())
    return combined.hexdigest()


def _decoded(files: FileStore) -> Iterator[tuple[Picture, str]]:
    """Decodes every image, several at a time, and yields them in order with the hashes of their pixels."""
    threads = len(os.sched_getaffinity(0))
    return map_in_order(partial(_decode, files), range(len(files)), threads, _TASKS_PER_THREAD)


def _decode(files: FileStore, index: int) -> tuple[Picture, str]:
    picture = files.picture(index)
    return picture, hashlib.blake2b(picture.pixels.data, digest_size=16).hexdigest()


def _cache_path(files: FileStore, listing: Listing) -> Path | None:
    """Returns the file that caches the findings on these files, or None if this system has no place for it."""
    try:
        folder = cache_folder() / "datasets"
        root = os.path.abspath(files.source.root)
    except OSError:
        return None
    key = json.dumps([VERSION, PIL.__version__, root, files.files, files.source.stamps(listing.entries)])
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _load(path: Path, count: int) -> Findings | None:
    """Reads cached findings; returns None if there are none, or none that are valid."""
    try:
        stored = json.loads(path.read_bytes())
        findings = Findings(
            [str(digest) for digest in stored["digests"]],
            Counter({str(name): int(n) for name, n in stored["formats"].items()}),
            Counter({Note(value).value: int(n) for value, n in stored["notes"].items()}),
            {Note(value).value: str(title) for value, title in stored["firsts"].items()},
        )
    except Exception:
        return None
    is_complete = (
        len(findings.digests) == findings.formats.total() == count and findings.firsts.keys() == findings.notes.keys()
    )
    return findings if is_complete else None


def _save(path: Path, findings: Findings) -> Findings:
    """Caches the findings, and returns them; if that fails, the set is decoded again next time."""
    with suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps(vars(findings)))
    return findings
