# SPDX-License-Identifier: Apache-2.0
"""Triton's cache is filled with exactly what first launches look for there."""

import pytest
import torch

pytest.importorskip("triton")

import hsr_kernels as hk
from hsr_kernels.aot import build, record, warm
from tests.launches import first_launches


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


def layer() -> None:
    """A styled layer and its first derivatives: 16 divides some of the addresses and numbers, and others not."""
    x = torch.empty(2, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, styles, bias = torch.empty(8, 8, 3, 3), torch.empty(2, 8), torch.empty(9)[1:].requires_grad_()
    y = hk.modulated_conv2d(x, weight, styles, torch.empty(6, 6), padding=1, bias=bias, act="lrelu", clamp=256)
    torch.autograd.grad(y.sum(), [x, bias])


def loss() -> None:
    """The HSR loss, whose kernels take tuples and an argument that may be None."""
    head = torch.empty(32, 16), torch.empty(32), torch.empty(16, 32), torch.empty(16)
    targets = [torch.empty(1, 16, 2, 2), torch.empty(1, 16, 4, 4)]
    hk.feature_projection_loss([torch.empty(1, 16, 4, 4)] * 2, targets, [head, head])


@pytest.mark.parametrize("name, work, kernels", [("sm_90", layer, 5), ("sm_90", loss, 3), ("gfx942", layer, 5)])
def test_first_launches_find_what_was_compiled(name, work, kernels, monkeypatch):
    # In this process: the pool of processes has tests of its own.
    monkeypatch.setattr(build, "build_all", lambda jobs, processes, work: (work(*job) for job in jobs))
    chip, told = record.CHIPS[name], []
    calls = [(work.__name__, work)]
    outcome = warm.warm(calls, chip, 3, lambda *numbers: told.append(numbers))
    assert outcome.faults == [] and len(outcome.builds) == len(outcome.launches) == kernels
    assert told == [(done, kernels) for done in range(kernels + 1)]
    with first_launches(chip) as found:
        work()
    compiled = [kernel for kernel, was_there in found.items() if not was_there]
    assert len(found) == kernels and not compiled, f"compiled at their first launch: {compiled}"
    again = warm.warm(calls, chip, 3, lambda *numbers: pytest.fail("nothing was missing"))
    assert again.builds == [] and again.launches == outcome.launches


def test_what_is_not_in_the_cache_is_compiled_by_a_first_launch():
    with first_launches(record.CHIPS["sm_90"]) as found:
        hk.bias_act(torch.empty(2, 16, 4, 4), torch.empty(16))
    assert list(found.values()) == [False]


def test_a_call_that_fails_is_a_sentence():
    def broken() -> None:
        raise ValueError("no such layer.\nAnd more.")

    outcome = warm.warm([("a layer", broken)], record.CHIPS["sm_90"], 1)
    assert outcome.faults == ["a layer: ValueError: no such layer"] and outcome.launches == []
