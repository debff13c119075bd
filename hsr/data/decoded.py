# SPDX-License-Identifier: Apache-2.0
"""Decoded pixels in files of the cache, so that sets too large for memory are decoded once and not in every epoch.

The files are read through the system's page cache. Where there is no room for one, images are decoded from their own
files at each access.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..files import TEMPORARY_FILES, temporary_path

# Size of all these files together; those that were not used for longest make room for a new one.
MAX_BYTES = 64 * 2**30
# Share of the free disk space that a new file may take.
MAX_FREE_SHARE = 0.5
# Unfinished files that nothing was written to for this long are those of killed processes.
MAX_SECONDS_UNFINISHED = 24 * 3600
_SUFFIX = ".npy"


class DecodedPixels:
    """The pixels of a data set in a file, a store of images from any process.

    Args:
        path: Path of the file in the cache, with any suffix.
        shape: Shape [N, 3, H, W] of the images.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int]):
        self._path = path.with_suffix(_SUFFIX)
        self._shape = shape
        self._size = int(np.prod(shape, dtype=np.int64))

    @cached_property
    def _pixels(self) -> np.ndarray:
        """The pixels [N, 3, H, W] uint8, each of which is read when it is needed."""
        return np.load(self._path, mmap_mode="r", allow_pickle=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_pixels"}

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns image `index`, [3, H, W] uint8."""
        return self._pixels[index]

    def is_valid(self) -> bool:
        """Returns whether the file is there and holds images of this shape."""
        try:
            is_valid = self._pixels.shape == self._shape and self._pixels.dtype == np.uint8
            # The time says when the file was used.
            os.utime(self._path)
        except Exception:
            return False
        return is_valid

    def fits(self) -> bool:
        """Returns whether there is room for the file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._path.parent).free
        except OSError:
            return False
        return self._size <= min(MAX_BYTES, MAX_FREE_SHARE * free)

    @contextmanager
    def writing(self) -> Iterator[Callable[[int, np.ndarray], None]]:
        """Yields a function that takes each image's position and pixels [3, H, W], in order.

        The file takes its place if the body succeeds, unless it can't be written.
        """
        part = _Part(temporary_path(self._path), self._shape)
        try:
            yield part.append
            if part.close():
                with suppress(OSError):
                    self._make_room()
                    os.replace(part.path, self._path)
        finally:
            part.close()
            with suppress(OSError):
                part.path.unlink(missing_ok=True)

    def _make_room(self) -> None:
        """Removes the files that were not used for longest, until this one is within the limit, and leftovers."""
        for path in self._path.parent.glob(TEMPORARY_FILES):
            if time.time() - path.stat().st_mtime > MAX_SECONDS_UNFINISHED:
                path.unlink()
        others = [path for path in self._path.parent.glob(f"*{_SUFFIX}") if path != self._path]
        others.sort(key=lambda path: path.stat().st_mtime_ns)
        total = self._size + sum(path.stat().st_size for path in others)
        for path in others:
            if total > MAX_BYTES:
                total -= path.stat().st_size
                path.unlink()


class _Part:
    """An unfinished file; once something can't be written, nothing is any more."""

    def __init__(self, path: Path, shape: tuple[int, int, int, int]):
        self.path = path
        self._is_whole = False
        with suppress(OSError):
            self._file = path.open("xb")
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)
            self._is_whole = True

    def append(self, index: int, pixels: np.ndarray) -> None:
        """Writes the pixels of the next image."""
        if self._is_whole:
            try:
                self._file.write(pixels.tobytes())
            except OSError:
                self._is_whole = False

    def close(self) -> bool:
        """Closes the file, and returns whether everything was written."""
        try:
            if hasattr(self, "_file"):
                self._file.close()
        except OSError:
            self._is_whole = False
        return self._is_whole
