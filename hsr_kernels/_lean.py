# SPDX-License-Identifier: Apache-2.0
"""Calls that were seen before: launched without being checked, chosen and dispatched again.

Of a small tensor the host's work before a launch takes longer than the kernel. So a call of a public function whose
arguments are those of an earlier one, but for the tensors' values, goes straight to what that one came to. Only where
nobody is to hear of it: no gradient, no compiler, no mode of PyTorch's that watches or transforms operators.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from . import _backends, _native

# Emulated, launches are remembered on CPU tensors too; else they would only take time there.
EMULATED = _native.cuda_is_emulated()
# Types of tensors that behave like no more than tensors.
PLAIN = frozenset((torch.Tensor, torch.nn.Parameter))
# What watches or transforms operators; a PyTorch that doesn't tell has everything go the long way.
_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_transforms: Callable[[], object] = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: 1)
_trace: Callable[[], object] = getattr(torch._C, "_get_tracing_state", lambda: 1)
_MOST = 4096  # calls to remember; beyond, all are forgotten


def is_watched() -> bool:
    """Whether somebody is to hear of every operator: a mode, a transform, a trace or a forward-mode derivative."""
    return bool(_modes() or _transforms() is not None or _trace() is not None or forward_ad._current_level >= 0)


def key_of(x: Any, f: Any, *options: object) -> Hashable:
    """All that a call with images x and a filter f depends on but values; None where it has to go the long way."""
    if is_compiling() or type(x) not in PLAIN or (f is not None and type(f) not in PLAIN):
        return None
    if not (EMULATED or x.is_cuda):
        return None
    # The long way casts filters of 16 bits first, and a launch reads what it's given.
    if f is not None and f.dtype.itemsize < 4:
        return None
    if is_watched():
        return None
    if torch.is_grad_enabled() and (x.requires_grad or (f is not None and f.requires_grad)):
        return None
    of_f = None if f is None else (f.shape, f.stride(), f.dtype, f.device)
    key = (x.shape, x.is_contiguous() or x.stride(), x.dtype, x.device, of_f, options, _backends.requested())
    try:
        hash(key)
    except TypeError:  # padding in a list, say
        return None
    return key


class Launches(dict[Hashable, Callable[..., Any]]):
    """What calls came to, by all that they depend on."""

    def note(self, key: Hashable, launch: Callable[..., Any] | None) -> None:
        """Remembers a launch, if it is one that can be repeated."""
        if launch is None:
            return
        if len(self) >= _MOST:
            self.clear()
        self[key] = launch
