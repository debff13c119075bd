# SPDX-License-Identifier: Apache-2.0
"""Defines the native kernels as PyTorch operators, so that torch.compile and profilers see them.

The operators have no autograd of their own: the Functions in each folder's autograd.py stand outside and call them.
An operator is a contract that every backend keeps, and has one overload per backend: `hsr_kernels::<name>.cuda` runs
`<name>` of the folder's cuda_impl.py, which is loaded when it is first called. The caller says which one; nothing is
chosen here.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

# The overloads of an operator, by backend.
NativeOperator = dict[str, Callable[..., Any]]

_library = torch.library.Library("hsr_kernels", "DEF")
# On CPU tensors a GPU's kernels are interpreted, emulated or recorded.
_DISPATCH_KEYS = {"cpu": ("CPU",), "triton": ("CUDA", "CPU"), "cuda": ("CUDA", "CPU")}
# The implementation of `hsr_kernels::<name>.triton`, for hsr_kernels.aot.
triton_operators: dict[str, "_Kernel"] = {}

# The overloads of each folder's operators, by package, backend and name.
_defined: dict[tuple[str, str], dict[str, Callable[..., Any]]] = {}


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
    fake: Callable[..., Any] | Mapping[str, Callable[..., Any]],
    backends: tuple[str, ...] = ("cpu", "triton", "cuda"),
) -> NativeOperator:
    """Defines operator `hsr_kernels::<schema>`, implemented by the folder `package`; returns its overloads by backend.

    Args:
        schema: Name, arguments and results, as torch.library takes them.
        package: The operator folder's `__package__`.
        fake: Results of the right shape, dtype and strides from arguments without data; by backend where they differ.
        backends: Those that implement it.
    """
    name, parenthesis, signature = schema.partition("(")
    overloads = {}
    for backend in backends:
        overload = f"{name}.{backend}"
        kernel = _Kernel(package, f"{backend}_impl", name)
        if backend == "triton":
            triton_operators[f"hsr_kernels::{overload}"] = kernel
        _library.define(f"{overload}{parenthesis}{signature}")
        for key in _DISPATCH_KEYS[backend]:
            _library.impl(overload, kernel, key)
        of_backend = fake if callable(fake) else fake[backend]
        torch.library.register_fake(f"hsr_kernels::{overload}", of_backend, lib=_library)
        operator = getattr(getattr(torch.ops.hsr_kernels, name), backend)
        torch.library.register_vmap(f"hsr_kernels::{overload}", _one_by_one(operator), lib=_library)
        overloads[backend] = operator
        _defined.setdefault((package, backend), {})[name] = operator
    return overloads


class Kernels:
    """The operators of a folder as one backend runs them: `kernels.bias_act(...)`; `has` tells which there are.

    Attributes:
        backend: Its name.
        dispatched: The same, through PyTorch's dispatcher.
    """

    def __init__(
        self, backend: str, functions: Mapping[str, Callable[..., Any]], dispatched: "Kernels | None" = None
    ) -> None:
        self.backend = backend
        self.dispatched = dispatched or self
        self.__dict__ |= functions

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"{self.backend} has no operator {name}")

    def has(self, name: str) -> bool:
        """Whether the backend implements an operator."""
        return name in self.__dict__


def kernels(package: str) -> dict[str, Kernels]:
    """The operators of the folder `package`, all of which have been defined, by backend."""
    return {backend: Kernels(backend, found) for (of, backend), found in _defined.items() if of == package}


@functools.cache
def undispatched(package: str, backend: str) -> Kernels:
    """The functions that the operators of a folder call, for plain tensors that nothing watches: see replay.py.

    PyTorch's dispatcher takes as long as some of them.
    """
    module = importlib.import_module(f"{package}.{backend}_impl")
    operators = _defined[package, backend]
    return Kernels(backend, {name: getattr(module, name) for name in operators}, Kernels(backend, operators))


def _one_by_one(operator: Callable[..., Any]) -> Callable[..., Any]:
    """An operator under vmap: run for one element of the batch after another, as kernels know no batch of batches."""

    def run(info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        if info.batch_size == 0:
            raise ValueError("vmap must map the operators of hsr_kernels over at least one element, got an empty axis")
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
