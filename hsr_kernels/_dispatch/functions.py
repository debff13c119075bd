# SPDX-License-Identifier: Apache-2.0
"""Autograd Functions that PyTorch's transforms (torch.func, batched gradients) understand, at the price of none.

PyTorch transforms Functions that are written with `setup_context`, but applying one of those takes the host five times
as long, on every call. So ours are written that way, and applied in the older way where no transform is active.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.compiler import is_compiling

# A PyTorch that doesn't tell which transforms are active is taken to have none: its own errors then say what fails.
_active: Callable[[], object] = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: None)
_stack: Callable[[], list[Any] | None] = getattr(torch._C._functorch, "get_interpreter_stack", lambda: None)


class Function:
    """An autograd Function of this package: `@Function` above a class with forward, setup_context and backward.

    forward takes no ctx and saves nothing; setup_context saves inputs and outputs only; backward goes through `.apply`
    of other Functions. Under vmap, forward runs on batched tensors: see `library.define` for its operators.
    """

    def __init__(self, written: type[torch.autograd.Function]) -> None:
        written.generate_vmap_rule = True
        if "jvp" not in vars(written):
            written.backward = staticmethod(_without_tangents(written.backward))  # type: ignore[method-assign]
        self.__name__, self.__doc__ = written.__name__, written.__doc__
        self.transformed = written
        self.plain = _applied_plainly(written)

    def apply(self, *args: Any) -> Any:
        """Applies the Function."""
        if is_compiling():
            return self.plain.apply(*args)
        if _active() is not None:
            return self.transformed.apply(*args)
        # Where nothing is differentiated, as in a backward that no other one follows, a node would be made for nothing.
        if not torch.is_grad_enabled() and forward_ad._current_level < 0:
            return self.transformed.forward(*args)
        return self.plain.apply(*args)


def _applied_plainly(written: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    def forward(ctx: Any, *args: Any) -> Any:
        output = written.forward(*args)
        written.setup_context(ctx, args, output)
        return output

    # Dynamo counts the parameters to know whether there is a ctx.
    parameters = inspect.signature(written.forward).parameters.values()
    ctx = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = inspect.Signature([ctx, *parameters])  # type: ignore[attr-defined]
    parts = {"forward": staticmethod(forward), "__doc__": written.__doc__}
    parts |= {name: part for name in ("backward", "jvp") if (part := written.__dict__.get(name)) is not None}
    return type(written.__name__, (torch.autograd.Function,), parts)


def _without_tangents(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a backward that raises where its cotangents have tangents: some of its operators would lose them."""

    @functools.wraps(backward)
    def call(ctx: Any, *cotangents: Any) -> Any:
        if not is_compiling() and forward_ad._current_level >= 0:
            tensors = [dy for dy in cotangents if isinstance(dy, torch.Tensor)]
            if any(forward_ad.unpack_dual(dy).tangent is not None for dy in tensors):
                raise NotImplementedError(
                    "a native operator that ran outside of a forward-mode transform has a backward that can't be "
                    "transformed: call the operator within the transform, or run it under "
                    "hsr_kernels.use_backend('reference')"
                )
        return backward(ctx, *cotangents)

    return call


def is_batched(x: torch.Tensor) -> bool:
    """Whether x stands for a batch of tensors, under vmap or in batched gradients (`is_grads_batched`)."""
    if is_compiling():
        return False
    functorch = torch._C._functorch
    # Transforms within each other wrap tensors within each other.
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return functorch.is_legacy_batchedtensor(x)


def is_transformed() -> bool:
    """Whether a compiler, a trace or a transform takes in the calls, and knows no more than usual functions."""
    return is_compiling() or torch.jit.is_tracing() or _active() is not None or forward_ad._current_level >= 0


def is_differentiated(x: torch.Tensor) -> bool:
    """Whether derivatives with respect to x may be taken: by autograd, or by any of the transforms around the call."""
    if not torch.is_grad_enabled():
        return False
    if is_compiling():
        return x.requires_grad
    functorch = torch._C._functorch
    # The wrapper of an inner transform doesn't tell that an outer one differentiates what it wraps.
    while functorch.is_functorch_wrapped_tensor(x):
        if x.requires_grad:
            return True
        x = functorch.get_unwrapped(x)
    return x.requires_grad


def is_recorded() -> bool:
    """Whether calls are recorded as a program that holds PyTorch's own operators alone, and no Python."""
    if is_compiling():
        return _demand_of_graph() != ""
    return torch.jit.is_tracing() or "Functionalize" in _active_transforms()


def needs_reference() -> str:
    """Why operators must run as plain PyTorch in the current context, "" where they needn't.

    Forward-mode derivatives, TorchScript, exported programs and some transforms know PyTorch's own operators only.
    """
    if is_compiling():
        return _demand_of_graph()
    if torch.jit.is_tracing():
        return "torch.jit.trace can only hold PyTorch's own operators"
    transforms = _active_transforms()
    if forward_ad._current_level >= 0 or "Jvp" in transforms:
        return "forward-mode derivatives are known to PyTorch's own operators only"
    if "Functionalize" in transforms:
        return "torch.func.functionalize can only rewrite PyTorch's own operators"
    return ""


def _demand_of_graph() -> str:
    """Why the graph that is being made must hold PyTorch's own operators alone, "" where it needn't."""
    if torch.compiler.is_exporting():
        return "torch.export can only hold PyTorch's own operators"
    # Within a transform torch.compile loses the derivatives of Functions without an error.
    if _active() is not None or forward_ad._current_level >= 0:
        return "torch.compile can only transform PyTorch's own operators"
    return ""


# What torch.compiler.assume_constant_result does, less its import of the whole compiler, Triton included. Traced like
# other code, torch.compile of PyTorch 2.9 would take itself for torch.export.
_demand_of_graph._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _active_transforms() -> Sequence[str]:
    """The kinds of the transforms around the call, as PyTorch names them: torch.func.jvp is a "Jvp"."""
    return () if _active() is None else [transform.key().name for transform in _stack() or ()]
