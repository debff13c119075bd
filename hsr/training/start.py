# SPDX-License-Identifier: Apache-2.0
"""The start of a run from a file of weights."""

from pathlib import Path

from torch import Tensor, nn

from ..errors import UserError
from ..weights import fill_modules, load_tensors, read_header, split_groups
from .trainer import Trainer


def start_from_weights(trainer: Trainer, path: Path) -> str:
    """Loads the networks of a file into those of a new run.

    A converted file may lack G, whose place G_ema takes, and D, which then starts untrained. Its HSR heads come along
    where they fit the encoder; those of another run belong to the encoder of that run.

    Returns:
        Sentences on what comes from the file and what starts afresh.

    Raises:
        UserError: The file can't be read, holds networks of another shape, or no D of which layers are to be frozen.
    """
    groups = split_groups(load_tensors(path)[0])
    is_converted = bool(read_header(path).source)
    sentences = [f"The networks start from {path}, and the optimizers afresh."]
    if "G" not in groups and "G_ema" in groups:
        groups["G"] = groups["G_ema"]
        sentences.append("It holds no G, so G starts from the averaged weights.")
    names = ["G", "D", "G_ema"]
    if "D" not in groups and is_converted:
        if trainer.config.frozen_layers:
            raise UserError(f"--freezed {trainer.config.frozen_layers} freezes layers of D, which {path} doesn't hold.")
        names.remove("D")
        sentences.append("It holds no D, so D starts untrained.")
    if trainer.hsr is not None:
        if is_converted and _fits(trainer.hsr, groups.get("hsr", {})):
            names.append("hsr")
            sentences.append("The HSR heads are the file's.")
        else:
            sentences.append("The HSR heads are new.")
    fill_modules(groups, {name: trainer.modules()[name] for name in names}, path)
    return " ".join(sentences)


def _fits(module: nn.Module, tensors: dict[str, Tensor]) -> bool:
    """Returns whether the tensors have the names and shapes of a module's."""
    expected = {key: value.shape for key, value in module.state_dict().items()}
    return expected == {key: value.shape for key, value in tensors.items()}
