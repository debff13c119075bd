# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all, under names that can't be anyone else's."""

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import writing

_TEMPORARY = re.compile(r"\.hsr-\d+-[0-9a-f]{16}\.part")


def cache_folder() -> Path:
    """The folder of what is kept between runs to save time, which may be deleted at any time."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "hsr"
    try:
        return Path.home() / ".cache" / "hsr"
    except RuntimeError:
        # A user without a home, as in containers.
        return Path(tempfile.gettempdir()) / "hsr"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a new file beside `path`, which takes its place once the body has ended well.

    A reader never sees half a file, and after a failure `path` is what it was. The file's permissions are those of any
    new file of the user's.

    Raises:
        UserError: The file can't be written; nothing is left of it.
    """
    part = path.with_name(f".hsr-{os.getpid()}-{secrets.token_hex(8)}.part")
    with writing(path):
        try:
            part.open("xb").close()
            mode = part.stat().st_mode
            yield part
            part.chmod(mode)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process left of files it was writing into a folder that one process at a time writes to."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
