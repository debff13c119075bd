# SPDX-License-Identifier: Apache-2.0
"""`hsr dataset`, and the preparation of images for `hsr train --resize`."""

import dataclasses
import os
from pathlib import Path

from rich.console import Console

from ..console import make_console
from ..data import MIN_RESOLUTION, ImageDataset, open_dataset
from ..errors import UserError
from ..files import cache_folder
from ..options import DatasetOptions
from .inputs import is_library_set, open_input
from .packing import read_preparation
from .prepare import preparation_key, prepare
from .settings import Settings


def dataset(options: DatasetOptions) -> None:
    """Runs `hsr dataset`.

    Raises:
        UserError: The images can't be read or are refused, or the target can't be written.
    """
    console = make_console()
    settings = Settings(
        size=options.resize,
        fit=options.fit,
        filter=options.filter,
        transparency=options.transparency,
        padding=options.padding,
        duplicates=options.duplicates,
        max_images=options.max_images,
        strict=options.strict,
    )
    target = Path(os.path.abspath(options.target))
    images = open_input(options.source, options.labels)
    for sentence in prepare(images, settings, target, options.workers, console):
        console.print(sentence)
    size = (read_preparation(target) or {})["settings"]["size"]
    if size < MIN_RESOLUTION or size & (size - 1):
        console.print(
            f"hsr train cannot use images of {size}x{size} pixels: their width must be a power of two, at least "
            f"{MIN_RESOLUTION}."
        )
    console.print(f"{options.target} is ready, and its dataset.json lists what was done and what was left out.")


def open_training_set(
    data: str | Path | None, resize: int | None, in_memory: bool | None, console: Console
) -> ImageDataset:
    """Opens a data set to train on, and prints what was read and done.

    Args:
        data: A folder or zip, or the set of a library as `hsr dataset` takes it; None: the bundled digits.
        resize: Height and width in pixels that images are brought to; None: they are taken as they are.
        in_memory: Hold the decoded images in memory; None: if they take little.
        console: Where to print, and to show the progress.

    Raises:
        UserError: The images can't be used, or the cache can't be written.
    """
    if resize is None:
        if data is not None and is_library_set(str(data)):
            raise UserError(f"{data} must be prepared: name the width of its images, as in --resize 32.")
        dataset = open_dataset(data, in_memory=in_memory)
    elif data is None:
        raise UserError(f"--resize {resize} is for images of your own, which --data names.")
    else:
        dataset = _open_prepared(str(data), resize, in_memory, console)
    for sentence in dataset.report:
        console.print(sentence)
    return dataset


def _open_prepared(data: str, size: int, in_memory: bool | None, console: Console) -> ImageDataset:
    """Opens a data set whose images are brought to one size in the cache, unless they are there already."""
    if size < MIN_RESOLUTION or size & (size - 1):
        raise UserError(f"--resize {size} is no power of two from {MIN_RESOLUTION}, such as 64 or 256.")
    images, settings = open_input(data, None), Settings(size)
    target = cache_folder() / "prepared" / f"{preparation_key(images, settings)}.zip"
    for sentence in prepare(images, settings, target, None, console):
        console.print(sentence)
    return dataclasses.replace(open_dataset(target, in_memory=in_memory), name=images.short_name)
