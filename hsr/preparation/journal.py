# SPDX-License-Identifier: Apache-2.0
"""The images of an unfinished preparation, so that a process which is killed loses only those that it works on.

The folder beside the target holds `key`, which says what is prepared and how; `images`, the PNGs one after the other;
and `records.jsonl`, a line for each image, written after it.
"""

import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console

from ..errors import UserError, writing

_KEY, _IMAGES, _RECORDS = "key", "images", "records.jsonl"
# Folder for files that are made of the images.
SCRATCH = "finished"

Record = dict[str, Any]


@contextmanager
def exclusive(folder: Path, console: Console) -> Iterator[None]:
    """Makes a folder and keeps other processes that do the same waiting."""
    while True:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY)
        try:
            _lock(handle, folder, console)
            # The process that was waited for has removed the folder if it succeeded.
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                yield
                return
        finally:
            os.close(handle)


def _lock(handle: int, folder: Path, console: Console) -> None:
    # Some network drives have no locks.
    with suppress(OSError):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"Another process works in {folder}: waiting for it to end.")
            fcntl.flock(handle, fcntl.LOCK_EX)


class Journal:
    """The finished images of a preparation, in order; those of another key are removed.

    Args:
        folder: Folder of the journal, which exists.
        key: Text that changes when anything does that the images depend on.

    Attributes:
        records: A record of each image.

    Raises:
        UserError: The folder holds something else.
    """

    def __init__(self, folder: Path, key: str):
        self.folder = folder
        self.records: list[Record] = []
        with writing(folder):
            self._open(key)

    def _open(self, key: str) -> None:
        folder = self.folder
        if not (folder / _KEY).is_file() and any(folder.iterdir()):
            raise UserError(f"{folder} is in the way: it is no unfinished preparation, so move or remove it.")
        if (folder / _KEY).is_file() and (folder / _KEY).read_text() != key:
            _clear(folder)
        size, records_size = self._read()
        (folder / _KEY).write_text(key)
        self._images = _open_at(folder / _IMAGES, size)
        self._lines = _open_at(folder / _RECORDS, records_size)

    def _read(self) -> tuple[int, int]:
        """Reads the records of images that are whole; returns the bytes of both files up to there."""
        size = records_size = 0
        if not (self.folder / _RECORDS).is_file() or not (self.folder / _IMAGES).is_file():
            return 0, 0
        with (self.folder / _IMAGES).open("rb") as images, (self.folder / _RECORDS).open("rb") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                    content = images.read(record["bytes"])
                    is_whole = line.endswith(b"\n") and len(content) == record["bytes"]
                    is_whole = is_whole and zlib.crc32(content) == record["crc"]
                except (ValueError, KeyError, TypeError):
                    is_whole = False
                if not is_whole:
                    break
                self.records.append(record)
                size, records_size = size + len(content), records_size + len(line)
        return size, records_size

    def append(self, record: Record, content: bytes) -> None:
        """Adds the next image with its record; an image that can't be used has no content."""
        record |= {"bytes": len(content), "crc": zlib.crc32(content)}
        with writing(self.folder):
            self._images.write(content)
            self._images.flush()
            self._lines.write(json.dumps(record).encode() + b"\n")
            self._lines.flush()
        self.records.append(record)

    def contents(self) -> Iterator[tuple[Record, bytes]]:
        """Yields each record with its image."""
        with (self.folder / _IMAGES).open("rb") as images:
            for record in self.records:
                content = images.read(record["bytes"])
                if zlib.crc32(content) != record["crc"]:
                    raise OSError(f"{images.name} was changed meanwhile")
                yield record, content

    def close(self) -> None:
        """Closes the files."""
        # Only what failed to be written is still in their buffers.
        for file in (self._images, self._lines):
            with suppress(OSError):
                file.close()


def remove_journal(folder: Path) -> None:
    """Removes a journal and its folder, if that holds nothing else."""
    _clear(folder)
    with suppress(OSError):
        folder.rmdir()


def _clear(folder: Path) -> None:
    """Removes a journal's files, the key last, as it says whose they are."""
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    for name in (_RECORDS, _IMAGES, _KEY):
        (folder / name).unlink(missing_ok=True)


def _open_at(path: Path, size: int) -> BinaryIO:
    """Opens a file to write on behind its first `size` bytes."""
    file = path.open("ab")
    file.truncate(size)
    return file
