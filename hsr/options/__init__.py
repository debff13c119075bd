# SPDX-License-Identifier: Apache-2.0
"""The options of the `hsr` commands, as the command line parses them and its help describes them.

- `spelling.py`: how options are written and described.
- `train.py`: `hsr train`, in groups.
- `commands.py`: the other commands.
"""

from .commands import ConvertOptions, DatasetOptions, ExportOptions, GenerateOptions
from .spelling import flag
from .train import TrainOptions

__all__ = ["ConvertOptions", "DatasetOptions", "ExportOptions", "GenerateOptions", "TrainOptions", "flag"]
