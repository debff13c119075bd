# SPDX-License-Identifier: Apache-2.0
"""Strided transposed convolutions in bfloat16 on CPUs with AMX, as ordinary convolutions, one per phase of the output.

oneDNN has AMX for ordinary convolutions alone. Along an axis of stride s, output pixels that lie s apart see the same
taps, every s-th one of the kernel: they are an ordinary convolution of the input with these taps, reversed.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .._precision import bfloat16_unit
from .._tensors import image_format


@dataclass(frozen=True)
class _Phase:
    """Every stride-th output along an axis: output i is the sum over u of x[i - before + u] * w[taps[u]]."""

    outputs: slice
    count: int
    taps: range
    # Zeros before and after the input; where they are negative, inputs that no output of the phase sees.
    before: int
    after: int


def is_faster(x: torch.Tensor, w: torch.Tensor, options) -> bool:
    """Whether `conv_transpose2d` is faster than PyTorch's for images x, weights w and ConvolutionOptions."""
    return (
        x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and bfloat16_unit() == "AMX"
        and max(options.stride) > 1
        and options.dilation == (1, 1)
        and x.numel() > 0
        and min(_output_size(x, w, options)) > 0
    )


def conv_transpose2d(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, options) -> torch.Tensor:
    """Returns what PyTorch's conv_transpose2d does, for x [N, C, H, W], w [C, O / groups, kh, kw], b [O] or None."""
    kernel, out_channels = w.shape[2:], w.shape[1] * options.groups
    size = _output_size(x, w, options)
    shape = (x.shape[0], out_channels, *size)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=image_format(x))
    # [O, kh * kw, C / groups]: in this order oneDNN wants the weights of channels_last images, and taps are rows.
    taps = w.unflatten(0, (options.groups, -1)).permute(0, 2, 3, 4, 1).reshape(out_channels, kernel.numel(), -1)
    axes = [_phases(x.shape[2 + i], size[i], kernel[i], options.stride[i], options.padding[i]) for i in (0, 1)]
    for row in axes[0]:
        for column in axes[1]:
            phase_taps = torch.tensor([r * kernel[1] + c for r in row.taps for c in column.taps], dtype=torch.int64)
            phase_w = taps.index_select(1, phase_taps).unflatten(1, (len(row.taps), len(column.taps)))
            phase = _correlate(x, phase_w.permute(0, 3, 1, 2), b, row, column, options.groups)
            y[:, :, row.outputs, column.outputs] = phase
    return y


def _output_size(x: torch.Tensor, w: torch.Tensor, options) -> tuple[int, int]:
    height, width = (
        (x.shape[2 + i] - 1) * options.stride[i] - 2 * options.padding[i] + w.shape[2 + i] + options.output_padding[i]
        for i in (0, 1)
    )
    return height, width


def _phases(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> list[_Phase]:
    """Returns the phases of an axis that have outputs."""
    phases = []
    for first in range(min(stride, outputs)):
        # Output first + i * stride is the sum over t of x[begin + i - t] * w[tap + t * stride].
        begin, tap = divmod(first + padding, stride)
        count = len(range(first, outputs, stride))
        taps = range(tap, kernel, stride)[::-1]
        before = len(taps) - 1 - begin
        phases.append(_Phase(slice(first, None, stride), count, taps, before, begin + count - inputs))
    return phases


def _correlate(x, w, b, row: _Phase, column: _Phase, groups: int) -> torch.Tensor:
    """Returns a phase's outputs [N, O, row.count, column.count], its taps being w [O, C / groups, ...]."""
    for i, phase in ((2, row), (3, column)):
        begin = min(max(-phase.before, 0), x.shape[i])
        x = x.narrow(i, begin, max(x.shape[i] - begin + min(phase.after, 0), 0))
    if not w.numel() or not x.numel():
        zeros = x.new_zeros((x.shape[0], w.shape[0], row.count, column.count))
        return zeros if b is None else zeros + b[:, None, None]
    # oneDNN pads both sides alike; what is too much is left out afterwards.
    padding = [max(phase.before, phase.after, 0) for phase in (row, column)]
    y = F.conv2d(x, w, b, padding=padding, groups=groups)
    for i, phase in ((2, row), (3, column)):
        y = y.narrow(i, padding[i - 2] - max(phase.before, 0), phase.count)
    return y
