# SPDX-License-Identifier: Apache-2.0
"""Bias, activation, gain and clamp in one pass.

activations   the activations: codes, defaults, and what a backward needs
reference     the specification, in plain PyTorch
ops           the native operators
autograd      derivatives over the native operators
cpu_impl      the operators on the CPU
triton_impl   the operators in Triton: kernels and launches
cuda_impl     the operators in CUDA, and launches that can be repeated
"""

from collections.abc import Callable

import torch
from torch import is_grad_enabled
from torch.compiler import is_compiling

from .. import _checks
from .._dispatch import native, operators, request
from .._dispatch.replay import Calls, is_plain, is_watched
from . import autograd, reference
from .activations import Epilogue
from .activations import epilogue as epilogue_of

_operator = operators.register(
    "bias_act",
    reference=operators.on_reference(reference.bias_act),
    cpu=operators.on_cpu(autograd.bias_act),
    triton=operators.on_triton(autograd.bias_act),
    cuda=operators.on_cuda(autograd.bias_act),
)
_calls = Calls()


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> torch.Tensor:
    """clamp(act(x + b) * gain).

    Args:
        x: Any shape, float32, float16, bfloat16 or float64; dense layouts (channels_last too) run
            without a copy.
        b: Bias [x.shape[dim]], cast to the dtype of x, or None.
        dim: The dimension of x that b runs along.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: Slope of lrelu below zero (default 0.2).
        gain: Factor after the activation (default sqrt(2) for relu, lrelu and swish, 1 for the rest).
        clamp: The output is limited to [-clamp, clamp], which also masks the gradient; None or negative: no limit.

    Returns:
        A tensor of the shape, dtype and layout of x.

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device.

    Derivatives: every order for piecewise linear activations, second order for the others (every order on the
    reference backend), with respect to x and b. Under a clamp the gradient is zero where the output has the
    magnitude of the clamp.

    Source: the operator of StyleGAN2 (Karras et al., CVPR 2020).
    """
    key, is_differentiated = None, False
    # Inline, as each call of a Python function costs as much as a tenth of the launch: see _dispatch/replay.py.
    if not is_compiling() and is_plain(x) and (b is None or is_plain(b)) and not is_watched():
        is_differentiated = is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
        b_key = None if b is None else (b.shape, b.is_contiguous(), b.dtype, b.device)
        strides = x.is_contiguous() or x.stride()
        options = (dim, act, alpha, gain, clamp, is_differentiated, request.BACKEND.used, native.triton_recorded)
        key = (x.shape, strides, x.dtype, x.device, b_key, options)
        try:
            if call := _calls.get(key):
                return call(x, b)
        # An argument that can't be hashed is an error, which the checks below report.
        except TypeError:
            key = None
    x = _checks.tensor("x", x)
    epilogue = epilogue_of(act, alpha, gain, clamp, x.dtype)
    if b is not None:
        if not _checks.is_int(dim) or not -x.ndim <= dim < x.ndim:
            raise ValueError(
                f"dim must be an int in [{-x.ndim}, {x.ndim - 1}] for x of shape {list(x.shape)}, got {dim}"
            )
        dim = dim % x.ndim
        _checks.shape("b", _checks.tensor("b", b), (x.shape[dim],))
        _checks.same_device("x", x, b=b)
    dim = dim if b is not None else 0
    choice = _operator.choose(x)
    y = _operator.run(choice, x.device, x, b, dim, epilogue)
    if key is not None:
        _calls.note(key, _repeatable(choice.backend, x, b, dim, epilogue, is_differentiated))
    return y


def _repeatable(
    backend: str, x: torch.Tensor, b: torch.Tensor | None, dim: int, epilogue: Epilogue, is_differentiated: bool
) -> Callable[..., torch.Tensor] | None:
    """Returns what a call with tensors like these does once its arguments are checked and its backend is chosen."""
    if epilogue.gain == 0 or backend == "reference":
        return None
    launches = None
    if backend == "cuda":
        from . import cuda_impl

        if cuda_impl.takes_as_it_is(x, b):
            launches = cuda_impl.Launches(x, b, dim, epilogue)
            if not is_differentiated:
                return launches.forward
    apply = autograd.BiasAct.apply
    return lambda x, b: apply(x, b, dim, epilogue, backend, launches)
