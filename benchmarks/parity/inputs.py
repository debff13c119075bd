# SPDX-License-Identifier: Apache-2.0
"""Draws the tensors of a case, lays them out in memory and differentiates.

Derivatives jump at the kinks of relu, lrelu, elu and selu, of a clamp and of bilinear sampling: where a pre-activation
rounds to the other side of a kink, a derivative changes by O(1) in any correct implementation. So no test looks there.
Where the kink is on the output's side of the operator, the cotangent of the output is zero next to it, and the
derivative with respect to the cotangent isn't compared there. The hidden layer of the feature loss and the upsampled
images of filtered_lrelu are redrawn until none of it is next to a kink.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from hsr_kernels import bias_act, upfirdn2d, use_backend

from .call import Call

LAYOUTS = ("contiguous", "channels_last", "slice")
_KINKED_ACTIVATIONS = ("relu", "lrelu", "elu", "selu")
_IMAGES = ("x", "input", "features", "targets", "noise", "cotangent")


@dataclass(frozen=True)
class Inputs:
    """Contiguous tensors of one case; cotangents are drawn with them, so that all backends get the same.

    Attributes:
        tensors: Argument -> tensor.
        cotangent: Of the output; zero next to kinks.
        second: Argument -> cotangent of its first derivative.
        smooth: Where the output is away from kinks.
    """

    tensors: Mapping[str, torch.Tensor]
    cotangent: torch.Tensor
    second: Mapping[str, torch.Tensor]
    smooth: torch.Tensor

    def in_float64(self) -> "Inputs":
        """The same values in float64."""
        return Inputs(
            {name: t.double() for name, t in self.tensors.items()},
            self.cotangent.double(),
            {name: t.double() for name, t in self.second.items()},
            self.smooth,
        )


def draw(
    case: Call,
    dtype: torch.dtype,
    number: int = 0,
    change: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, tensor: tensor,
) -> Inputs:
    """Draws the tensors of `case`, rounded to `dtype`: the same for the same number.

    Args:
        change: Takes the name of an argument and what was drawn in float64, and returns what is to stand there.
    """
    for attempt in range(100):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{case}/{number}/{attempt}".encode()))
        drawn = {name: _draw(name, shape, generator) for name, shape in case.shapes.items()}
        tensors = {name: change(name, t).to(dtype) for name, t in drawn.items()}
        if _hidden_is_smooth(case, tensors):
            break
    else:
        raise AssertionError(f"{case} has too many hidden values to keep all of them away from the kinks")
    with torch.no_grad(), use_backend("reference"):
        out = case.call({name: t.double() for name, t in tensors.items()})
    # The loss is float32 even of half-precision features; so is its cotangent.
    loss_dtype = torch.promote_types(dtype, torch.float32)
    smooth = _smooth(case, tensors, dtype).expand_as(out)
    return Inputs(
        tensors,
        (_normal(out.shape, generator) * smooth).to(loss_dtype if "loss" in case.op else dtype),
        {name: _normal(case.shapes[name], generator).to(dtype) for name in case.differentiated},
        smooth,
    )


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    values = _normal(shape, generator)
    if name == "grid":
        # Most positions lie inside the image, some outside.
        return 0.6 * values
    if name in ("styles", "demodulate"):
        return 1 + 0.5 * values
    if name.startswith("w") and len(shape) > 1:
        return values * max(values[0].numel(), 1) ** -0.5
    return values


def _hidden_is_smooth(case: Call, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether no value inside the operator is so close to a kink that adding up in another order gets beyond it."""
    if case.op == "filtered_lrelu":
        return _upsampled_is_smooth(case, tensors)
    margin = 16 * torch.finfo(torch.float32).eps
    for name, x in tensors.items():
        part, _, i = name.partition(".")
        if part == "features":
            w, b = tensors[f"w1.{i}"].double(), tensors[f"b1.{i}"].double()
            if (F.conv2d(x.double(), w[:, :, None, None], b).abs() < margin).any():
                return False
    return True


