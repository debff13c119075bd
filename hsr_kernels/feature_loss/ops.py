# SPDX-License-Identifier: Apache-2.0
"""The operators of the HSR loss that its backends implement: the hidden layer, pooled."""

import torch

from .._registry import define, wide


def _fake_hidden(x, w1, b1, th, tw, gain):
    n, _, h, w = x.shape
    pooled = x.new_empty((n, w1.shape[0], th * tw), dtype=wide(x.dtype))
    return pooled, x.new_empty((n, w1.shape[0], (h * w + 7) // 8), dtype=torch.uint8)


def _fake_hidden_bwd(dpooled, mask, x, w1, th, tw, gain, needs_dx, needs_dw):
    return (
        x.new_empty(x.shape if needs_dx else (0,)),
        x.new_empty(w1.shape if needs_dw else (0,), dtype=wide(x.dtype)),
        x.new_empty(w1.shape[0], dtype=wide(x.dtype)),
    )


hidden_op = define(
    "feature_hidden(Tensor x, Tensor w1, Tensor b1, SymInt th, SymInt tw, float gain) -> (Tensor, Tensor)",
    __package__,
    fake=_fake_hidden,
)
hidden_bwd_op = define(
    "feature_hidden_bwd(Tensor dpooled, Tensor mask, Tensor x, Tensor w1, SymInt th, SymInt tw, float gain,"
    " bool needs_dx, bool needs_dw) -> (Tensor, Tensor, Tensor)",
    __package__,
    fake=_fake_hidden_bwd,
)
