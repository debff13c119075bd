# SPDX-License-Identifier: Apache-2.0
"""The table of the `hsr` commands, grouped by what people want to do.

Nothing here imports PyTorch: a command's function is imported when the command runs.
"""

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .options import (
    ConvertOptions,
    DatasetOptions,
    DirectionsOptions,
    EditOptions,
    EvaluateOptions,
    ExportOptions,
    GenerateOptions,
    MixOptions,
    ProjectOptions,
    TrainOptions,
    UiOptions,
)


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: Its word on the command line.
        options: Dataclass of its options, whose docstring begins with a sentence on what it does.
        function: Where the function is that runs it, as "module:name" below this package.
    """

    name: str
    options: type
    function: str

    @property
    def summary(self) -> str:
        """One sentence on what it does."""
        return first_sentence(inspect.getdoc(self.options) or "")

    def run(self, options: Any) -> None:
        """Runs the command.

        Raises:
            UserError: The options, or what they name, can't be used.
        """
        module, name = self.function.split(":")
        function: Callable[[Any], None] = getattr(importlib.import_module(f".{module}", __package__), name)
        function(options)


# What people want to do, and the commands for it.
SECTIONS: dict[str, tuple[Command, ...]] = {
    "Train a generator": (
        Command("dataset", DatasetOptions, "preparation.command:dataset"),
        Command("train", TrainOptions, "training.run:train"),
    ),
    "Make images": (
        Command("generate", GenerateOptions, "generate:generate"),
        Command("edit", EditOptions, "editing.edit:edit"),
        Command("mix", MixOptions, "editing.mix:mix"),
        Command("project", ProjectOptions, "projection.command:project_photos"),
    ),
    "Explore the latent space": (
        Command("directions", DirectionsOptions, "editing.search:directions"),
        Command("ui", UiOptions, "ui.command:ui"),
    ),
    "Measure": (Command("evaluate", EvaluateOptions, "evaluation.command:evaluate"),),
    "Exchange networks with other programs": (
        Command("convert", ConvertOptions, "interop.convert:convert"),
        Command("export", ExportOptions, "export.command:export"),
    ),
}
COMMANDS = {command.name: command for commands in SECTIONS.values() for command in commands}


def first_sentence(text: str) -> str:
    """Returns the first sentence of a text, on one line."""
    return re.split(r"(?<=\.)\s+(?=[A-Z0-9])", " ".join(text.split()))[0]
