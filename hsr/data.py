# SPDX-License-Identifier: Apache-2.0
"""Image data sets: the bundled digits, folders and zips of images.

What is wrong with a data set is found when it is opened, and told in one sentence (`UserError`).
"""

import hashlib
import json
import os
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageFile

from .errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MEMORY_LIMIT = 256 * 2**20  # Decoded bytes up to which a whole set is held in memory.
MIN_RESOLUTION = 8  # The coarsest generator block that HSR regularizes.
MIN_IMAGES = 8


class ImageStore(Protocol):
    """Random access to decoded images."""

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns image `index`, [3, H, W] uint8."""


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Square RGB images of one power-of-two size, with or without class labels.

    Attributes:
        name: Short name, used for run folders.
        resolution: Height and width in pixels.
        labels: [N] int64 class labels, or None.
        num_classes: Number of classes, 0 without labels.
        store: Where the pixels are.
        indices: [N] int64 positions in the store.
        identity: Hash of the whole set's content, before any split.
    """

    name: str
    resolution: int
    labels: np.ndarray | None
    num_classes: int
    store: ImageStore
    indices: np.ndarray
    identity: str
    channels: int = 3

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns image `index`, [3, H, W] uint8."""
        return self.store[int(self.indices[index])]

    def fingerprint(self) -> str:
        """Returns a hash that identifies these images and their order, for use as a cache key."""
        return hashlib.sha256(self.identity.encode() + self.indices.tobytes()).hexdigest()[:16]

    def subset(self, positions: np.ndarray) -> "ImageDataset":
        """Returns the images at `positions` ([M] integers) as a data set of their own."""
        labels = None if self.labels is None else self.labels[positions]
        return replace(self, labels=labels, indices=self.indices[positions])

    def split(self, fraction: float, maximum: int, seed: int = 0) -> tuple["ImageDataset", "ImageDataset"]:
        """Splits into images to train on and held-out images, at random but always alike for one seed.

        Args:
            fraction: Of the images to hold out, though at least 2 images.
            maximum: Largest number of images to hold out.
            seed: Of the choice.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        held_out = max(2, min(round(fraction * len(self)), maximum))
        return self.subset(np.sort(order[held_out:])), self.subset(np.sort(order[:held_out]))

    def batch(self, positions: np.ndarray) -> torch.Tensor:
        """Returns the images at `positions` as [M, 3, H, W] float32 in [-1, 1]."""
        return to_float(torch.from_numpy(np.stack([self[i] for i in positions])))


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Maps uint8 pixels 0..255 to float32 in [-1, 1], same shape."""
    return images.to(torch.float32) / 127.5 - 1


def one_hot(labels: torch.Tensor, num_classes: int) -> torch.Tensor | None:
    """Maps [N] int64 labels to the networks' [N, num_classes] float32 input, or to None without classes."""
    if num_classes == 0:
        return None
    return torch.nn.functional.one_hot(labels, num_classes).to(torch.float32)


def open_dataset(path: str | Path | None = None, *, in_memory: bool | None = None) -> ImageDataset:
    """Opens a folder or zip of images, or the digits that ship with scikit-learn.

    Args:
        path: Folder or zip with PNG, JPEG or WebP images, also in subfolders, and optionally a `dataset.json`
            with `{"labels": [["file name", class], ...]}`. None: the digits.
        in_memory: Hold the decoded images in memory; None: where they take at most 256 MiB.

    Raises:
        UserError: The path does not exist, holds no images, or holds images or labels that cannot be used.
    """
    if path is None:
        return _digits()
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    source = FolderSource(path) if path.is_dir() else ZipSource(path)
    names = sorted(n for n in source.sizes if _is_image(n))
    if not names:
        raise UserError(f"{path} holds no PNG, JPEG or WebP images.")
    if len(names) < MIN_IMAGES:
        raise UserError(f"{path} holds {len(names)} images, and training needs at least {MIN_IMAGES}.")
    labels = _read_labels(source, names)
    resolution = _check_shape(source, names)
    files = FileStore(source, names)
    store: ImageStore = files
    if in_memory is None:
        in_memory = len(names) * 3 * resolution**2 <= MEMORY_LIMIT
    if in_memory:
        store = _load(files, resolution)
    else:
        for name in names:
            _check_size(files, name, *_image_size(source, name), resolution)
    stamps = [f"{name}:{source.sizes[name]}:{source.checksum(name)}" for name in names]
    content = json.dumps([stamps, None if labels is None else labels.tolist()])
    return ImageDataset(
        name=path.stem if path.is_file() else path.resolve().name,
        resolution=resolution,
        labels=labels,
        num_classes=0 if labels is None else int(labels.max()) + 1,
        store=store,
        indices=np.arange(len(names)),
        identity=hashlib.sha256(content.encode()).hexdigest(),
    )


