# SPDX-License-Identifier: Apache-2.0
"""`hsr export`: traces a generator once, and writes it in each of the formats that the options name."""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from ..console import make_console
from ..errors import UserError, reason, writing
from ..files import replacing
from ..latents import load_generator
from ..options import ExportOptions
from .formats import FORMATS, Format
from .graph import Graph

# Of pixels in [-1, 1], between the file's images and those of the network in PyTorch.
MAX_DIFFERENCE = 1e-3
# Batches and truncations of the images that are compared.
COMPARED = ((1, 1.0), (3, 0.7))


def export(options: ExportOptions) -> None:
    """Runs `hsr export`.

    Raises:
        UserError: The options or the checkpoint cannot be used, or a format cannot hold the generator.
    """
    paths = _files(options)
    console = make_console()
    G, classes = load_generator(options.checkpoint)
    graph = Graph(G, classes, options.input, options.noise)
    console.print(graph.describe())
    low_precision_blocks = [block for block in G.synthesis.blocks.values() if block.low_precision]
    if low_precision_blocks:
        console.print("Blocks that run in 16 bits in training are exported in float32.")
    for block in low_precision_blocks:
        block.low_precision = False  # type: ignore[assignment]
    console.print("Tracing the generator ...")
    with _exporting("a program"):
        program = graph.trace()
    for name, path in paths.items():
        _export_file(program, graph, FORMATS[name], path, console)


def _files(options: ExportOptions) -> dict[str, Path]:
    """Returns the files to write, by the name of their option.

    Raises:
        UserError: There are none, or one of them can't be written here.
    """
    paths = {name: path for name in FORMATS if (path := getattr(options, name)) is not None}
    spell = {name: f"--{name.replace('_', '-')}" for name in FORMATS}
    if not paths:
        raise UserError(f"Nothing is to be written: give {', '.join(spell.values())} or several of them.")
    for name, path in paths.items():
        if path.suffix != FORMATS[name].suffix:
            raise UserError(f"{spell[name]} {path} does not end in {FORMATS[name].suffix}.")
        if why := FORMATS[name].why_unavailable():
            raise UserError(f"{spell[name]} cannot be used, as {why}.")
    if len({path.absolute() for path in paths.values()}) < len(paths):
        raise UserError(f"{' and '.join(spell[name] for name in paths)} must name different files.")
    return paths


def _export_file(
    program: torch.export.ExportedProgram, graph: Graph, file_format: Format, path: Path, console: Console
) -> None:
    """Writes one file, after its images were compared with the generator's."""
    console.print(f"Writing {path}: {file_format.title}{file_format.remark} ...")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # PyTorch wants its own suffix even of a file that isn't finished.
    with tempfile.TemporaryDirectory(prefix="hsr-export-") as folder:
        draft = Path(folder) / f"generator{file_format.suffix}"
        with _exporting(file_format.title):
            file_format.write(program, graph, draft)
        if why := file_format.why_not_run():
            comparison = f"Its images were not compared with the network's, as {why}."
        else:
            console.print(f"Comparing its images in {file_format.runtime} with the network's ...")
            comparison = _compare(graph, file_format, draft, path)
        with replacing(path) as part:
            shutil.copyfile(draft, part)
    console.print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB). {comparison}")


def _compare(graph: Graph, file_format: Format, draft: Path, path: Path) -> str:
    """Returns by how much images of a file differ from the generator's, as a sentence.

    Raises:
        UserError: By too much, or the file doesn't run.
    """
    try:
        with _quiet():
            run = file_format.load(draft)
            differences = []
            for batch, psi in COMPARED:
                inputs = graph.inputs(batch, psi, seed=batch)
                differences.append((run(inputs) - graph.images(inputs)).abs().max())
    except Exception as error:
        raise UserError(
            f"{path} was not written, as {file_format.runtime} does not run it ({_first_line(error)})."
        ) from error
    # NaN among the pixels makes it NaN, which is within no limit.
    difference = torch.stack(differences).max().item()
    if not difference <= MAX_DIFFERENCE:
        raise UserError(
            f"{path} was not written, as its images in {file_format.runtime} differ from the network's by "
            f"{difference:.2g}, more than {MAX_DIFFERENCE:g}."
        )
    batches = " and ".join(str(batch) for batch, _ in COMPARED)
    return (
        f"Its images in {file_format.runtime} differ from the network's by at most {difference:.1e} "
        f"in batches of {batches}."
    )


@contextmanager
def _exporting(title: str) -> Iterator[None]:
    """Turns any failure of its body into a `UserError`, and keeps PyTorch's remarks off the screen."""
    try:
        with _quiet():
            yield
    except Exception as error:
        raise UserError(f"The generator cannot be exported as {title} ({_first_line(error)}).") from error


@contextmanager
def _quiet() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _first_line(error: Exception) -> str:
    """Returns the first line of an exception's message: PyTorch's run over pages."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else reason(error)
