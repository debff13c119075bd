# SPDX-License-Identifier: Apache-2.0
"""One call of an operator, described: what the tests and the benchmarks draw tensors for and differentiate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import hsr_kernels

_CURVED_ACTIVATIONS = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an operator.

    Attributes:
        op: Name of the public function.
        name: Unique within the operator.
        shapes: Tensor argument -> shape. Arguments of `feature_projection_loss` are spelled "features.0", "w1.0" ...
        options: The other arguments, filters included.
        constants: Tensors that no derivative is taken of.
        degenerate: The output or its second derivative vanishes for this case, so non-zero derivatives aren't expected.
    """

    op: str
    name: str
    shapes: Mapping[str, tuple[int, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[str, ...] = ()
    degenerate: bool = False

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"

    @property
    def differentiated(self) -> tuple[str, ...]:
        """The tensors that derivatives are taken of."""
        return tuple(name for name in self.shapes if name not in self.constants)

    def call(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Runs the public function."""
        device = next(iter(tensors.values())).device
        options: dict[str, Any] = {
            k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in self.options.items()
        }
        if self.op == "feature_projection_loss":
            return hsr_kernels.feature_projection_loss(*_scales(tensors), **options)
        return getattr(hsr_kernels, self.op)(**tensors, **options)

    def nonlinear_tensors(self) -> tuple[str, ...]:
        """The tensors in which the operator isn't (piecewise) linear, so that its second derivative isn't zero."""
        if self.degenerate or 0 in next(iter(self.shapes.values())):
            return ()
        curved_activation = self.options.get("act", "linear") in _CURVED_ACTIVATIONS
        tensors = {
            "bias_act": (),
            "conv2d": ("input", "weight"),
            "conv_transpose2d": ("input", "weight"),
            "conv2d_resample": ("x", "w"),
            "modulated_conv2d": ("x", "weight", "styles"),
            "grid_sample": ("input", "grid"),
            "feature_projection_loss": self.differentiated,
        }.get(self.op, ())
        return self.differentiated if curved_activation else tensors


def _scales(tensors: Mapping[str, torch.Tensor]) -> tuple[list, list, list]:
    """Groups "features.0", "w1.0" ... to the lists that feature_projection_loss takes."""
    count = sum(name.startswith("features.") for name in tensors)
    heads = [tuple(tensors[f"{part}.{i}"] for part in ("w1", "b1", "w2", "b2")) for i in range(count)]
    return (
        [tensors[f"features.{i}"] for i in range(count)],
        [tensors[f"targets.{i}"] for i in range(count)],
        heads,
    )
