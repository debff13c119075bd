# SPDX-License-Identifier: Apache-2.0
"""Image data sets: the bundled digits, folders and zips of images.

Training sees images as a viewer shows them: they are turned, laid over a background and converted to sRGB, and the data
set's report says what was read, converted and ignored. Whatever is wrong with a data set is found when it is opened,
and described in one sentence (`UserError`).
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
