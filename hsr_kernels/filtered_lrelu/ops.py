# SPDX-License-Identifier: Apache-2.0
"""The operators of filtered_lrelu that its backends implement.

The mask holds two bits per upsampled pixel, in an order that belongs to the backend and the layout of x.
"""

import torch

from .._dispatch.library import define
from .._tensors import image_format
from .geometry import Resamplings, resamplings_of

_RESAMPLINGS = (
    "int[] up, int[] up_padding, float up_gain, int[] down, int[] down_padding, float down_gain, bool flip_filter"
)
_ACT = "int act, float alpha, float gain, float clamp"


def mask_shape(x, resamplings: Resamplings, fu, fd) -> tuple[int, ...]:
    """Returns the mask's shape [N, C, height, bytes] for images x: 16 bytes for 64 pixels of an upsampled row."""
    (height, width), _ = resamplings.sizes(x.shape[2], x.shape[3], fu, fd)
    return *x.shape[:2], height, (width + 63) // 64 * 16


def empty_output(x, resamplings: Resamplings, fu, fd, memory_format: torch.memory_format) -> torch.Tensor:
    """Returns an uninitialized output for images x."""
    _, size = resamplings.sizes(x.shape[2], x.shape[3], fu, fd)
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=memory_format)


def _fake(x, fu, fd, b, *args):
    *resampling_args, _, _, _, _, needs_mask = args
    resamplings = resamplings_of(*resampling_args)
    mask = x.new_empty(mask_shape(x, resamplings, fu, fd) if needs_mask else 0, dtype=torch.uint8)
    return empty_output(x, resamplings, fu, fd, image_format(x)), mask


def _fake_bwd(dy, mask, fu, fd, *args):
    *resampling_args, _, _, _, _, channels_last, needs_db = args
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    db = dy.new_empty(dy.shape[1] if needs_db else 0, dtype=torch.float64)
    return empty_output(dy, resamplings_of(*resampling_args), fu, fd, memory_format), db


filtered_lrelu = define(
    f"filtered_lrelu(Tensor x, Tensor? fu, Tensor? fd, Tensor? b, {_RESAMPLINGS}, {_ACT}, bool needs_mask)"
    " -> (Tensor, Tensor)",
    __package__,
    fake=_fake,
    backends=("cpu", "triton"),
)
filtered_lrelu_bwd = define(
    f"filtered_lrelu_bwd(Tensor dy, Tensor mask, Tensor? fu, Tensor? fd, {_RESAMPLINGS}, {_ACT}, bool channels_last,"
    " bool needs_db) -> (Tensor, Tensor)",
    __package__,
    fake=_fake_bwd,
    backends=("cpu", "triton"),
)
