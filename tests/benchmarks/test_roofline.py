# SPDX-License-Identifier: Apache-2.0
"""The counts behind the roofline, against numbers computed from shapes."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import hsr_kernels as hk
from benchmarks import commands, roofline
from benchmarks.case import Case
from benchmarks.costs import tensor_bytes
from benchmarks.gpu.cases import GPU_CASES
from benchmarks.workloads import BOTH, FORWARD

pytest.importorskip("triton")
BY_NAME = {case.name: case for case in GPU_CASES}
TRACED = [
    pytest.param(case, route, id=f"{case.name}-{route}")
    for case in GPU_CASES
    if BOTH in case.targets
    for route in case.routes
]


def works(case: Case, route: str | None = None) -> dict[str, roofline.Work]:
    return {work.phase: work for work in roofline.estimate(case, route)}


@pytest.mark.parametrize("case, route", TRACED)
def test_no_fused_operator_moves_much_more_than_it_must(case, route):
    for work in works(case, route).values():
        assert any(map(roofline.is_fused, work.operators))
        assert work.wasteful(roofline.MAX_MOVED_RATIO) == {}, work.phase
        for traffic in work.operators.values():
            # Less would mean that something that runs wasn't seen.
            assert traffic.moved_bytes >= 0.99 * traffic.min_bytes


def test_bias_act_moves_no_more_than_it_must():
    found = works(BY_NAME["bias_act_bf16"])
    image, bias = 8 * 128 * 256 * 256 * 2, 128 * 4
    assert found[FORWARD].min_bytes == 2 * image + bias
    # Backward reads dy and y and writes dx and db.
    assert found[BOTH].min_bytes == 5 * image + 2 * bias
    for work in found.values():
        assert work.moved_bytes / work.min_bytes < 1.01 and work.flops == 0
    # The sums of the bias's gradient are PyTorch's to add up.
    parts = found[BOTH].operators["hsr_kernels::bias_act_bwd"].parts
    assert parts.keys() == {"bias_act_bwd_kernel", "aten::sum"}
    assert 3 * image < parts["bias_act_bwd_kernel"] < 3.01 * image


@pytest.mark.parametrize("name", [name for name in BY_NAME if name.startswith(("up", "down", "filter2d", "bias"))])
def test_memory_bound_operators_move_little_more_than_the_fewest_bytes(name):
    for work in works(BY_NAME[name]).values():
        assert 1 <= work.moved_bytes / work.min_bytes <= 1.15


def test_a_copy_within_an_operator_counts_and_is_reported(monkeypatch):
    """The check can fail: an implementation that first copies its input moves twice as much."""
    from hsr_kernels.bias_act import triton_impl

    launch = triton_impl.bias_act
    operator = roofline.library.triton_operators["hsr_kernels::bias_act.triton"]

    def copying(x, *args):
        return launch(x.contiguous(memory_format=torch.channels_last), *args)

    monkeypatch.setattr(operator, "function", copying)
    work = works(BY_NAME["bias_act_bf16"])[FORWARD]
    image = 8 * 128 * 256 * 256 * 2
    assert work.operators["hsr_kernels::bias_act"].parts["aten::clone"] == 2 * image
    assert work.wasteful(roofline.MAX_MOVED_RATIO) == {"hsr_kernels::bias_act": pytest.approx(2, rel=1e-3)}
    assert work.wasteful(2.1) == {}


def test_both_routes_of_a_layer_are_traced():
    layer = {"hsr_kernels::modulated_conv2d_layer"}
    parts = {"hsr_kernels::scale_channels", "aten::convolution", "hsr_kernels::modulated_conv2d_epilogue"}
    case = BY_NAME["styled_512_bf16"]
    fused, convolution = (works(case, route)[FORWARD] for route in case.routes)
    assert (fused.name, convolution.name) == ("styled_512_bf16, fused", "styled_512_bf16, convolution")
    assert layer <= fused.operators.keys() and not parts & fused.operators.keys()
    assert parts <= convolution.operators.keys() and not layer & convolution.operators.keys()
    assert fused.moved_bytes / fused.min_bytes < 1.1 and 3 < convolution.moved_bytes / convolution.min_bytes < 3.1


def test_what_an_implementation_launches_and_calls_is_counted():
    with roofline.counting() as counter:
        x = torch.empty(2, 4, 8, 8)
        hk.bias_act(x.clone(), torch.empty(4, dtype=torch.float16), act="lrelu")
    image, bias = 2 * 4 * 8 * 8 * 4, 4
    traffic = counter.operators["hsr_kernels::bias_act"]
    assert (traffic.calls, traffic.parts["bias_act_kernel"]) == (1, 2 * image + bias * 4)
    # The cast is within the operator, or before it.
    assert traffic.parts.get("aten::_to_copy", 0) in (0, bias * (2 + 4))
    assert traffic.moved_bytes == sum(traffic.parts.values())
    assert (counter.operators["aten::clone"].calls, counter.operators["aten::clone"].moved_bytes) == (1, 2 * image)


def test_command_line_reports_and_fails(capsys):
    commands.roofline_table(case="bias_act_bf16", operators=True)
    printed = capsys.readouterr().out
    assert "no fused operators" in printed and "hsr_kernels::bias_act_bwd" in printed
    with pytest.raises(SystemExit) as stop:
        commands.roofline_table(case="bias_act_bf16", most=0.5)
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "6 fused operators" in printed and "1.00 !" in printed and "bias_act_kernel" in printed


@pytest.mark.parametrize("name", ["styled_128_bf16", "styled_up_128_bf16"])
def test_operations_of_a_styled_layer(name):
    """The count in `Workload.flops` is what PyTorch counts of the convolution and the demodulation."""
    case = replace(BY_NAME[name], dtype=torch.float32, size=BY_NAME[name].size | {"n": 2, "side": 16})
    work = case.workload()
    up, tensors = case.size["up"], [*work.inputs, *work.parameters]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x, styles, weight = tensors[0], tensors[1], tensors[2]
        if up == 1:
            torch.nn.functional.conv2d(x, weight, padding=1)
        else:
            torch.nn.functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        styles.square() @ weight.square().sum([2, 3]).t()
    assert work.flops == counter.get_total_flops()
    found = works(case)
    # The FIR that follows a transposed convolution: four taps in rows, then in columns.
    assert work.filter_flops == (0 if up == 1 else 2 * 2 * work.cotangent.numel() * 4)
    assert found[FORWARD].flops == work.flops + work.filter_flops
    assert found[BOTH].flops == 3 * work.flops + 2 * work.filter_flops


def test_operations_of_the_loss():
    size = {"n": 2, "sides": (4, 8), "channels": (8, 4), "hidden": 16, "dim": 6, "target": 5}
    work = replace(BY_NAME["feature_loss_fp32"], size=size).workload()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for c, side, pixels in ((8, 4, 4 * 4), (4, 8, 5 * 5)):
            torch.randn(16, c) @ torch.randn(c, 2 * side * side)
            torch.randn(6, 16) @ torch.randn(16, 2 * pixels)
    assert work.flops == counter.get_total_flops()


def test_expanded_tensors_count_what_exists():
    assert tensor_bytes([torch.zeros(4).expand(100, 4)]) == 16


def test_views_and_allocations_are_free_and_copies_are_not():
    with roofline._Counter() as counter:
        x = torch.empty(8, 8)
        x.new_zeros(2).t()
        x.t().contiguous()[1:].detach()
    assert counter.operators.keys() == {"aten::new_zeros", "aten::clone"}
    assert counter.operators["aten::new_zeros"].moved_bytes == 2 * 4
    assert counter.operators["aten::clone"].moved_bytes == 2 * 8 * 8 * 4


def test_floor_is_the_larger_of_both_times():
    sheet = roofline.DataSheet("test", 100.0, {torch.float32: 1000.0})
    assert sheet.floor(200.0, 1000.0, torch.float32) == 2.0
    assert sheet.floor(200.0, 5000.0, torch.float32) == 5.0
