# SPDX-License-Identifier: Apache-2.0
"""The `hsr` command: `hsr train`, `hsr dataset`, `hsr generate`, `hsr convert` and `hsr export`.

PyTorch is imported only when a command runs, so that `--help` answers at once.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Annotated, Any, NoReturn

import tyro

from .errors import UserError, reason
from .job import process_count, process_index
from .options import ConvertOptions, DatasetOptions, ExportOptions, GenerateOptions, TrainOptions, flag
from .validation import validate

Options = TrainOptions | DatasetOptions | GenerateOptions | ConvertOptions | ExportOptions


def parse(arguments: Sequence[str]) -> Options:
    """Returns the options on the command line, or prints help or a mistake and exits."""
    commands = (
        Annotated[TrainOptions, tyro.conf.subcommand("train")]
        | Annotated[DatasetOptions, tyro.conf.subcommand("dataset")]
        | Annotated[GenerateOptions, tyro.conf.subcommand("generate")]
        | Annotated[ConvertOptions, tyro.conf.subcommand("convert")]
        | Annotated[ExportOptions, tyro.conf.subcommand("export")]
    )
    return tyro.cli(
        commands,  # type: ignore[arg-type]
        prog="hsr",
        description="StyleGAN2 training with the Hierarchical Semantic Regularizer.",
        args=arguments,
        console_outputs=process_index() == 0,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits: 0 on success and after Ctrl-C in training, 2 on bad input."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    _handle(numbers, _interrupt)
    code = _exit_code(lambda: _run(options), numbers)
    # The interpreter would report an exception that a signal raises while it ends.
    _handle(numbers, signal.SIG_DFL)
    if code != 0 and process_count() > 1:
        # The operations that have failed still have threads, which would wait for processes that are gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(options: Options) -> None:
    for group in options.groups() if isinstance(options, TrainOptions) else [options]:
        validate(group, partial(flag, group))
    if isinstance(options, TrainOptions):
        from .training.run import train

        train(options)
    elif isinstance(options, DatasetOptions):
        from .preparation.command import dataset

        dataset(options)
    elif isinstance(options, GenerateOptions):
        from .generate import generate

        generate(options)
    elif isinstance(options, ConvertOptions):
        from .interop.convert import convert

        convert(options)
    else:
        from .export import export

        export(options)


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
