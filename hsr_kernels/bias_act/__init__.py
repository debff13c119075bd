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

import torch
from torch import is_grad_enabled
from torch.compiler import is_compiling

from .. import _checks
from .._dispatch import operators, request
from .._dispatch.replay import TENSOR_TYPES, Launches, is_watched, may_run
from . import autograd, reference
from .activations import epilogue as epilogue_of

_operator = operators.register(
    "bias_act",
    reference=operators.on_reference(reference.bias_act),
    cpu=operators.on_cpu(autograd.bias_act),
    triton=operators.on_triton(autograd.bias_act),
    cuda=operators.on_cuda(autograd.bias_act),
)
_launches = Launches()


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
    key = None
    # Inline, as each call of a Python function costs as much as a tenth of the launch: see _dispatch/replay.py.
    if (
        not is_compiling()
        and type(x) in TENSOR_TYPES
        and may_run(x.is_cuda, request.BACKEND.used)
        and (b is None or type(b) in TENSOR_TYPES)
        and not is_watched()
        and not (is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad)))
    ):
        b_key = None if b is None else (b.shape, b.is_contiguous(), b.dtype, b.device)
        strides = x.is_contiguous() or x.stride()
        key = (x.shape, strides, x.dtype, x.device, b_key, dim, act, alpha, gain, clamp, request.BACKEND.used)
        try:
            if launch := _launches.get(key):
                return launch(x, b)
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
    if key is not None and choice.backend == "cuda":
        from . import cuda_impl

        _launches.note(key, cuda_impl.prepared(x, b, dim, epilogue))
    return y
