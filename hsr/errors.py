# SPDX-License-Identifier: Apache-2.0
"""The exception for problems that the user can solve, and the contexts that turn other exceptions into it.

Any failure to read or write something that the user named is a problem of that thing, whichever exception a library
raises. So failures are caught by where they happen, not by a list of types.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A problem that the user can solve, described in one sentence.

    The command line prints the message and exits with code 2, without a traceback.
    """


@contextmanager
def reading(path: Path | str, kind: str) -> Iterator[None]:
    """Turns any failure of its body into a `UserError`: "`path` cannot be read as `kind`"."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be read as {kind} ({reason(error)}).") from error


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turns any failure of its body into a `UserError`: "`path` cannot be written"."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be written ({reason(error)}).") from error


def exists(path: Path, kind: str) -> bool:
    """Returns whether a path exists that is to be read as `kind`.

    Raises:
        UserError: The system can't look for it: its name is too long, or its folder is closed to this user.
    """
    with reading(path, kind):
        return path.exists()


def reason(error: BaseException) -> str:
    """Returns an exception's message on one line, or the name of its type if it has none."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
