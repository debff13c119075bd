# SPDX-License-Identifier: Apache-2.0
"""The options of the `hsr` commands, as the command line parses them and its help describes them.

- `spelling.py`: how options are written and described.
- `train.py`: `hsr train`, in groups.
- `evaluation.py`: `hsr evaluate`.
- `editing.py`: the commands that find directions in latent space and edit images.
- `projection.py`: `hsr project`.
- `ui.py`: `hsr ui`.
- `commands.py`: the other commands.
"""

from .commands import ConvertOptions, DatasetOptions, ExportOptions, GenerateOptions
from .editing import DirectionsOptions, EditOptions, MixOptions
from .evaluation import EvaluateOptions
from .projection import ProjectOptions
from .spelling import flag
from .train import TrainOptions
from .ui import UiOptions

__all__ = [
    "ConvertOptions",
    "DatasetOptions",
    "DirectionsOptions",
    "EditOptions",
    "EvaluateOptions",
    "ExportOptions",
    "GenerateOptions",
    "MixOptions",
    "ProjectOptions",
    "TrainOptions",
    "UiOptions",
    "flag",
]