def _digits() -> ImageDataset:
    """The 1,797 handwritten 8x8 digits of scikit-learn, enlarged smoothly to 32x32."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = (bunch.images * (255 / 16)).round().astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)) for image in small]
    pixels = np.repeat(np.stack(large)[:, None], 3, axis=1)
    labels = bunch.target.astype(np.int64)
    identity = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    return ImageDataset("digits", 32, labels, 10, pixels, np.arange(len(labels)), identity)


class FolderSource:
    """The files below a folder, named by their path relative to it with forward slashes."""

    def __init__(self, root: Path):
        self.root = root
        files = sorted(p for p in root.rglob("*") if p.is_file())
        self.sizes = {p.relative_to(root).as_posix(): p.stat().st_size for p in files}

    def checksum(self, name: str) -> int:
        """Checksum of the first bytes: with the size, enough to tell data sets apart, and quick."""
        with self.open(name) as file:
            return zlib.crc32(file.read(4096))

    def open(self, name: str) -> IO[bytes]:
        """Opens one file for reading bytes."""
        return (self.root / name).open("rb")


class ZipSource:
    """The members of a zip file, readable from any process: each one opens the file for itself."""

    def __init__(self, root: Path):
        self.root = root
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        try:
            members = [m for m in self._zip().infolist() if not m.is_dir()]
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{root} is neither a folder nor a readable zip file ({error}).") from error
        self.sizes = {m.filename: m.file_size for m in members}
        self._checksums = {m.filename: m.CRC for m in members}

    def checksum(self, name: str) -> int:
        """Checksum of the content, from the zip's directory."""
        return self._checksums[name]

    def _zip(self) -> zipfile.ZipFile:
        # A handle from before a fork shares its file position with the parent process, so it's never reused.
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), zipfile.ZipFile(self.root))
        return self._handle[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    def open(self, name: str) -> IO[bytes]:
        """Opens one member for reading bytes."""
        return self._zip().open(name)


Source = FolderSource | ZipSource


@dataclass(frozen=True)
class FileStore:
    """Images decoded from their files at each access."""

    source: Source
    names: list[str]

    def __getitem__(self, index: int) -> np.ndarray:
        with _readable(self.source, self.names[index]) as image:
            return _to_rgb(image)


class _readable:
    """Opens an image; whatever goes wrong while it's in use becomes a sentence that names the file."""

    def __init__(self, source: Source, name: str):
        self.source, self.name = source, name

    def __enter__(self) -> ImageFile.ImageFile:
        try:
            self.file = self.source.open(self.name)
            return Image.open(self.file)
        except Exception as error:
            raise self._sentence(error) from error

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        self.file.close()
        if isinstance(error, Exception):
            raise self._sentence(error) from error

    def _sentence(self, error: Exception) -> UserError:
        return UserError(f"{self.name} in {self.source.root} cannot be read as an image ({error}).")


def _to_rgb(image: ImageFile.ImageFile) -> np.ndarray:
    if image.mode.startswith("I;16"):  # Pillow's own conversion would cut 16-bit gray off at 255.
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(gray[None], 3, axis=0)
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy()


def _is_image(name: str) -> bool:
    parts = Path(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(IMAGE_SUFFIXES)


def _image_size(source: Source, name: str) -> tuple[int, int]:
    with _readable(source, name) as image:  # Reads the header only.
        return image.size


def _check_shape(source: Source, names: list[str]) -> int:
    """Returns the width of the first image, which must be a square power of two."""
    width, height = _image_size(source, names[0])
    if width != height:
        raise UserError(f"{names[0]} in {source.root} is {width}x{height}, and images must be square.")
    if width & (width - 1) or width < MIN_RESOLUTION:
        raise UserError(
            f"The images in {source.root} are {width}x{height}, and their width must be a power of two, "
            f"at least {MIN_RESOLUTION}."
        )
    return width


def _check_size(files: FileStore, name: str, width: int, height: int, resolution: int) -> None:
    if (width, height) != (resolution, resolution):
        raise UserError(
            f"The images in {files.source.root} differ in size: {files.names[0]} is "
            f"{resolution}x{resolution}, {name} is {width}x{height}."
        )


def _load(files: FileStore, resolution: int) -> np.ndarray:
    """Decodes every image, [N, 3, H, W] uint8, checking its size on the way."""
    pixels = np.empty((len(files.names), 3, resolution, resolution), np.uint8)
    for index, name in enumerate(files.names):
        image = files[index]
        _check_size(files, name, image.shape[2], image.shape[1], resolution)
        pixels[index] = image
    return pixels


def _read_labels(source: Source, names: list[str]) -> np.ndarray | None:
    """Reads class labels from dataset.json, [N] int64, or None where there are none."""
    where = f"dataset.json in {source.root}"
    if "dataset.json" not in source.sizes:
        return None
    try:
        with source.open("dataset.json") as file:
            pairs = json.load(file).get("labels")
        if pairs is None:
            return None
        by_name = {str(name).replace("\\", "/"): label for name, label in pairs}
    except (ValueError, TypeError, AttributeError, OSError, zipfile.BadZipFile) as error:
        form = '{"labels": [["file name", class], ...]}'
        raise UserError(f"{where} is not of the form {form} ({error}).") from error
    missing = [name for name in names if name not in by_name]
    if missing:
        raise UserError(f"{where} has no label for {missing[0]} ({len(missing)} of {len(names)} are missing).")
    labels = [by_name[name] for name in names]
    for name, label in zip(names, labels, strict=True):
        if type(label) is not int or label < 0:
            raise UserError(f"{where} gives {name} the label {label!r}, and labels must be integers from 0.")
    return np.array(labels, dtype=np.int64)
