# SPDX-License-Identifier: Apache-2.0
"""A photo as a generator could have made it."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.decoding import open_image
from ..errors import UserError, exists, reading
from ..preparation.picture import prepare_picture
from ..preparation.settings import Settings
from ..tensors import to_float


def read_photo(path: Path, resolution: int) -> Tensor:
    """Returns a photo [1, 3, R, R] in [-1, 1]: turned upright, its centre cropped to a square and resized.

    Raises:
        UserError: There is no such file, or it is no image.
    """
    if not exists(path, "an image"):
        raise UserError(f"{path} does not exist.")
    with reading(path, "an image"):
        image = open_image(path.read_bytes(), str(path))
        prepared = prepare_picture(image, str(path), Settings(size=resolution), resolution)
        pixels = np.array(Image.open(BytesIO(prepared.png)))
    return to_float(torch.from_numpy(pixels).permute(2, 0, 1)[None])
