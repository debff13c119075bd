# SPDX-License-Identifier: Apache-2.0
"""The images that are prepared, by one interface for folders, zips and the sets of libraries."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ..data.attributes import Attributes, own_attributes
from ..data.decoding import open_image
from ..data.labels import label_images, list_unlabelled, own_class_names
from ..data.names import display_name
from ..data.opening import short_name
from ..data.report import label_sentences, other_files, skip_sentences
from ..data.sources import open_source
from ..errors import UserError
from .labels import FROM_FOLDERS, NO_LABELS, Classes, classes_from_csv, classes_from_folders
from .libraries import HuggingFaceInput, TorchvisionInput, is_hugging_face, is_torchvision


class Input(Protocol):
    """Images in a fixed order, with or without classes.

    Attributes:
        title: The set in messages.
        short_name: Its name for run folders.
        path: Folder or file that is read; None where a library knows it.
        class_names: Name of each class, by its number; None if classes have none.
        sentences: What was found out when the set was opened.
    """

    title: str
    short_name: str
    path: Path | None
    class_names: Sequence[str] | None
    sentences: list[str]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Returns the name of an image in messages."""

    def load(self, index: int) -> tuple[Image.Image, int | None]:
        """Opens an image, from any thread, and returns it with its class, or None without one.

        Raises:
            Exception: The file is damaged, or is no image; any type of exception may say so.
        """

    def attributes(self) -> Attributes | None:
        """Returns attributes of images by the names that `name` gives; None if the set has none.

        Raises:
            UserError: The file that has them is of another form.
        """

    def stamp(self) -> Any:
        """Returns JSON values that change when an image or its class or attributes do."""


class FileInput:
    """The images of a folder or zip.

    Args:
        path: The folder or zip.
        labels: "from-folders", "none" or a CSV file; None: the set's own dataset.json, if it has one.

    Raises:
        UserError: It can't be opened, holds no images, or its labels are missing or ambiguous.
    """

    def __init__(self, path: Path, labels: str | None):
        self._source = open_source(path)
        self.path: Path | None = path
        self.title = display_name(str(path))
        self.short_name = short_name(self._source)
        classes: Classes | None = None
        if labels is None:
            self._listing, own_labels = label_images(self._source)
            self.sentences = label_sentences(own_labels)
            if own_labels is not None:
                values = [value for value in own_labels.values if value is not None]
                classes = Classes(values, own_class_names(self._source, self._listing))
        else:
            self._listing, self.sentences = list_unlabelled(self._source), []
        if not self._listing.names:
            others = other_files(self._listing)
            raise UserError(f"{self.title} holds no images that can be read{f': {others} found' if others else ''}.")
        if labels == FROM_FOLDERS:
            classes = classes_from_folders(self._listing.names, self.title)
        elif labels not in (None, NO_LABELS):
            classes = classes_from_csv(Path(str(labels)), self._listing.names, self.title)
        self.class_names: Sequence[str] | None = None if classes is None else classes.names
        self._labels = None if classes is None else classes.values
        self.sentences = [
            *skip_sentences(self._listing),
            *self.sentences,
            *([] if classes is None else classes.sentences),
        ]

    def __len__(self) -> int:
        return len(self._listing.names)

    def name(self, index: int) -> str:
        return display_name(self._listing.names[index])

    def load(self, index: int) -> tuple[Image.Image, int | None]:
        file = self._listing.entries[index].name
        label = None if self._labels is None else self._labels[index]
        return open_image(self._source.read(file), file), label

    def attributes(self) -> Attributes | None:
        found = own_attributes(self._source, self._listing)
        return None if found is None else {display_name(name): values for name, values in found.items()}

    def stamp(self) -> Any:
        root, stamps = os.path.abspath(self._source.root), self._source.stamps(self._listing.entries)
        file = self._listing.attribute_file
        attributes = [] if file is None else [self._source.stamps([file[1]])]
        return [root, self._listing.names, stamps, self._labels, self.class_names, *attributes]


def is_library_set(source: str) -> bool:
    """Returns whether this names a set of a library, and not a folder or zip of images."""
    return is_hugging_face(source) or is_torchvision(source)


def open_input(source: str, labels: str | None) -> Input:
    """Opens the images to prepare.

    Args:
        source: A folder or zip; hf:NAME[:SPLIT], or a folder that `datasets` saved; torchvision:NAME[:ROOT[:SPLIT]].
        labels: "from-folders", "none" or a CSV file; None: the labels that come with the set.

    Raises:
        UserError: The set can't be opened or labelled.
    """
    if not is_library_set(source):
        return FileInput(Path(source), labels)
    if labels not in (None, NO_LABELS):
        raise UserError(f"--labels {labels} is for folders and zips, and {source} has labels of its own.")
    kind = HuggingFaceInput if is_hugging_face(source) else TorchvisionInput
    return kind(source, with_labels=labels is None)
