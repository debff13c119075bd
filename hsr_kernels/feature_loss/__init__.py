# SPDX-License-Identifier: Apache-2.0
"""The HSR loss: generator features, projected by small heads, against a frozen network's features.

reference           the specification, in plain PyTorch
ops                 the native operators
autograd            derivatives over the native operators
cpu_impl            the operators on the CPU
triton_impl         the operators in Triton: launches
triton_hidden       Triton kernels of the hidden layer
triton_hidden_bwd   Triton kernels of its gradient
triton_projection   Triton kernels of the second layer, its gradients, and sums over parts
triton_common       helpers of these kernels
"""

from collections.abc import Sequence

import torch

from .. import _checks
from .._dispatch import operators
from . import autograd, reference
from .reference import Head

_operator = operators.register(
    "feature_projection_loss",
    folder="feature_loss",
    reference=operators.on_reference(reference.feature_projection_loss),
    cpu=operators.on_cpu(autograd.feature_projection_loss),
    triton=operators.on_triton(autograd.feature_projection_loss),
    without={"cuda": "; it is compute-bound"},
)


def feature_projection_loss(
    features: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    heads: Sequence[Head],
    *,
    hidden_gain: float = 2**0.5,
) -> torch.Tensor:
    """Per scale: mean over everything of (area_resize(w2 @ (relu(w1 @ x + b1) * hidden_gain) + b2, T) - target)^2.

    The area resize is adaptive average pooling, both when it shrinks and when it grows. It is linear, as is the second
    layer, so the fast backends pool the hidden layer first wherever the map shrinks, and never keep the hidden layer.

    Args:
        features: One [N, C_i, H_i, W_i] per scale, float32, float16, bfloat16 or float64.
        targets: One [N, D_i, T_i, T_i] per scale; constants, no gradient reaches them.
        heads: One (w1 [K, C_i], b1 [K], w2 [D_i, K], b2 [D_i]) per scale, cast to the dtype of the feature.
        hidden_gain: Factor on the hidden layer.

    Returns:
        [num_scales], float32 (float64 for float64 features).

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device.

    Derivatives: first order native, with respect to features and heads; higher orders fall back to the reference.

    Source: Hierarchical Semantic Regularization of Latent Spaces in StyleGANs (Karmali et al., ECCV 2022).
    """
    for name, value in (("features", features), ("targets", targets), ("heads", heads)):
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name} must be a list or tuple with one entry per scale, got {type(value).__name__}")
    if not len(features) == len(targets) == len(heads):
        raise ValueError(
            "features, targets and heads must have one entry per scale, "
            f"got {len(features)}, {len(targets)} and {len(heads)}"
        )
    if not features:
        raise ValueError("features must have at least one scale, got none")
    for i, scale in enumerate(zip(features, targets, heads, strict=True)):
        _check_scale(i, *scale)
    choice, gain = _operator.choose(features[0]), _checks.number("hidden_gain", hidden_gain)
    return _operator.run(choice, features[0].device, features, targets, heads, gain)


def _check_scale(i: int, x: torch.Tensor, target: torch.Tensor, head: Head) -> None:
    _checks.tensor(f"features[{i}]", x, ndim=4)
    _checks.tensor(f"targets[{i}]", target, ndim=4)
    if not isinstance(head, (list, tuple)) or len(head) != 4:
        got = f"{len(head)} entries" if isinstance(head, (list, tuple)) else type(head).__name__
        raise ValueError(f"heads[{i}] must be (w1, b1, w2, b2), got {got}")
    tensors = dict(zip(("w1", "b1", "w2", "b2"), head, strict=True))
    for name, value in tensors.items():
        _checks.tensor(f"heads[{i}].{name}", value, ndim=2 if name.startswith("w") else 1)
    _checks.same_device(
        f"features[{i}]", x, **{f"targets[{i}]": target}, **{f"heads[{i}].{k}": v for k, v in tensors.items()}
    )
    hidden_channels, out_channels = tensors["w1"].shape[0], tensors["w2"].shape[0]
    _checks.shape(f"heads[{i}].w1", tensors["w1"], (hidden_channels, x.shape[1]))
    _checks.shape(f"heads[{i}].b1", tensors["b1"], (hidden_channels,))
    _checks.shape(f"heads[{i}].w2", tensors["w2"], (out_channels, hidden_channels))
    _checks.shape(f"heads[{i}].b2", tensors["b2"], (out_channels,))
    for name, images in ((f"features[{i}]", x), (f"targets[{i}]", target)):
        if 0 in images.shape[2:]:
            raise ValueError(f"{name} must have pixels, got shape {list(images.shape)}")
    if tuple(target.shape) != (x.shape[0], out_channels, target.shape[2], target.shape[2]):
        raise ValueError(
            f"targets[{i}] must have shape [{x.shape[0]}, {out_channels}, T, T] for features {list(x.shape)} "
            f"and w2 {list(tensors['w2'].shape)}, got {list(target.shape)}"
        )
