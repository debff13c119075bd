# SPDX-License-Identifier: Apache-2.0
"""What the GPU backends of a modulated layer share: vectors and noise as kernels read them, totals of partial sums."""

import torch


def sum_parts(partial: torch.Tensor) -> torch.Tensor:
    """Adds up partial sums [..., parts, C] to [..., C]; PyTorch adds up parts of parts, which costs no precision."""
    return partial.squeeze(-2) if partial.shape[-2] == 1 else partial.sum(-2)


def sum_blocks(partial: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """Adds up sums over blocks of channels [blocks, N, 1, H, W]; None gives an empty tensor of the kind of `like`."""
    if partial is None:
        return like.new_empty(0)
    return partial[0] if partial.shape[0] == 1 else partial.sum(0)


def as_float32(vector: torch.Tensor | None) -> torch.Tensor | None:
    """Returns a vector or a noise map as kernels read it: float32, contiguous."""
    if vector is None or (vector.dtype == torch.float32 and vector.is_contiguous()):
        return vector
    return vector.float().contiguous()


def with_equal_tap_strides(dw: torch.Tensor | None) -> tuple[torch.Tensor | None, tuple[int, int, int]]:
    """Returns a weight's gradient [O, C, kh, kw] with equal steps from tap to tap, and its strides along O, C, taps."""
    if dw is None:
        return None, (0, 0, 0)
    kh, kw = dw.shape[2:]
    if kh > 1 and dw.stride(2) != kw * dw.stride(3):
        dw = dw.contiguous()
    of_o, of_c, of_row, of_column = dw.stride()
    return dw, (of_o, of_c, of_column if kw > 1 else of_row)


def noise_stride(noise: torch.Tensor | None, hw: int) -> int:
    """Returns the stride between the samples of a noise map [N or 1, 1, H, W] with `hw` pixels."""
    return 0 if noise is None or noise.shape[0] == 1 else hw
