# SPDX-License-Identifier: Apache-2.0
"""The counts behind the roofline, against numbers known from arithmetic."""

from dataclasses import replace

import pytest
import torch

from benchmarks import roofline
from benchmarks.cases import BOTH, FORWARD, GPU_CASES, Case
from tests.native import requires_native

pytestmark = requires_native
BY_NAME = {case.name: case for case in GPU_CASES}


def works(case: Case) -> dict[str, roofline.Work]:
    return {work.phase: work for work in roofline.estimate(case)}


def test_bias_act_moves_no_more_than_it_must():
    found = works(BY_NAME["bias_act_bf16"])
    image, bias = 8 * 128 * 256 * 256 * 2, 128 * 4
    assert found[FORWARD].fewest == 2 * image + bias
    # Backward reads dy and y and writes dx and db.
    assert found[BOTH].fewest == 5 * image + 2 * bias
    for work in found.values():
        assert work.moved / work.fewest < 1.01 and work.flops == 0


@pytest.mark.parametrize("name", [name for name in BY_NAME if name.startswith(("up", "down", "filter", "bias"))])
def test_operators_bound_by_memory_move_little_more_than_the_fewest_bytes(name):
    for work in works(BY_NAME[name]).values():
        assert 1 <= work.moved / work.fewest <= 1.15


def test_operations_of_a_styled_layer():
    found = works(BY_NAME["styled_128"])
    products = 2 * 8 * 128 * 128 * 256 * 256 * 9
    demodulation = 2 * 8 * 256 * 256
    assert found[FORWARD].flops == products + demodulation
    assert found[BOTH].flops == 3 * (products + demodulation)
    assert set(found[FORWARD].operators) >= {"hsr_kernels::scale_channels", "hsr_kernels::modulated_conv2d_epilogue"}


def test_expanded_tensors_count_what_exists():
    assert roofline._bytes([torch.zeros(4).expand(100, 4)]) == 16


def test_views_and_allocations_are_free_and_copies_are_not():
    with roofline._Traffic() as traffic:
        x = torch.empty(8, 8)
        x.t().contiguous()[1:].detach()
    assert set(traffic.operators) == {"aten::clone"}
    assert traffic.operators["aten::clone"] == (1, 2 * 8 * 8 * 4)


def test_floor_is_the_larger_of_both_times():
    chip = roofline.Chip("test", 100.0, {torch.float32: 1000.0})
    assert chip.floor(200.0, 1000.0, torch.float32) == 2.0
    assert chip.floor(200.0, 5000.0, torch.float32) == 5.0


def test_every_gpu_case_is_traced_at_its_tiny_size():
    for case in GPU_CASES:
        small = replace(case, size=case.tiny)
        assert [work.phase for work in roofline.estimate(small)] == ([FORWARD, BOTH] if FORWARD in case.targets else [])
