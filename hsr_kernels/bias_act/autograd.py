# SPDX-License-Identifier: Apache-2.0
"""Derivatives of bias_act over the native operators.

The derivative of most activations can be recovered from the output y, so y is what is kept, and second derivatives flow
into y: dx = dy * slope(y), and the node of y passes the rest on to x and b. Swish keeps x and b instead.
"""

import torch

from .._dispatch.functions import Function
from .._dispatch.replay import is_repeatable
from .._tensors import cast
from . import ops, reference
from .activations import IDENTITY, Epilogue


def bias_act(backend: str, x: torch.Tensor, b: torch.Tensor | None, dim: int, epilogue: Epilogue) -> torch.Tensor:
    """clamp(act(x + b) * gain), the bias along dimension `dim`."""
    # The output is zero everywhere: nothing can be recovered from it.
    if epilogue.gain == 0:
        return reference.bias_act(x, b, dim, epilogue)
    return BiasAct.apply(x, b, dim, epilogue, backend, None)


@Function
class BiasAct(torch.autograd.Function):
    """y from x and b; by remembered `launches`, which are None elsewhere."""

    @staticmethod
    def forward(x, b, dim, epilogue, backend, launches):
        if launches is not None:
            return launches.forward(x, b)
        return ops.bias_act[backend](x, b, dim, *epilogue.args)

    @staticmethod
    def setup_context(ctx, inputs, y):
        x, b, ctx.dim, ctx.epilogue, ctx.backend, ctx.launches = inputs
        ctx.b_dtype = None if b is None else b.dtype
        if not ctx.epilogue.from_output:
            ctx.save_for_backward(x, b)
        elif ctx.epilogue.act != "linear" or ctx.epilogue.clamp >= 0:
            ctx.save_for_backward(y, None)
        else:
            ctx.save_for_backward(None, None)

    @staticmethod
    def backward(ctx, dy):
        ref, b = ctx.saved_tensors
        needs_db = ctx.needs_input_grad[1]
        ref = dy if ref is None else ref
        if ctx.launches is not None and is_repeatable(ctx.launches.strides, dy, ref):
            dx, db = ctx.launches.backward(dy, ref, b, needs_db)
        else:
            dx, db = BiasActBackward.apply(dy, ref, b, ctx.dim, ctx.epilogue, needs_db, ctx.backend)
        return dx, cast(db, ctx.b_dtype) if needs_db else None, None, None, None, None


@Function
class BiasActBackward(torch.autograd.Function):
    """(dx, db) from dy and ref, which is y or, with b, x; db has the dtype of sums and is empty unless needed."""

    @staticmethod
    def forward(dy, ref, b, dim, epilogue, needs_db, backend):
        return ops.bias_act_bwd[backend](dy, ref, b, dim, epilogue.from_output, needs_db, *epilogue.args)

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        dy, ref, b, ctx.dim, ctx.epilogue, _, ctx.backend = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dy if ctx.epilogue.activation.curved else None, ref, b)

    @staticmethod
    def backward(ctx, ddx, ddb):
        dy, ref, b = ctx.saved_tensors
        if ddb is not None and ddb.numel():
            ddx = _plus_bias(ddx, ddb.to(ref.dtype), ref, ctx.dim, ctx.backend)
        if ddx is None:
            return (None,) * 7
        if not ctx.epilogue.activation.curved:
            ddy, _ = BiasActBackward.apply(ddx, ref, b, ctx.dim, ctx.epilogue, False, ctx.backend)
            return ddy, None, None, None, None, None, None
        ddy, dref = BiasActSecond.apply(ddx, dy, ref, b, ctx.dim, ctx.epilogue, ctx.backend)
        db = None
        if b is not None and ctx.needs_input_grad[2]:
            db = dref.sum([d for d in range(ref.ndim) if d != ctx.dim]).to(b.dtype)
        return ddy, dref, db, None, None, None, None


def _plus_bias(x, b, like, dim, backend):
    """Returns x + b, where x None stands for zeros like `like`, the bias along dimension `dim`."""
    if x is None:
        return b.reshape([-1 if d == dim else 1 for d in range(like.ndim)]).expand_as(like)
    # PyTorch's own sum with a tensor that it expands is several times slower on CPUs.
    return BiasAct.apply(x, b, dim, IDENTITY, backend, None)


@Function
class BiasActSecond(torch.autograd.Function):
    """Derivatives of BiasActBackward with respect to dy and ref, for curved activations."""

    @staticmethod
    def forward(ddx, dy, ref, b, dim, epilogue, backend):
        return ops.bias_act_bwd_bwd[backend](ddx, dy, ref, b, dim, epilogue.from_output, *epilogue.args)

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        """Keeps nothing: there is no third derivative."""

    @staticmethod
    def backward(ctx, *cotangents):
        raise NotImplementedError(
            "only the reference backend has the third derivative of bias_act with a curved activation: "
            "run it under hsr_kernels.use_backend('reference')"
        )
