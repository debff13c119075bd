# SPDX-License-Identifier: Apache-2.0
"""torch_utils.ops.bias_act."""

import functools
from typing import Any

import torch

from ...bias_act.activations import ACTIVATIONS
from .. import arguments
from ._plugin import _init, _inited, _plugin, on_reference

__all__ = ["_bias_act_ref", "_init", "_inited", "_plugin", "activation_funcs", "bias_act"]


class _Entry(dict[str, Any]):
    """A dictionary whose values are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _entry(name: str) -> _Entry:
    activation = ACTIVATIONS[name]
    return _Entry(
        func=lambda x, alpha=activation.alpha, **_: activation.function(x, alpha),
        def_alpha=activation.alpha,
        def_gain=activation.gain,
        cuda_idx=activation.code + 1,
        ref="" if name == "linear" else "y" if activation.from_output else "x",
        has_2nd_grad=activation.curved,
    )


# What networks read from it are the default gains.
activation_funcs = {name: _entry(name) for name in ACTIVATIONS}


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "cuda",
) -> torch.Tensor:
    """`hsr_kernels.bias_act`; numbers may be tensors, and a gain that is one has a gradient."""
    with on_reference(impl):
        return arguments.bias_act(x, b, dim, act, alpha, gain, clamp)


_bias_act_ref = functools.partial(bias_act, impl="ref")
