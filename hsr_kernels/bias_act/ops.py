# SPDX-License-Identifier: Apache-2.0
"""The operators of bias_act that its backends implement."""

import torch

from .._dispatch.library import define


def _fake_bwd(sum_dtype):
    def fake(dy, ref, b, dim, from_output, needs_db, act, alpha, gain, clamp):
        return torch.empty_like(ref), ref.new_empty(ref.shape[dim] if needs_db else 0, dtype=sum_dtype)

    return fake


_ACT = "int act, float alpha, float gain, float clamp"
bias_act = define(
    f"bias_act(Tensor x, Tensor? b, int dim, {_ACT}) -> Tensor",
    __package__,
    fake=lambda x, b, dim, act, alpha, gain, clamp: torch.empty_like(x),
)
bias_act_bwd = define(
    f"bias_act_bwd(Tensor dy, Tensor ref, Tensor? b, int dim, bool from_output, bool needs_db, {_ACT})"
    " -> (Tensor, Tensor)",
    __package__,
    # CPUs add up in float64, GPUs the partial sums in float32.
    fake={"cpu": _fake_bwd(torch.float64), "triton": _fake_bwd(torch.float32), "cuda": _fake_bwd(torch.float32)},
)
bias_act_bwd_bwd = define(
    f"bias_act_bwd_bwd(Tensor ddx, Tensor dy, Tensor ref, Tensor? b, int dim, bool from_output, {_ACT})"
    " -> (Tensor, Tensor)",
    __package__,
    fake=lambda ddx, dy, ref, b, dim, from_output, act, alpha, gain, clamp: (
        torch.empty_like(ref),
        torch.empty_like(ref),
    ),
)
