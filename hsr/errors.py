# SPDX-License-Identifier: Apache-2.0
"""The one exception that means: the input, not the program, is at fault; and where input is turned into it.

Whatever goes wrong while something that the user named is read or written is about that thing, whichever exception a
library takes for it. So it's caught by place, not by a list of types.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A problem that the user can solve, told in one sentence.

    The command line prints the message and exits with code 2, without a traceback.
    """


@contextmanager
def reading(path: Path | str, kind: str) -> Iterator[None]:
    """Tells whatever goes wrong in its body as "`path` cannot be read as `kind`"."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be read as {kind} ({reason(error)}).") from error


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Tells whatever goes wrong in its body as "`path` cannot be written"."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be written ({reason(error)}).") from error


def exists(path: Path, what: str) -> bool:
    """Whether there is such a path; `what` names it in the message.

    Raises:
        UserError: The system can't even look for it (a name too long, a folder closed to this user).
    """
    with reading(path, what):
        return path.exists()


def reason(error: BaseException) -> str:
    """An exception in a few words, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
