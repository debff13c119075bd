# SPDX-License-Identifier: Apache-2.0
"""Images decoded from their files, all of one size."""

from dataclasses import dataclass

import numpy as np

from ..errors import UserError, reading
from .decoding import Picture, decode, displayed_size, open_image
from .listing import Listing
from .names import display_name
from .sources import Source

# The coarsest generator block that HSR regularizes.
MIN_RESOLUTION = 8


@dataclass(frozen=True)
class FileStore:
    """Images decoded from their files at each access.

    Attributes:
        source: Source of the files.
        files: Name of each image in the source.
        titles: Name of each image in messages.
        resolution: Height and width in pixels that every image must have.
    """

    source: Source
    files: list[str]
    titles: list[str]
    resolution: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns image `index`, [3, H, W] uint8.

        Raises:
            UserError: The file is damaged or of another size.
        """
        return self.picture(index).pixels

    def picture(self, index: int) -> Picture:
        """Decodes image `index`.

        Raises:
            UserError: The file is damaged or of another size.
        """
        title = self.titles[index]
        root = display_name(str(self.source.root))
        file = self.files[index]
        with reading(f"{title} in {root}", "an image"), open_image(self.source.read(file), file) as image:
            # The size is checked before decoding, as a file of a few bytes may stand for gigabytes of pixels.
            if image.size != (self.resolution, self.resolution):
                width, height = displayed_size(image)
                raise UserError(
                    f"The images in {root} differ in size: {self.titles[0]} is "
                    f"{self.resolution}x{self.resolution}, {title} is {width}x{height}; {_remedy(self.resolution)}."
                )
            return decode(image)


def open_store(source: Source, listing: Listing) -> FileStore:
    """Makes a store of images of the first one's size, which must be square and a power of two.

    Raises:
        UserError: The first image is of another size or cannot be read.
    """
    root, first = display_name(str(source.root)), display_name(listing.names[0])
    file = listing.entries[0].name
    with reading(f"{first} in {root}", "an image"), open_image(source.read(file), file) as image:
        width, height = displayed_size(image)
    if width != height:
        remedy = _remedy(min(width, height))
        raise UserError(f"{first} in {root} is {width}x{height}, but images must be square: {remedy}.")
    if width & (width - 1) or width < MIN_RESOLUTION:
        raise UserError(
            f"The images in {root} are {width}x{height}, but their width must be a power of two, "
            f"at least {MIN_RESOLUTION}: {_remedy(width)}."
        )
    files = [entry.name for entry in listing.entries]
    return FileStore(source, files, [display_name(name) for name in listing.names], width)


def _remedy(side: int) -> str:
    """Returns what users can do about images whose shorter side has `side` pixels."""
    size = max(MIN_RESOLUTION, 1 << (side.bit_length() - 1))
    return f"hsr train --resize {size} crops them to their centres and brings them to one size"
