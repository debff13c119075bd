# SPDX-License-Identifier: Apache-2.0
"""From any file or run folder to the networks in it."""

from pathlib import Path

import torch

from ..errors import UserError, reading
from ..models import Generator
from ..models.build import build_generator
from ..weights import fill_modules, find_weights, load_tensors, read_header, split_groups
from .networks import Checkpoint
from .nvlabs import read_nvlabs
from .persistence import read_pickle
from .rosinality import read_rosinality, rosinality_constructors
from .tensors import STREAM_PREFIX, ZIP_PREFIX, read_stream, read_zip
from .unpickler import Budget, Refusal

_PICKLE_PREFIX = b"\x80"
_HEADER_PREFIX = b"{"
_KIND = "a checkpoint"


def open_checkpoint(path: Path) -> Checkpoint:
    """Returns the networks of a file of weights, of a run folder, which stands for its last one, or of a foreign file.

    Raises:
        UserError: It can't be read, holds no network that this package has, or a value that isn't finite.
    """
    path = find_weights(path)
    if not is_foreign(path):
        header = read_header(path)
        tensors, _ = load_tensors(path)
        for name, value in tensors.items():
            if not value.isfinite().all():
                raise UserError(f"{path} holds values that are not finite, in {name}.")
        return Checkpoint(header, split_groups(tensors))
    with reading(path, _KIND):
        try:
            return _read_foreign(path.read_bytes())
        except Refusal as refusal:
            raise UserError(f"{path} {refusal}.") from refusal


def is_foreign(path: Path) -> bool:
    """Returns whether a file is in a format of another project.

    Raises:
        UserError: It can't be read.
    """
    with reading(path, _KIND):
        if not path.is_file():
            raise UserError(f"{path} cannot be read as {_KIND} (it is no file).")
        with path.open("rb") as file:
            start = file.read(9)
        # A file of weights begins with the length of its header, in eight bytes of any value, and with the header.
        return start.startswith((_PICKLE_PREFIX, ZIP_PREFIX)) and not start.endswith(_HEADER_PREFIX)


def _read_foreign(data: bytes) -> Checkpoint:
    """Returns the networks in the bytes of a foreign file, of which nothing is executed."""
    budget = Budget(len(data))
    if data.startswith(ZIP_PREFIX):
        return read_rosinality(read_zip(data, rosinality_constructors(budget), budget))
    if data.startswith(STREAM_PREFIX):
        return read_rosinality(read_stream(data, rosinality_constructors(budget), budget))
    return read_nvlabs(read_pickle(data))


def build_average(checkpoint: Checkpoint, path: Path) -> Generator:
    """Returns the generator of averaged weights of a checkpoint, in evaluation mode.

    Raises:
        UserError: The checkpoint, read from `path`, has no such weights.
    """
    header = checkpoint.header
    with torch.device("meta"):
        generator = build_generator(header.config, header.resolution, header.num_classes)
    fill_modules(checkpoint.groups, {"G_ema": generator}, path)
    return generator.eval().requires_grad_(False)
