# SPDX-License-Identifier: Apache-2.0
"""The switch that leaves out the gradient of convolution weights."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.compiler import is_compiling

from .._dispatch.functions import Function

_KEY = "hsr_kernels.no_weight_gradients"
# Whether PyTorch has objects of a thread that it hands on to its own threads, which compute the backward on GPUs.
_HAS_THREAD_OBJECTS = hasattr(torch._C, "_remove_obj_from_tls")
_thread_state = threading.local()
# The number of threads that have the switch on. PyTorch's own threads can ask nothing else where there are no such
# objects, and it is what torch.compile can guard its code with.
_thread_count = 0
_lock = threading.Lock()


@contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """Inside, backward passes of `conv2d` and `conv_transpose2d` leave out the gradient of the weight.

    R1 and path length differentiate with respect to images or latents only; the work for the weight's first
    gradient is really not done, on every version of PyTorch. (The reference backend, which leaves the backward to
    PyTorch, drops the gradient once PyTorch has it.) Gradients of a gradient are unaffected once outside.

    Like `torch.no_grad` it holds for the thread that enters it, and for what PyTorch computes on that thread's behalf.
    It has no effect on exported programs, nor on transforms of torch.func that torch.compile compiles.

    Args:
        disable: False makes it a no-op.
    """
    if not disable or _is_on_in_thread():
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
        return _thread_count > 0
    if _HAS_THREAD_OBJECTS:
        return torch._C._is_key_in_tls(_KEY)
    # Python's threading module doesn't list PyTorch's own threads.
    is_python_thread = threading.get_ident() in threading._active  # type: ignore[attr-defined]
    return _is_on_in_thread() if is_python_thread else _thread_count > 0


def _is_on_in_thread() -> bool:
    """Whether this thread has switched it on; under torch.compile no thread counts as such."""
    if is_compiling():
        return False
    return torch._C._is_key_in_tls(_KEY) if _HAS_THREAD_OBJECTS else getattr(_thread_state, "on", False)


def _switch(on: bool) -> None:
    global _thread_count
    if is_compiling():
        _thread_count += 1 if on else -1
        return
    with _lock:
        _thread_count += 1 if on else -1
    if not _HAS_THREAD_OBJECTS:
        _thread_state.on = on
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
