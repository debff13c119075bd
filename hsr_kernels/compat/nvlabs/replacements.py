# SPDX-License-Identifier: Apache-2.0
"""What a project's networks define for themselves and this package has, too: the modulated convolution."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import torch

from ...upfirdn2d import setup_filter
from .. import arguments
from . import networks, networks_stylegan3

# The largest difference, relative to the largest value, of functions that compute the same in float32.
MAX_DIFFERENCE = 1e-4


def replacements(module: ModuleType) -> Mapping[str, Any]:
    """{"modulated_conv2d": this package's}, if a module's own has the same arguments and gives the same values."""
    theirs = vars(module).get("modulated_conv2d")
    for ours, calls in ((networks, _calls), (networks_stylegan3, _calls_stylegan3)):
        if _parameters(theirs) == _parameters(ours.modulated_conv2d):
            return {"modulated_conv2d": ours.modulated_conv2d} if _agree(theirs, ours.modulated_conv2d, calls()) else {}
    return {}


def _parameters(function: Any) -> list[tuple[str, Any]]:
    """The names and defaults of a function's arguments, of the one inside where decorators without `wraps` hide it."""
    if not isinstance(function, FunctionType):
        return []
    signature = inspect.signature(function)
    for cell in function.__closure__ or ():
        inner = cell.cell_contents
        if isinstance(inner, FunctionType) and inner.__name__ == function.__name__:
            return _parameters(inner)
    return [(name, parameter.default) for name, parameter in signature.parameters.items()]


def _agree(theirs: Any, ours: Callable[..., torch.Tensor], calls: Iterator[dict[str, Any]]) -> bool:
    """Whether two functions give the same values at all of some calls."""
    for call in calls:
        try:
            with torch.no_grad(), arguments.backend(on_reference=True):
                given, expected = theirs(**call), ours(**call)
        # Whatever a project's own function can't do with these arguments, it isn't what stands here.
        except Exception:
            return False
        if not isinstance(given, torch.Tensor) or given.shape != expected.shape or given.dtype != expected.dtype:
            return False
        if not (given - expected).abs().max() <= MAX_DIFFERENCE * expected.abs().max():
            return False
    return True


def _tensor(*shape: int) -> torch.Tensor:
    """Values that follow no order and leave PyTorch's generators alone."""
    count = torch.Size(shape).numel()
    return (torch.arange(1, count + 1, device="cpu", dtype=torch.float64) * 12.9898).sin().reshape(shape).float() + 0.1


def _calls() -> Iterator[dict[str, Any]]:
    """Of StyleGAN2's: layers that keep the size, that upsample, with noise of both shapes, and ToRGB."""
    x, styles, f = _tensor(2, 3, 6, 6), _tensor(2, 3), setup_filter([1, 3, 3, 1])
    layer = dict(x=x, weight=_tensor(4, 3, 3, 3), styles=styles, padding=1)
    yield dict(layer, noise=_tensor(6, 6), resample_filter=f, fused_modconv=False)
    yield dict(layer, noise=_tensor(2, 1, 12, 12), up=2, resample_filter=f, flip_weight=False)
    yield dict(x=x, weight=_tensor(3, 3, 1, 1), styles=styles, demodulate=False)


def _calls_stylegan3() -> Iterator[dict[str, Any]]:
    """Of StyleGAN3's: layers of both sizes of kernel, and ToRGB."""
    x, s = _tensor(2, 3, 6, 6), _tensor(2, 3)
    yield dict(x=x, w=_tensor(4, 3, 3, 3), s=s, padding=2, input_gain=_tensor(1)[0])
    yield dict(x=x, w=_tensor(4, 3, 1, 1), s=s)
    yield dict(x=x, w=_tensor(3, 3, 1, 1), s=s, demodulate=False, input_gain=_tensor(1)[0])
