# SPDX-License-Identifier: Apache-2.0
"""Remembered calls, and whether a call may go without PyTorch's dispatcher.

The host's work before a launch takes longer than the kernel of a small tensor. So a call of a public function whose
arguments are those of an earlier one, but for the tensors' values, isn't checked and decided again: it repeats that
one's launch or, under autograd, applies the same Functions. Calls under torch.compile, transforms and modes of
PyTorch's that watch operators are never remembered, and native operators then go through PyTorch's dispatcher.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from . import native, request

# Types of tensors that behave like no more than tensors.
TENSOR_TYPES = frozenset((torch.Tensor, torch.nn.Parameter))
MAX_CALLS = 4096

# What watches or transforms operators; where a PyTorch doesn't tell, all calls count as watched.
_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_function_modes: Callable[[], int] = getattr(torch._C, "_len_torch_function_stack", lambda: 1)
_transforms: Callable[[], object] = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: 1)
_trace: Callable[[], object] = getattr(torch._C, "_get_tracing_state", lambda: 1)
_profiler: Callable[[], bool] = getattr(torch._C._autograd, "_profiler_enabled", lambda: True)
# Whether autocast is on for any device; to ask for that of a tensor takes much longer.
is_autocast_on: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)

_key_set, _key = torch._C.DispatchKeySet, torch._C.DispatchKey
_keys_of = torch._C._dispatch_keys
_USUAL_KEYS = functools.reduce(
    int.__or__,
    (
        _key_set(key).raw_repr()
        for key in (
            _key.CPU, _key.CUDA, _key.AutogradCPU, _key.AutogradCUDA, _key.ADInplaceOrView, _key.AutocastCPU,
            _key.AutocastCUDA,
        )
    ),
)  # fmt: skip
_UNUSUAL_KEYS = ~_USUAL_KEYS


def is_watched() -> bool:
    """Whether operators are being watched: by a mode, a transform, a trace, a profiler or a forward-mode derivative."""
    return bool(
        _modes()
        or _function_modes()
        or _transforms() is not None
        or _trace() is not None
        or _profiler()
        or forward_ad._current_level >= 0
    )


def is_plain(x: torch.Tensor) -> bool:
    """Whether x is no more than its memory: no subclass, batch or fake, and neither negated nor zero lazily."""
    return type(x) in TENSOR_TYPES and not _keys_of(x).raw_repr() & _UNUSUAL_KEYS


def is_repeatable(strides: Sequence[int], dy: torch.Tensor, kept: torch.Tensor) -> bool:
    """Whether a backward without a further derivative may launch what was prepared for images of these strides.

    A gradient dy can have any, and so can what hooks of saved tensors return in place of what was kept.
    """
    return (
        dy.stride() == strides
        and kept.stride() == strides
        and not torch.is_grad_enabled()
        and not is_watched()
        and is_plain(dy)
        and is_plain(kept)
    )


def may_skip_dispatcher(*tensors: torch.Tensor | None) -> bool:
    """Whether PyTorch's dispatcher would do no more for an operator on these tensors than call its function."""
    if torch.is_grad_enabled() or is_compiling() or is_watched():
        return False
    for x in tensors:
        if x is not None and (type(x) not in TENSOR_TYPES or _keys_of(x).raw_repr() & _UNUSUAL_KEYS):
            return False
    return True


def key_of(tensors: Sequence[Any], *options: object) -> Hashable:
    """All that a call with these tensors (or None) and options depends on but values; None where it can't be repeated.

    What environment variables ask for isn't in it: calls are forgotten before these are read again.
    """
    if is_compiling() or is_watched():
        return None
    parts: list[object] = [torch.is_grad_enabled(), request.BACKEND.used, native.triton_recorded, options]
    for x in tensors:
        if x is None:
            parts.append(None)
        elif type(x) in TENSOR_TYPES and not _keys_of(x).raw_repr() & _UNUSUAL_KEYS:
            parts += (x.shape, x.stride(), x.dtype, x.device, x.requires_grad)
        else:
            return None
    key = tuple(parts)
    try:
        hash(key)
    # Padding in a list, say.
    except TypeError:
        return None
    return key


class Calls(dict[Hashable, Callable[..., Any]]):
    """What calls do, by all that it depends on but the values of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        _every.append(self)

    def note(self, key: Hashable, call: Callable[..., Any] | None) -> None:
        """Remembers a call, if it is one that can be repeated."""
        if call is None:
            return
        if len(self) >= MAX_CALLS:
            self.clear()
        self[key] = call


_every: list[Calls] = []


def reset() -> None:
    """Forgets all calls."""
    for calls in _every:
        calls.clear()
