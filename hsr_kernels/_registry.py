# SPDX-License-Identifier: Apache-2.0
"""Defines the native kernels as PyTorch operators, so that torch.compile and profilers see them.

The operators have no autograd of their own: the Functions in each folder's autograd.py stand outside and call them.
An operator is a contract that every backend keeps: `hsr_kernels::<name>` runs `<name>` of the folder's cpu_impl.py on
CPU tensors and of its cuda_impl.py or triton_impl.py on CUDA tensors, all loaded when first called. Where a folder has
both of the latter, `_backends.gpu_backend` says which.
"""

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from . import _backends, _native

DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
NCHW, NHWC = 0, 1

_library = torch.library.Library("hsr_kernels", "DEF")
triton_operators: dict[str, "_Kernel"] = {}  # hsr_kernels::<name> -> its Triton implementation, for hsr_kernels.aot


class _Kernel:
    """A function of one of an operator folder's implementations, imported at its first call."""

    def __init__(self, package: str, module: str, name: str) -> None:
        self.where = f"{package}.{module}", name
        self.function: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        if self.function is None:
            module, name = self.where
            self.function = getattr(importlib.import_module(module), name)
        return self.function(*args)


def define(
    schema: str,
    package: str,
    fake: Callable[..., Any],
    backends: tuple[str, ...] = ("cpu", "triton", "cuda"),
) -> Callable[..., Any]:
    """Defines operator `hsr_kernels::<schema>`, implemented by the folder `package`; returns it.

    Args:
        schema: Name, arguments and results, as torch.library takes them.
        package: The operator folder's `__package__`.
        fake: Results of the right shape, dtype and strides from arguments without data.
        backends: Those that implement it.
    """
    name, folder = schema.split("(", 1)[0], package.rpartition(".")[2]
    kernels = {backend: _Kernel(package, f"{backend}_impl", name) for backend in backends}
    if "triton" in kernels:
        triton_operators[f"hsr_kernels::{name}"] = kernels["triton"]
    _library.define(schema)
    if on_cpu := _on_cpu(kernels):
        _library.impl(name, on_cpu, "CPU")
    _library.impl(name, _on_gpu(folder, kernels), "CUDA")
    torch.library.register_fake(f"hsr_kernels::{name}", fake, lib=_library)
    operator = getattr(torch.ops.hsr_kernels, name).default
    torch.library.register_vmap(f"hsr_kernels::{name}", _one_by_one(operator), lib=_library)
    return operator


def _one_by_one(operator: Callable[..., Any]) -> Callable[..., Any]:
    """An operator under vmap: run for one element of the batch after another, as kernels know no batch of batches."""

    def run(info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        leaves, structure = pytree.tree_flatten(args)
        dims = pytree.tree_flatten(in_dims, is_leaf=lambda dim: dim is None)[0]

        def element(i: int) -> Any:
            chosen = [leaf if dim is None else leaf.select(dim, i) for leaf, dim in zip(leaves, dims, strict=True)]
            return operator(*pytree.tree_unflatten(chosen, structure))

        found = [element(i) for i in range(info.batch_size)]
        outputs, structure_of_one = pytree.tree_flatten(found[0])
        rows = zip(*(pytree.tree_leaves(one) for one in found), strict=True)
        stacked = pytree.tree_unflatten([torch.stack(row) for row in rows], structure_of_one)
        return stacked, pytree.tree_unflatten([0] * len(outputs), structure_of_one)

    return run


def _on_cpu(kernels: dict[str, _Kernel]) -> Callable[..., Any] | None:
    """Interpreted or emulated, a GPU's kernels run on CPU tensors too, where their backend is asked for."""
    if not (_native.triton_interprets() or _native.cuda_is_emulated()):
        return kernels.get("cpu")

    def run(*args: Any) -> Any:
        wanted = _backends.requested()
        return kernels[wanted if wanted in ("triton", "cuda") else "cpu"](*args)

    return run


def _on_gpu(folder: str, kernels: dict[str, _Kernel]) -> Callable[..., Any]:
    triton, cuda = kernels.get("triton"), kernels.get("cuda")
    if triton is None or cuda is None:
        return triton or cuda  # type: ignore[return-value]

    def run(*args: Any) -> Any:
        return (cuda if _backends.gpu_backend(folder, args[0]) == "cuda" else triton)(*args)

    return run


def runs_on(folder: str, x: torch.Tensor) -> str:
    """What operators of a folder run as on `x`: "cpu", "triton" or "cuda"."""
    if x.is_cuda:
        return _backends.gpu_backend(folder, x)
    wanted = _backends.requested()
    interprets = {"triton": _native.triton_interprets(), "cuda": _native.cuda_is_emulated()}
    return wanted if wanted is not None and interprets.get(wanted, False) else "cpu"


def place(x: torch.Tensor) -> tuple[int, int]:
    """Where CUDA kernels on `x` are to run: its device and the caller's stream of it."""
    device = x.get_device()
    return device, stream(device)


def stream(device: int) -> int:
    """The caller's stream of a device; emulated kernels on CPU tensors (-1) have none."""
    return torch.cuda.current_stream(device).cuda_stream if device >= 0 else 0


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that a dtype is accumulated in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether images [N, C, H, W] are to be treated as channels_last: their channels lie next to each other."""
    return x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()


def image_format(x: torch.Tensor) -> torch.memory_format:
    """The memory format that outputs computed from `x` have."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def dense_image(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """`x` without gaps, copied only where it has some, and its layout code."""
    last = is_channels_last(x)
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    return x, NHWC if last else NCHW


def laid_out_like(x: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """`x` with the strides of the dense tensor `model`, copied only where they differ."""
    if x.stride() == model.stride():
        return x
    return torch.empty_strided(model.shape, model.stride(), dtype=x.dtype, device=x.device).copy_(x)


def dense(x: torch.Tensor) -> torch.Tensor:
    """`x` without gaps or overlaps, in its own order of dimensions; copied only where it has some."""
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
