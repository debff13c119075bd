# SPDX-License-Identifier: Apache-2.0
"""Remembered launches of the cuda backend: a call like an earlier one is launched without new checks and choices.

The host's work before a launch takes longer than the kernel of a small tensor. So a call of a public function whose
arguments are those of an earlier one, but for the tensors' values, repeats that one's launch. Calls under autograd,
torch.compile, transforms and modes of PyTorch's that watch operators are never remembered.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from . import native, request

# Types of tensors that behave like no more than tensors.
TENSOR_TYPES = frozenset((torch.Tensor, torch.nn.Parameter))
MAX_LAUNCHES = 4096

# What watches or transforms operators; where a PyTorch doesn't tell, no call is remembered.
_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_transforms: Callable[[], object] = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: 1)
_trace: Callable[[], object] = getattr(torch._C, "_get_tracing_state", lambda: 1)


def is_watched() -> bool:
    """Whether operators are being watched: by a mode, a transform, a trace or a forward-mode derivative."""
    return bool(_modes() or _transforms() is not None or _trace() is not None or forward_ad._current_level >= 0)


@functools.cache
def may_run(on_gpu: bool, backend: str | None) -> bool:
    """Whether the cuda backend can be chosen, as far as a glance tells.

    Args:
        on_gpu: Whether the tensor is on a GPU.
        backend: What the program asked for.
    """
    asked = backend or request.BACKEND.of_environment()
    return (on_gpu or native.cuda_is_emulated()) and not native.missing("_cuda") and asked in (None, "cuda")


def key_of(x: Any, f: Any, *options: object) -> Hashable:
    """All that a call with images x and a filter f depends on but values; None where it can't be repeated.

    What environment variables ask for isn't in it: launches are forgotten before these are read again.
    """
    if is_compiling() or type(x) not in TENSOR_TYPES or (f is not None and type(f) not in TENSOR_TYPES):
        return None
    if not may_run(x.is_cuda, request.BACKEND.used):
        return None
    # A filter of 16 bits is cast before the launch, which reads what it's given.
    if f is not None and f.dtype.itemsize < 4:
        return None
    if is_watched():
        return None
    if torch.is_grad_enabled() and (x.requires_grad or (f is not None and f.requires_grad)):
        return None
    of_f = None if f is None else (f.shape, f.stride(), f.dtype, f.device)
    key = (x.shape, x.is_contiguous() or x.stride(), x.dtype, x.device, of_f, options, request.BACKEND.used)
    try:
        hash(key)
    # Padding in a list, say.
    except TypeError:
        return None
    return key


class Launches(dict[Hashable, Callable[..., Any]]):
    """Launches by all that they depend on."""

    def __init__(self) -> None:
        super().__init__()
        _every.append(self)

    def note(self, key: Hashable, launch: Callable[..., Any] | None) -> None:
        """Remembers a launch, if it is one that can be repeated."""
        if launch is None:
            return
        if len(self) >= MAX_LAUNCHES:
            self.clear()
        self[key] = launch


_every: list[Launches] = []


def reset() -> None:
    """Forgets all launches, and whether the cuda backend is there."""
    may_run.cache_clear()
    for launches in _every:
        launches.clear()
