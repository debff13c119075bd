# SPDX-License-Identifier: Apache-2.0
"""Image data sets: the bundled digits, folders and zips of images.

What is trained on is what the user sees: images are turned, laid over a background and brought to sRGB as viewers do,
and the data set's report tells what was read, converted and ignored. What is wrong with a data set is found when it is
opened, and told in one sentence (`UserError`).
"""

from ..tensors import one_hot, to_float
from .dataset import ImageDataset, ImageStore
from .decoding import BACKGROUND, IMAGE_SUFFIXES
from .opening import MEMORY_LIMIT, MIN_IMAGES, open_dataset
from .sources import FolderSource, ZipSource
from .store import MIN_RESOLUTION, FileStore

__all__ = [
    "BACKGROUND",
    "IMAGE_SUFFIXES",
    "MEMORY_LIMIT",
    "MIN_IMAGES",
    "MIN_RESOLUTION",
    "FileStore",
    "FolderSource",
    "ImageDataset",
    "ImageStore",
    "ZipSource",
    "one_hot",
    "open_dataset",
    "to_float",
]
