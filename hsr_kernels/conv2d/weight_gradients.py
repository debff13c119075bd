# SPDX-License-Identifier: Apache-2.0
"""The switch that leaves out the gradient of convolution weights."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.compiler import is_compiling

from .._dispatch.functions import Function

_KEY = "hsr_kernels.no_weight_gradients"
# PyTorch hands these objects of a thread on to the threads of its own that compute a backward on GPUs for it.
_HANDED_ON = hasattr(torch._C, "_remove_obj_from_tls")
_own = threading.local()
# How many threads have the switch on: all that PyTorch's own threads can be told where there are no such objects, and
# what torch.compile can hold its code to.
_threads = 0
_lock = threading.Lock()


@contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """Inside, backward passes of `conv2d` and `conv_transpose2d` leave out the gradient of the weight.

    R1 and path length differentiate with respect to images or latents only; the work for the weight's first
    gradient is really not done, on every version of PyTorch. (The reference backend, which leaves the backward to
    PyTorch, drops the gradient once PyTorch has it.) Gradients of a gradient are unaffected once outside.

    Like `torch.no_grad` it holds for the thread that enters it, and for what PyTorch computes on that thread's behalf.

    Args:
        disable: False makes it a no-op.
    """
    if not disable or _is_on_here():
        yield
        return
    _switch(True)
    try:
        yield
    finally:
        _switch(False)


def weight_gradients_disabled() -> bool:
    """Whether the gradient of the weight is being left out now, in this thread."""
    if is_compiling():
        return _threads > 0
    if _HANDED_ON:
        return torch._C._is_key_in_tls(_KEY)
    # PyTorch's own threads aren't known to Python's threading module.
    of_python = threading.get_ident() in threading._active  # type: ignore[attr-defined]
    return _is_on_here() if of_python else _threads > 0


def _is_on_here() -> bool:
    if is_compiling():
        return False
    return torch._C._is_key_in_tls(_KEY) if _HANDED_ON else getattr(_own, "on", False)


def _switch(on: bool) -> None:
    global _threads
    if is_compiling():
        _threads += 1 if on else -1
        return
    with _lock:
        _threads += 1 if on else -1
    if not _HANDED_ON:
        _own.on = on
    elif on:
        torch._C._stash_obj_in_tls(_KEY, True)
    else:
        torch._C._remove_obj_from_tls(_KEY)


@Function
class DropGradient(torch.autograd.Function):
    """The identity; its gradient is dropped inside `no_weight_gradients`."""

    @staticmethod
    def forward(weight):
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps nothing."""

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.view_as(tangent)

    @staticmethod
    def backward(ctx, gradient):
        return None if weight_gradients_disabled() else gradient
