# SPDX-License-Identifier: Apache-2.0
"""How each family of projects is called for what a `Call` describes: names of modules, functions and arguments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..parity.call import Call

Tensors = Mapping[str, torch.Tensor]
Operator = Callable[..., torch.Tensor]
# Takes the project's function, the call's tensors and its options.
Adapter = Callable[[Operator, Tensors, Mapping[str, Any]], torch.Tensor]


@dataclass(frozen=True)
class Entry:
    """Where a project has an operator, and how it is called.

    Attributes:
        module: Within the package of the project's operators.
        function: In that module.
        adapt: Calls it.
        act, takes_clamp: The activations that it has, None for all, and whether it clamps.
    """

    module: str
    function: str
    adapt: Adapter
    act: str | None = None
    takes_clamp: bool = True

    def lacks(self, call: Call) -> str:
        """What of a call the function has no argument for, empty if nothing."""
        if self.act is not None and call.options.get("act", "linear") != self.act:
            return f"activations other than {self.act}"
        return "clamps" if call.options.get("clamp") is not None and not self.takes_clamp else ""


def _same_names(function: Operator, tensors: Tensors, options: Mapping[str, Any]) -> torch.Tensor:
    return function(**tensors, **options)


def _renamed(**names: str) -> Adapter:
    def adapt(function: Operator, tensors: Tensors, options: Mapping[str, Any]) -> torch.Tensor:
        return function(**{names.get(name, name): value for name, value in {**tensors, **options}.items()})

    return adapt


def _fir_before_and_after(up: int = 1, down: int = 1) -> Adapter:
    """For functions with padding (before, after), whose filter has two dimensions and includes the gain."""

    def adapt(function: Operator, tensors: Tensors, options: Mapping[str, Any]) -> torch.Tensor:
        f = options["f"]
        kernel = (torch.outer(f, f) if f.ndim == 1 else f) * up**2
        width = kernel.shape[0]
        # The image stays where it is, as filter2d, upsample2d and downsample2d have it.
        before, after = (width - down + 1, width - down) if down > 1 else (width + up - 1, width - up)
        pad = before // 2, after // 2
        return function(tensors["x"], kernel, up=up, down=down, pad=pad)

    return adapt


def _image_and_bias(function: Operator, tensors: Tensors, options: Mapping[str, Any]) -> torch.Tensor:
    return function(tensors["x"], tensors["b"])


_FIRS = ("upfirdn2d", "filter2d", "upsample2d", "downsample2d")
_NVLABS = {
    **{name: Entry("upfirdn2d", name, _same_names) for name in _FIRS},
    "bias_act": Entry("bias_act", "bias_act", _same_names),
    "filtered_lrelu": Entry("filtered_lrelu", "filtered_lrelu", _same_names),
    "conv2d_resample": Entry("conv2d_resample", "conv2d_resample", _same_names),
}


def _before_and_after(activation: Entry) -> dict[str, Entry]:
    resampled = {"filter2d": (1, 1), "upsample2d": (2, 1), "downsample2d": (1, 2)}
    firs = {op: Entry("upfirdn2d", "upfirdn2d", _fir_before_and_after(*factors)) for op, factors in resampled.items()}
    return {**firs, "bias_act": activation}


_ROSINALITY = _before_and_after(Entry("fused_act", "fused_leaky_relu", _image_and_bias, "lrelu", takes_clamp=False))
_MMCV = {
    **{name: Entry("upfirdn2d", name, _renamed(x="input", f="filter")) for name in _FIRS},
    "bias_act": Entry("bias_act", "bias_act", _renamed(x="input", b="bias")),
    "filtered_lrelu": Entry(
        "filtered_lrelu", "filtered_lrelu", _renamed(x="input", fu="filter_up", fd="filter_down", b="bias")
    ),
}
# By family: operator -> entry.
FAMILIES: Mapping[str, Mapping[str, Entry]] = {"nvlabs": _NVLABS, "rosinality": _ROSINALITY, "mmcv": _MMCV}
# Up to 2.0.0rc4.
MMCV_1: Mapping[str, Entry] = _before_and_after(
    Entry("fused_bias_leakyrelu", "fused_bias_leakyrelu", _image_and_bias, "lrelu", takes_clamp=False)
)
