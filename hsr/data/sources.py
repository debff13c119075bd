# SPDX-License-Identifier: Apache-2.0
"""The sources of images: the files below a folder, or the members of a zip."""

import os
import stat
import threading
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ..errors import UserError, reading, reason
from .decoding import IMAGE_SUFFIXES
from .names import display_name, is_hidden

# Larger files are no training images and might not fit in memory.
MAX_FILE_BYTES = 2**30
_UTF8_FLAG = 0x800


class Skip(Enum):
    """The reason why a file is not used."""

    HIDDEN = "hidden"
    SUFFIX = "suffix"
    DANGLING = "dangling"
    LOOP = "loop"
    SPECIAL = "special"
    ZIP_LINK = "zip link"
    AWAY = "away"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a source.

    Attributes:
        name: Its name in the source, with forward slashes between folders.
        raw: The bytes of its name if they may be in any encoding, else None.
        size: Size in bytes.
        modified: Time of its last change in nanoseconds; 0 in a zip, which has one time for all files.
    """

    name: str
    raw: bytes | None
    size: int
    modified: int = 0


class FolderSource:
    """The files below a folder, named by their path relative to it. Links are followed, also to folders.

    Attributes:
        root: The folder.
        entries: Its files, also those of subfolders.
        skipped: Names of the files that are not used, and the reasons.

    Raises:
        UserError: The folder or one below it can't be read.
    """

    def __init__(self, root: Path):
        self.root = root
        self.entries: list[Entry] = []
        self.skipped: list[tuple[str, Skip]] = []
        status = root.stat()
        folders = [("", frozenset({(status.st_dev, status.st_ino)}))]
        while folders:
            prefix, ancestors = folders.pop()
            with reading(display_name(str(root / prefix)), "a folder"), os.scandir(root / prefix) as items:
                for item in items:
                    folder = self._add(prefix + item.name, item, ancestors)
                    if folder is not None:
                        folders.append((f"{prefix}{item.name}/", ancestors | {folder}))

    def _add(self, name: str, item: os.DirEntry, ancestors: frozenset[tuple[int, int]]) -> tuple[int, int] | None:
        """Adds a file to the entries or the skipped ones; returns device and inode of a folder to enter, else None."""
        if is_hidden(item.name):
            self.skipped.append((name, Skip.HIDDEN))
            return None
        try:
            status = item.stat()
        except OSError:
            if not item.is_symlink():
                raise
            self.skipped.append((name, Skip.DANGLING))
            return None
        inode = status.st_dev, status.st_ino
        if stat.S_ISDIR(status.st_mode):
            if inode not in ancestors:
                return inode
            self.skipped.append((name, Skip.LOOP))
        elif stat.S_ISREG(status.st_mode):
            raw = None if name.isascii() else os.fsencode(name)
            self.entries.append(Entry(name, raw, status.st_size, status.st_mtime_ns))
        else:
            self.skipped.append((name, Skip.SPECIAL))
        return None

    def read(self, name: str) -> bytes:
        """Returns the content of a file."""
        with (self.root / name).open("rb") as file:
            _check_size(os.fstat(file.fileno()).st_size)
            return file.read()

    def stamps(self, entries: list[Entry]) -> list[list[int | str]]:
        """Returns JSON values that change when one of these files does."""
        return sorted([entry.name, entry.size, entry.modified] for entry in entries)


class ZipSource:
    """The members of a zip file, readable from any process and thread: each process opens the file for itself.

    Attributes:
        root: The zip.
        entries: Its files.
        skipped: Names of the files that are not used, and the reasons.

    Raises:
        UserError: The file isn't a zip or is damaged.
    """

    def __init__(self, root: Path):
        self.root = root
        self.entries: list[Entry] = []
        self.skipped: list[tuple[str, Skip]] = []
        self._handles: dict[int, tuple[zipfile.ZipFile, threading.Lock]] = {}
        try:
            status = root.stat()
            members = self._handle()[0].infolist()
        except Exception as error:
            raise UserError(
                f"{display_name(str(root))} is neither a folder nor a readable zip file ({reason(error)})."
            ) from error
        self._stamp: list[int | str] = [status.st_size, status.st_mtime_ns]
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir() or kind == stat.S_IFDIR or (member.filename.endswith("\\") and member.file_size == 0):
                continue
            if kind in (0, stat.S_IFREG):
                self.entries.append(Entry(member.filename, _raw_name(member), member.file_size))
            else:
                self.skipped.append((member.filename, Skip.ZIP_LINK if kind == stat.S_IFLNK else Skip.SPECIAL))

    def _handle(self) -> tuple[zipfile.ZipFile, threading.Lock]:
        # A file that was opened before a fork shares its position with the parent process, and its lock may be held by
        # a thread that no longer exists. So neither is ever reused.
        process = os.getpid()
        if process not in self._handles:
            self._handles[process] = zipfile.ZipFile(self.root), threading.Lock()
        return self._handles[process]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handles": {}}

    def read(self, name: str) -> bytes:
        """Returns the content of a member."""
        archive, lock = self._handle()
        with lock:
            _check_size(archive.getinfo(name).file_size)
            return archive.read(name)

    def stamps(self, entries: list[Entry]) -> list[list[int | str]]:
        """Returns JSON values that change when the zip does."""
        return [self._stamp]


Source = FolderSource | ZipSource


def open_source(path: Path) -> Source:
    """Opens a folder or zip, and nothing but folders and regular files: a pipe would block.

    Raises:
        UserError: The path does not exist or is something else.
    """
    title = display_name(str(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"{title} does not exist.") from error
    except Exception as error:
        raise UserError(f"{title} cannot be opened ({reason(error)}).") from error
    if stat.S_ISDIR(mode):
        return FolderSource(path)
    if not stat.S_ISREG(mode):
        raise UserError(f"{title} is neither a folder nor a file, but a device, pipe or socket.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{title} is a single image, but a folder or zip of images is needed.")
    return ZipSource(path)


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ValueError(f"it takes {size / 2**30:.1f} GiB, but at most {MAX_FILE_BYTES / 2**30:.0f} GiB are read")


def _raw_name(member: zipfile.ZipInfo) -> bytes | None:
    """Returns the bytes of a member's name if the zip doesn't state their encoding, else None."""
    if member.filename.isascii() or member.flag_bits & _UTF8_FLAG:
        return None
    try:
        return member.filename.encode("cp437")
    except UnicodeEncodeError:
        # An extra field has given the name in Unicode after all.
        return None
