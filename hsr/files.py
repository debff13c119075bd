# SPDX-License-Identifier: Apache-2.0
"""Files that appear complete or not at all, and the folder of the cache."""

import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .errors import writing

# Pattern of the names that `temporary_path` gives.
TEMPORARY_FILES = ".hsr-*.part"
_TEMPORARY_NAME = re.compile(r"\.hsr-\d+-[0-9a-f]{16}\.part")


def cache_folder() -> Path:
    """Returns the folder of files that save later runs time and may be deleted at any moment."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "hsr"
    try:
        return Path.home() / ".cache" / "hsr"
    except RuntimeError:
        # The user has no home, as in some containers.
        return Path(tempfile.gettempdir()) / "hsr"


def temporary_path(path: Path) -> Path:
    """Returns a path beside `path` for a file that is to take its place, which `remove_leftovers` knows by its name."""
    return path.with_name(f".hsr-{os.getpid()}-{secrets.token_hex(8)}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a new file beside `path`, which takes its place once the body has succeeded.

    A reader never sees half a file, and a failure leaves `path` as it was. The file gets the permissions of
    any new file of the user's.

    Raises:
        UserError: The file can't be written; nothing is left of it.
    """
    part = temporary_path(path)
    with writing(path):
        try:
            part.open("xb").close()
            mode = part.stat().st_mode
            yield part
            part.chmod(mode)
            _flush(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file's content is on the disk, so that a loss of power can't leave its name with less."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes that lock the same file waiting, where it can be made and the file system has locks."""
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(path.open("ab")), fcntl.LOCK_EX)
        yield


def remove_leftovers(folder: Path) -> None:
    """Removes the unfinished files of killed processes from a folder that one process at a time writes to."""
    for path in folder.iterdir():
        if _TEMPORARY_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)
