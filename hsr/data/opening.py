# SPDX-License-Identifier: Apache-2.0
"""Opening a data set: a folder, a zip, or the bundled digits."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from .dataset import ImageDataset
from .labels import label_images, own_class_names
from .listing import Listing
from .names import display_name
from .report import make_report, other_files
from .scan import Place, identity, scan
from .sources import Source, ZipSource, open_source
from .store import open_store

# Size of the decoded images up to which they are held in memory, in bytes.
MEMORY_LIMIT = 256 * 2**20
MIN_IMAGES = 8


def open_dataset(path: str | Path | None = None, *, in_memory: bool | None = None) -> ImageDataset:
    """Opens a folder or zip of images, or the digits that ship with scikit-learn.

    Every image is decoded once, with a display of the progress if that takes longer than a second.

    Args:
        path: Folder or zip with images, also in subfolders, and optionally a `dataset.json` with
            `{"labels": [["file name", class], ...]}`. None: the digits.
        in_memory: Hold the decoded images in memory; None: if they take at most 256 MiB, and larger sets in a file of
            the cache, where there is room for it.

    Raises:
        UserError: The path does not exist, holds no images, or holds images or labels that cannot be used.
    """
    if path is None:
        return _digits()
    source = open_source(Path(path))
    listing, labels = label_images(source)
    _check_count(source, listing)
    files = open_store(source, listing)
    is_small = len(files) * 3 * files.resolution**2 <= MEMORY_LIMIT
    if in_memory is None:
        place = Place.MEMORY if is_small else Place.CACHE
    else:
        place = Place.MEMORY if in_memory else Place.FILES
    findings, store = scan(files, listing, place)
    values = None if labels is None else [value for value in labels.values if value is not None]
    classes = tuple(sorted(set(values or ())))
    index = {value: i for i, value in enumerate(classes)}
    return ImageDataset(
        name=short_name(source),
        resolution=files.resolution,
        labels=None if values is None else np.array([index[value] for value in values], dtype=np.int64),
        store=store,
        indices=np.arange(len(files)),
        identity=identity(findings.digests, values),
        classes=classes,
        report=make_report(files, listing, labels, findings),
        class_names=_class_names(source, listing, classes),
        path=source.root,
        names=tuple(listing.names),
    )


def _class_names(source: Source, listing: Listing, classes: tuple[int, ...]) -> tuple[str, ...]:
    """Returns the names of classes that `hsr dataset` has left in a set's dataset.json; empty without them."""
    names = own_class_names(source, listing)
    fits = names is not None and all(0 <= value < len(names) for value in classes)
    return tuple(names[value] for value in classes) if names is not None and fits else ()


def _check_count(source: Source, listing: Listing) -> None:
    title = display_name(str(source.root))
    if not listing.names:
        unread_files = other_files(listing)
        raise UserError(f"{title} holds no images that can be read{f': {unread_files} found' if unread_files else ''}.")
    if len(listing.names) < MIN_IMAGES:
        raise UserError(f"{title} holds {len(listing.names)} images, but training needs at least {MIN_IMAGES}.")


def short_name(source: Source) -> str:
    """Returns the short name of a data set: that of its folder or zip, or "images" if it has none."""
    return source.root.stem if isinstance(source, ZipSource) else source.root.resolve().name or "images"


def _digits() -> ImageDataset:
    """Returns the 1,797 handwritten 8x8 digits of scikit-learn, enlarged smoothly to 32x32."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = (bunch.images * (255 / 16)).round().astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)) for image in small]
    pixels = np.repeat(np.stack(large)[:, None], 3, axis=1)
    labels = bunch.target.astype(np.int64)
    # The formula differs from that of other sets, so that older runs on the digits can be continued.
    identity = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    return ImageDataset("digits", 32, labels, pixels, np.arange(len(labels)), identity, classes=tuple(range(10)))
