# SPDX-License-Identifier: Apache-2.0
"""One line of what an error or a process says, and how a command ends that can't do what was asked."""

import sys
from typing import NoReturn

NO_MESSAGE = "no message"


def described(error: Exception) -> str:
    """The error's type and the first line of its message, without a full stop."""
    line = (str(error).strip() or NO_MESSAGE).splitlines()[0].rstrip(".")
    return f"{type(error).__name__}: {line}"


def last_line(*outputs: str) -> str:
    """The last line of the first output that isn't empty."""
    text = next((output.strip() for output in outputs if output.strip()), NO_MESSAGE)
    return text.splitlines()[-1]


def fail(sentence: str) -> NoReturn:
    """Ends the program with a sentence on its error stream and exit code 2."""
    print(sentence, file=sys.stderr)
    raise SystemExit(2)
