# SPDX-License-Identifier: Apache-2.0
"""Counts what a pass of a CPU case does, on tiny tensors."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hsr_kernels

from ..case import Case
from ..costs import tensor_bytes
from ..cpu.cases import CASES
from ..roofline import WRITE_ONLY, is_fused, touches_data
from ..variants import Stage, Variant
from .recorded import Counts

BACKEND = "cpu"
_PACKAGE = str(Path(hsr_kernels.__file__).parent)
_EXTENSION = "hsr_kernels._cpu"
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_CPU = torch._C.DispatchKey.CPU


def counts(cases: tuple[Case, ...] = CASES) -> Iterator[Counts]:
    """Yields the counts of each pass of each case, on one thread: with more, some kernels add up more parts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for case in cases:
            torch.manual_seed(0)
            variant = Variant(BACKEND, case.workload(tiny=True))
            yield from (_counts(case, phase, variant.stage(phase)) for phase in case.targets)
    finally:
        torch.set_num_threads(threads)


def _counts(case: Case, phase: str, stage: Stage) -> Counts:
    for _ in range(2):
        # Caches are filled.
        stage()()
    calls, kernels = _calls(stage())
    run = stage()
    with _Operations() as operations:
        run()
    found = operations.number, operations.bytes, operations.allocated
    return Counts(BACKEND, case.name, phase, calls, kernels, *found)


def _calls(run: Callable[[], Any]) -> tuple[int, int]:
    """Returns the numbers of calls of this library's Python functions, and of its native ones."""
    found = [0, 0]

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            # Whether a comprehension is a call depends on Python's version.
            found[0] += code.co_filename.startswith(_PACKAGE) and not code.co_name.startswith("<")
        elif event == "c_call":
            found[1] += str(getattr(argument, "__module__", "")) == _EXTENSION

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found[0], found[1]


class _Operations(TorchDispatchMode):
    """Counts PyTorch's operators that compute, and what they and the library's take, return and allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.bytes, self.allocated = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **options)
        if is_fused(func.name()):
            # What the implementation calls comes here again.
            with self:
                result = func._op_dk(_CPU, *args, **options)
            self.bytes += tensor_bytes(tree_leaves((args, options, result)))
            return result
        # Below autograd, composite operators such as `contiguous` arrive undivided.
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
            with self:
                return func.decompose(*args, **options)
        result = func(*args, **options)
        self._allocated(args, options, result)
        if touches_data(func):
            self.number += 1
            self.bytes += tensor_bytes(tree_leaves(result if func in WRITE_ONLY else (args, options, result)))
        return result

    def _allocated(self, args: Any, options: Any, result: Any) -> None:
        taken = {_storage(t) for t in tree_leaves((args, options)) if isinstance(t, torch.Tensor)}
        made = {_storage(t): t for t in tree_leaves(result) if isinstance(t, torch.Tensor)}
        self.allocated += sum(t.untyped_storage().nbytes() for key, t in made.items() if key not in taken)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
