# SPDX-License-Identifier: Apache-2.0
"""The activation of StyleGAN3: upsample, leaky ReLU, downsample, so that what the kink adds doesn't alias.

reference          the specification, in plain PyTorch
geometry           sizes and padding of the two resamplings
ops                the native operators
autograd           derivatives over the native operators, and the composition of other operators
routes             which of the two runs on the triton backend; the cuda backend has the composition alone
cpu_impl           the operators on the CPU
triton_impl        the operators in Triton: launches of the fused kernel, or of those with one filter
triton_fused       the kernel
triton_one_filter  kernels and launches of channels_last images without a filter for upsampling
triton_common      what these kernels share
"""

import math
from collections.abc import Sequence

import torch

from .. import _checks
from .._dispatch import operators
from ..bias_act.activations import epilogue as epilogue_of
from ..upfirdn2d.geometry import Geometry, check_filter, native_limit, validate
from . import autograd, reference, routes
from .geometry import Resamplings


def _describe_composition(*tensors: torch.Tensor) -> tuple[str, ...]:
    return (f"{routes.COMPOSITION}: the cuda backend has no fused kernel",)


_operator = operators.register(
    "filtered_lrelu",
    reference=operators.on_reference(reference.filtered_lrelu),
    cpu=operators.on_cpu(autograd.filtered_lrelu),
    triton=operators.on_triton(autograd.on_triton, routes.describe),
    cuda=operators.on_cuda(autograd.composition, _describe_composition),
    folder="upfirdn2d",
    fused_on=routes.fused_on,
)


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None = None,
    fd: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> torch.Tensor:
    """Adds a bias, upsamples with fu (gain up^2), takes leaky_relu * gain, clamps, downsamples with fd.

    Args:
        x: Images [N, C, H, W], float32, float16, bfloat16 or float64; contiguous or channels_last.
        fu, fd: Filters of the upsampling and of the downsampling, as `upfirdn2d` takes them.
        b: Bias [C], cast to the dtype of x, or None.
        up, down: Integer factors.
        padding: On the upsampled image, before fu: int, (x, y) or (x0, x1, y0, y1); negative crops.
        gain: Factor after the leaky ReLU.
        slope: Of the leaky ReLU below zero.
        clamp: Limits the values between the filters to [-clamp, clamp], which also masks the gradient; None or
            negative: no limit.
        flip_filter: False convolves with both filters, True correlates.

    Returns:
        [N, C, H', W'] in the dtype and layout of x, as the two resamplings give it.

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device; an image smaller than a filter.

    Derivatives: every order, with respect to x and b. A filter that requires grad runs on the reference backend, which
    differentiates it too. Under a clamp the gradient is zero where a value has the magnitude of the clamp.

    Source: the operator of StyleGAN3 (Karras et al., NeurIPS 2021).
    """
    _checks.positive(up=up, down=down)
    up, down = int(up), int(down)
    fu, fd = check_filter(fu, "fu"), check_filter(fd, "fd")
    resamplings = Resamplings(
        validate(x, fu, up, 1, padding, flip_filter, up**2, "fu"),
        Geometry(down=(down, down), flip_filter=bool(flip_filter)),
    )
    _checks.same_device("x", x, fd=fd)
    # This raises where nothing would be left of an image.
    resamplings.sizes(x.shape[2], x.shape[3], fu, fd)
    if b is not None:
        _checks.shape("b", _checks.tensor("b", b), (x.shape[1],))
        _checks.same_device("x", x, b=b)
    epilogue = epilogue_of("lrelu", _checks.number("slope", slope), gain, clamp, x.dtype)
    limit = native_limit(fu, up) or native_limit(fd, down)
    choice = _operator.choose(x, limit, fused_on=routes.fused_on(x, fu, fd, resamplings))
    return _operator.run(choice, x.device, x, fu, fd, b, resamplings, epilogue)
