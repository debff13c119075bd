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


def mask_shape_on_triton(x, resamplings: Resamplings, fu, fd) -> tuple[int, ...]:
    """Returns the shape of the mask of Triton's kernels for images x.

    Without a filter for upsampling it holds the codes of the pixels of x, a byte for 4 channels: [N, H, W, bytes].
    """
    if fu is not None:
        return mask_shape(x, resamplings, fu, fd)
    n, c, height, width = x.shape
    return n, height, width, (c + 3) // 4


def empty_output(x, resamplings: Resamplings, fu, fd, memory_format: torch.memory_format) -> torch.Tensor:
    """Returns an uninitialized output for images x."""
    _, size = resamplings.sizes(x.shape[2], x.shape[3], fu, fd)
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=memory_format)


def _fake(shape_of_mask):
    def fake(x, fu, fd, b, *args):
        *resampling_args, _, _, _, _, needs_mask = args
        resamplings = resamplings_of(*resampling_args)
        mask = x.new_empty(shape_of_mask(x, resamplings, fu, fd) if needs_mask else 0, dtype=torch.uint8)
        return empty_output(x, resamplings, fu, fd, image_format(x)), mask

    return fake


def _fake_bwd(sum_dtype):
    def fake(dy, mask, fu, fd, *args):
        *resampling_args, _, _, _, _, channels_last, needs_db = args
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        db = dy.new_empty(dy.shape[1] if needs_db else 0, dtype=sum_dtype)
        return empty_output(dy, resamplings_of(*resampling_args), fu, fd, memory_format), db

    return fake


filtered_lrelu = define(
    f"filtered_lrelu(Tensor x, Tensor? fu, Tensor? fd, Tensor? b, {_RESAMPLINGS}, {_ACT}, bool needs_mask)"
    " -> (Tensor, Tensor)",
    __package__,
    fake={"cpu": _fake(mask_shape), "triton": _fake(mask_shape_on_triton)},
    backends=("cpu", "triton"),
)
filtered_lrelu_bwd = define(
    f"filtered_lrelu_bwd(Tensor dy, Tensor mask, Tensor? fu, Tensor? fd, {_RESAMPLINGS}, {_ACT}, bool channels_last,"
    " bool needs_db) -> (Tensor, Tensor)",
    __package__,
    # CPUs add up in float64, Triton's partial sums are float32.
    fake={"cpu": _fake_bwd(torch.float64), "triton": _fake_bwd(torch.float32)},
    backends=("cpu", "triton"),
)
