# SPDX-License-Identifier: Apache-2.0
"""Images decoded from their files, all of one size."""

from dataclasses import dataclass

import numpy as np

from ..errors import UserError, reading
from .decoding import Picture, decode, open_image, seen_size
from .listing import Listing
from .names import shown
from .sources import Source

# The coarsest generator block that HSR regularizes.
MIN_RESOLUTION = 8


@dataclass(frozen=True)
class FileStore:
    """Images decoded from their files at each access.

    Attributes:
        source: Where the files are.
        files: What the source knows each image by.
        titles: Its name in messages.
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
        """Decodes image `index`; raises as above."""
        title = self.titles[index]
        root = shown(str(self.source.root))
        file = self.files[index]
        with reading(f"{title} in {root}", "an image"), open_image(self.source.read(file), file) as image:
            # Before decoding: a file of a few bytes may stand for gigabytes of pixels.
            if image.size != (self.resolution, self.resolution):
                width, height = seen_size(image)
                raise UserError(
                    f"The images in {root} differ in size: {self.titles[0]} is "
                    f"{self.resolution}x{self.resolution}, {title} is {width}x{height}."
                )
            return decode(image)


def open_store(source: Source, listing: Listing) -> FileStore:
    """Makes a store of images that are as wide and high as the first one, which must be a square power of two.

    Raises:
        UserError: It isn't, or can't be read.
    """
    root, first = shown(str(source.root)), shown(listing.names[0])
    file = listing.entries[0].name
    with reading(f"{first} in {root}", "an image"), open_image(source.read(file), file) as image:
        width, height = seen_size(image)
    if width != height:
        raise UserError(f"{first} in {root} is {width}x{height}, and images must be square.")
    if width & (width - 1) or width < MIN_RESOLUTION:
        raise UserError(
            f"The images in {root} are {width}x{height}, and their width must be a power of two, "
            f"at least {MIN_RESOLUTION}."
        )
    files = [entry.name for entry in listing.entries]
    return FileStore(source, files, [shown(name) for name in listing.names], width)