def _upsampled_is_smooth(case: Call, tensors: Mapping[str, torch.Tensor]) -> bool:
    """The same of filtered_lrelu. What is exactly 0, such as padding, is so in any order."""
    options = {name: case.options[name] for name in ("up", "padding", "flip_filter") if name in case.options}
    x = sum((t.double() if t.ndim == 4 else t.double()[:, None, None] for t in tensors.values()), torch.zeros(()))
    with torch.no_grad(), use_backend("reference"):
        pre = upfirdn2d(x, case.options["fu"], gain=options.get("up", 1) ** 2, **options)
    slope, gain, clamp = (case.options.get(name) for name in ("slope", "gain", "clamp"))
    activation = Call("bias_act", case.name, {}, {"act": "lrelu", "alpha": slope, "gain": gain, "clamp": clamp})
    margin = 4 * torch.finfo(torch.float32).eps * pre.abs().amax() if pre.numel() else 0
    return not ((_distance_to_kinks(pre, activation) < margin) & (pre != 0)).any()


def _smooth(case: Call, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Where the output is further from kinks than rounding reaches, in a shape that expands to the output's."""
    reach = 4 * torch.finfo(dtype).eps
    if case.op in ("bias_act", "modulated_conv2d"):
        pre = _pre_activation(case, tensors)
        return _distance_to_kinks(pre, case) > reach * pre.abs().amax() if pre.numel() else pre.bool()
    if case.op == "grid_sample":
        height, width = tensors["input"].shape[2:]
        size = torch.tensor([width, height], dtype=torch.float64)
        position = ((tensors["grid"].double() + 1) * size - 1) / 2
        return ((position - position.round()).abs() > reach * size).all(-1)[:, None]
    return torch.ones((), dtype=torch.bool)


def _pre_activation(case: Call, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Input of the activation, in float64."""
    options = {k: v for k, v in case.options.items() if k not in ("act", "alpha", "gain", "clamp")}
    with torch.no_grad(), use_backend("reference"):
        return Call(case.op, case.name, case.shapes, options).call({name: t.double() for name, t in tensors.items()})


def _distance_to_kinks(pre: torch.Tensor, case: Call) -> torch.Tensor:
    """How far each pre-activation is from 0 and its image from the clamp, where these are kinks."""
    act, clamp = case.options.get("act", "linear"), case.options.get("clamp")
    distance = pre.abs() if act in _KINKED_ACTIVATIONS else torch.full_like(pre, torch.inf)
    if clamp is not None and clamp > 0:
        options: dict[str, Any] = {name: case.options.get(name) for name in ("alpha", "gain")}
        with use_backend("reference"):
            image = bias_act(pre, act=act, **options)
        distance = torch.minimum(distance, (image.abs() - clamp).abs())
    return distance


def lay_out(name: str, tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """A copy of `tensor` in another memory layout: `slice` cuts it out of a larger buffer that is NaN elsewhere.

    channels_last is for images; weights stay contiguous there, as training has them.
    """
    if layout == "slice":
        buffer = tensor.new_full([size + 3 for size in tensor.shape], torch.nan)
        inner = buffer[tuple(slice(1, size + 1) for size in tensor.shape)]
        return inner.copy_(tensor)
    if layout == "channels_last" and tensor.ndim == 4 and name.partition(".")[0] in _IMAGES:
        return tensor.clone(memory_format=torch.channels_last)
    return tensor.clone(memory_format=torch.contiguous_format)


def evaluate(
    case: Call, inputs: Inputs, order: int, layout: str = "contiguous", device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """Returns on the CPU, by name: the output (order 0), it and its first derivatives (order 1), or its second ones.

    Order 1 differentiates <output, v> with respect to each tensor. Order 2 differentiates the sum over tensors of
    <first derivative, u> with respect to each tensor and v, as R1 and path length do.
    """

    def prepare(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return lay_out(name, tensor.to(device), layout)

    tensors = {name: prepare(name, t) for name, t in inputs.tensors.items()}
    if order == 0:
        with torch.no_grad():
            return {"output": case.call(tensors).cpu()}
    leaves = [tensors[name].requires_grad_() for name in case.differentiated]
    v = prepare("cotangent", inputs.cotangent).requires_grad_(order == 2)
    y = case.call(tensors)
    first = torch.autograd.grad(y, leaves, v, create_graph=order == 2)
    if order == 1:
        results = {f"d/d({name})": g.cpu() for name, g in zip(case.differentiated, first, strict=True)}
        return {"output": y.detach().cpu()} | results
    u = [prepare(name, inputs.second[name]) for name in case.differentiated]
    *second, d_cotangent = torch.autograd.grad(first, [*leaves, v], u, materialize_grads=True)
    results = {f"d2/d({name})": g.cpu() for name, g in zip(case.differentiated, second, strict=True)}
    return results | {"d2/d(cotangent)": d_cotangent.cpu() * inputs.smooth}
