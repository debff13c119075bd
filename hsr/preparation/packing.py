# SPDX-License-Identifier: Apache-2.0
"""The finished data set: a zip or folder in the layout of StyleGAN's data sets.

It holds `00000/img00000000.png` and so on, and `dataset.json` with `{"labels": [["file name", class], ...]}`, or null
in their place. That file also says under "preparation" what was done, which readers of the layout ignore. Attributes
of the images, if there are any, are in `attributes.json`. The same images and settings give the same bytes.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.attributes import Attributes
from ..data.listing import ATTRIBUTE_FILE, LABEL_FILE
from ..errors import UserError, exists, writing
from ..files import replacing
from .journal import SCRATCH, Journal

_MODE = 0o644
# Larger files are no records of a preparation.
_MAX_LABEL_BYTES = 2**30

Writer = Callable[[str, bytes], None]


def is_zip(target: Path) -> bool:
    """Returns whether a target is to be a zip; else it is a folder."""
    return target.suffix.lower() == ".zip"


def read_preparation(target: Path) -> dict[str, Any] | None:
    """Returns what a finished data set says of its preparation, or None if it is none of this program's."""
    try:
        if target.is_dir():
            text = (target / LABEL_FILE).read_bytes()
        else:
            with zipfile.ZipFile(target) as archive:
                info = archive.getinfo(LABEL_FILE)
                text = archive.read(info) if info.file_size <= _MAX_LABEL_BYTES else b""
        preparation = json.loads(text)["preparation"]
    except Exception:
        return None
    return preparation if isinstance(preparation, dict) else None


def require_writable(target: Path, source: Path | None) -> None:
    """Raises `UserError` where a target is the folder or file that is read, or something that must not be replaced."""
    if source is not None and not is_zip(target) and source.resolve() in target.resolve().parents:
        raise UserError(f"{target} lies in {source}, which is read: choose a folder outside it, or a zip.")
    if not exists(target, "a data set"):
        return
    if source is not None and target.samefile(source):
        raise UserError(f"{target} is the data set that is read: name another one to write.")
    if target.is_dir() and is_zip(target):
        raise UserError(f"{target} is a folder, and a zip is to be written: remove it, or choose another name.")
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} is a folder that holds files: remove it, or choose another name.")
    if not target.is_dir() and not (is_zip(target) and read_preparation(target) is not None):
        raise UserError(
            f"{target} exists and is no data set that hsr dataset wrote: remove it, or choose another name."
        )


def write_set(
    target: Path,
    journal: Journal,
    kept: list[bool],
    contents: dict[str, Any],
    attributes: Attributes | None = None,
) -> None:
    """Writes the finished data set, which appears whole or not at all.

    Args:
        target: A zip, or a folder that is empty or doesn't exist.
        journal: The prepared images.
        kept: Whether each image of the journal belongs to the set.
        contents: What `dataset.json` holds.
        attributes: What `attributes.json` holds, by the new names of images; None: there is no such file.

    Raises:
        UserError: The disk is full, or the target can't be written.
    """
    if is_zip(target):
        with replacing(target) as part, zipfile.ZipFile(part, "w") as archive:
            _write_files(_zip_writer(archive), journal, kept, contents, attributes)
        return
    folder = journal.folder / SCRATCH
    with writing(target):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _write_files(_folder_writer(folder), journal, kept, contents, attributes)
        os.rename(folder, target)


def image_name(index: int) -> str:
    """Returns the name of an image in the set."""
    return f"{index // 1000:05d}/img{index:08d}.png"


def _write_files(
    write: Writer, journal: Journal, kept: list[bool], contents: dict[str, Any], attributes: Attributes | None
) -> None:
    count = 0
    for is_kept, (_, png) in zip(kept, journal.contents(), strict=True):
        if is_kept:
            write(image_name(count), png)
            count += 1
    write(LABEL_FILE, json.dumps(contents).encode())
    if attributes is not None:
        write(ATTRIBUTE_FILE, json.dumps(attributes).encode())


def _zip_writer(archive: zipfile.ZipFile) -> Writer:
    def write(name: str, content: bytes) -> None:
        # Its time is the first one that a zip can state, as the true one would make equal sets differ.
        info = zipfile.ZipInfo(name)
        info.external_attr = _MODE << 16
        # PNGs are compressed already.
        archive.writestr(info, content, zipfile.ZIP_STORED)

    return write


def _folder_writer(folder: Path) -> Writer:
    def write(name: str, content: bytes) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    return write
