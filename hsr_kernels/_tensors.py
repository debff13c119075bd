# SPDX-License-Identifier: Apache-2.0
"""Layouts, dtypes and addresses of tensors, as the kernels take them."""

import math

import torch

DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
NCHW, NHWC = 0, 1


def device_and_stream(x: torch.Tensor) -> tuple[int, int]:
    """Where CUDA kernels on `x` are to run: its device and the caller's stream of it."""
    device = x.get_device()
    return device, stream(device)


def stream(device: int) -> int:
    """The caller's stream of a device; emulated kernels on CPU tensors (-1) have none."""
    # What torch.cuda.current_stream makes an object of, as Triton asks for it.
    return torch._C._cuda_getCurrentRawStream(device) if device >= 0 else 0


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that a dtype is accumulated in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns x in a dtype; PyTorch takes longer to find that it has that dtype already."""
    return x if x.dtype == dtype else x.to(dtype)


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether images [N, C, H, W] are to be treated as channels_last: their channels lie next to each other."""
    return x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()


def image_format(x: torch.Tensor) -> torch.memory_format:
    """The memory format that outputs computed from `x` have."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def dense_image(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """`x` without gaps, copied only where it has some, and its layout code."""
    if x.is_contiguous():
        return x, NCHW
    if x.is_contiguous(memory_format=torch.channels_last):
        return x, NHWC
    memory_format = image_format(x)
    return x.contiguous(memory_format=memory_format), NHWC if memory_format == torch.channels_last else NCHW


def laid_out_like(x: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """`x` with the strides of the dense tensor `model`, copied only where they differ."""
    if x.stride() == model.stride():
        return x
    return torch.empty_strided(model.shape, model.stride(), dtype=x.dtype, device=x.device).copy_(x)


def dense(x: torch.Tensor) -> torch.Tensor:
    """`x` without gaps or overlaps, in its own order of dimensions; copied only where it has some."""
    if x.is_contiguous():
        return x
    model = torch.empty_like(x, device="meta")
    return laid_out_like(x, model)


def walk(x: torch.Tensor, dim: int) -> tuple[int, int, int]:
    """The dense tensor `x` as [outer, channels, inner] in memory order, channels being dimension `dim`."""
    if x.ndim == 0 or x.numel() == 0:
        return (1, 1, 1) if x.numel() else (0, x.shape[dim] if x.ndim else 1, 1)
    channels = x.shape[dim]
    inner = math.prod(x.shape[dim + 1 :]) if channels == 1 or x.is_contiguous() else x.stride(dim)
    return x.numel() // (channels * inner), channels, inner


def address(tensor: torch.Tensor | None) -> int:
    """The address of a tensor's first element, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
