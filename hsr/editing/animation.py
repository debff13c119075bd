# SPDX-License-Identifier: Apache-2.0
"""Files in which images move: .gif by Pillow, .mp4 by ffmpeg."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import replacing

SUFFIXES = (".gif", ".mp4")
FRAMES_PER_SECOND = 25


def is_animation(path: Path) -> bool:
    """Returns whether a file's suffix is that of an animation."""
    return path.suffix.lower() in SUFFIXES


def check_animation(path: Path) -> None:
    """Checks that an animation of this suffix can be written.

    Raises:
        UserError: What writes it isn't installed.
    """
    if path.suffix.lower() != ".mp4":
        return
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(f'{path} needs ffmpeg: pip install "hsr-kernels[edit]", or choose .gif.') from error
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f"{path} needs ffmpeg, which this machine lacks: choose .gif.") from error


def save_animation(frames: np.ndarray, path: Path) -> None:
    """Writes frames [T, H, W, 3] uint8, which repeat without end in a .gif; a reader never sees half a file.

    Raises:
        UserError: The file can't be written.
    """
    with replacing(path) as part:
        if path.suffix.lower() == ".gif":
            first, *others = [Image.fromarray(frame) for frame in frames]
            duration = round(1000 / FRAMES_PER_SECOND)
            first.save(part, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)
            return
        import imageio_ffmpeg

        # H.264 takes even heights and widths alone: an odd one gets another line of the last pixels.
        even = np.pad(frames, [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)], mode="edge")
        size = even.shape[2], even.shape[1]
        settings = {"fps": FRAMES_PER_SECOND, "quality": 8, "macro_block_size": 1, "output_params": ["-f", "mp4"]}
        writer = imageio_ffmpeg.write_frames(str(part), size, **settings)
        writer.send(None)
        for frame in even:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
