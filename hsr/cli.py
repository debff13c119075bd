# SPDX-License-Identifier: Apache-2.0
"""The `hsr` command line: which command, its options, and how it ends.

PyTorch is imported only when a command runs, so that `--help` answers at once.
"""

import difflib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import tyro
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from .commands import COMMANDS, SECTIONS, Command
from .errors import UserError, reason
from .job import process_count, process_index
from .options import TrainOptions, flag
from .validation import validate

_DESCRIPTION = "StyleGAN2 training with the Hierarchical Semantic Regularizer, and what its latent spaces are good for."


def parse(arguments: Sequence[str]) -> tuple[Command, Any]:
    """Returns the command and its options on the command line, or prints help or a mistake and exits: 0 or 2."""
    word = arguments[0] if arguments else "--help"
    if word in ("-h", "--help"):
        _print_overview()
        sys.exit(0 if arguments else 2)
    command = COMMANDS.get(word)
    if command is None:
        similar = difflib.get_close_matches(word, COMMANDS, n=1)
        hint = f"did you mean {similar[0]}?" if similar else f"choose one of {', '.join(COMMANDS)}."
        _print_mistake(f"there is no command {word}: {hint}")
        sys.exit(2)
    options: Any = tyro.cli(
        command.options,
        prog=f"hsr {command.name}",
        args=arguments[1:],
        console_outputs=process_index() == 0,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return command, options


def _print_overview() -> None:
    """Prints what `hsr` does and its commands, grouped by what people want to do."""
    if process_index() != 0:
        return
    console = Console(highlight=False, markup=False)
    console.print("usage: hsr COMMAND [OPTIONS]\n")
    console.print(f"{_DESCRIPTION}\n")
    width = max(map(len, COMMANDS))
    for title, commands in SECTIONS.items():
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=width, no_wrap=True)
        table.add_column()
        for command in commands:
            table.add_row(command.name, command.summary)
        console.print(Panel(table, title=title, title_align="left"))
    console.print("\nhsr COMMAND --help describes a command's options.")


def _print_mistake(sentence: str) -> None:
    if process_index() == 0:
        print(f"hsr: {sentence}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits: 0 on success and after Ctrl-C in training, 2 on bad input."""
    command, options = parse(sys.argv[1:] if arguments is None else arguments)
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    _handle(numbers, _interrupt)
    code = _exit_code(lambda: _run(command, options), numbers)
    # The interpreter would report an exception that a signal raises while it ends.
    _handle(numbers, signal.SIG_DFL)
    if code != 0 and process_count() > 1:
        # The operations that have failed still have threads, which would wait for processes that are gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(command: Command, options: Any) -> None:
    for group in options.groups() if isinstance(options, TrainOptions) else [options]:
        validate(group, partial(flag, group))
    command.run(options)


def _exit_code(command: Callable[[], None], numbers: Sequence[signal.Signals]) -> int:
    """Runs a command and returns the exit code of its end, after printing the sentence of an error.

    From the end on, signals of these numbers are ignored: there is nothing left to interrupt but that sentence.
    """
    try:
        try:
            command()
        finally:
            _handle(numbers, signal.SIG_IGN)
        return 0
    except UserError as error:
        print(f"{_program()}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # The disk, the network or a file is at fault, and not the program.
        print(f"{_program()}: {error.filename or 'a file'} cannot be used ({reason(error)}).", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hsr: interrupted.", file=sys.stderr)
        return 130


def _handle(numbers: Sequence[signal.Signals], handler: Any) -> None:
    for number in numbers:
        signal.signal(number, handler)


def _program() -> str:
    """Returns what messages begin with; of several processes that train together each has its number."""
    return "hsr" if process_index() == 0 else f"hsr, process {process_index()}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
