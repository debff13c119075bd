# SPDX-License-Identifier: Apache-2.0
"""Branches of the Triton launchers that only large or long tensors take, on small ones and in the interpreter."""

import dataclasses
import importlib

import pytest
import torch

from hsr_kernels import use_route
from tests.cases import BY_NAME, FIR4, FIR12, Case
from tests.native import TRITON_DEVICES
from tests.ops.test_parity import check
from tests.selection import every_other

_INTERPRETED = [pytest.param("cpu", marks=TRITON_DEVICES["cpu"]), pytest.param("cuda", marks=TRITON_DEVICES["cuda"])]
DEVICES = pytest.mark.parametrize("device", _INTERPRETED)
LAYOUTS = ("contiguous", "channels_last")
# Rows whose length is a multiple of 16 are walked in vectors; paddings begin at every position within a vector.
ROWS = [
    Case("upfirdn2d", f"{name}-{f.numel()}-{pad}", {"x": (1, 3, 19, 32)},
         {"f": f, "padding": (pad, f.shape[0] - 1 - pad, 3, 1), "flip_filter": pad % 2 == 0, **options})
    for name, options in (("same", {}), ("up", {"up": 2, "gain": 4}), ("down", {"down": 2}))
    for f in (FIR4, FIR12)
    for pad in (-5, -1, 0, 1, 2, 3, 9)
]  # fmt: skip


def _implementation(op: str):
    return importlib.import_module(f"hsr_kernels.{op}.triton_impl")


def _layer():
    return pytest.importorskip("hsr_kernels.modulated_conv2d.triton_impl")


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "case, dtype",
    every_other(
        pytest.param(case, torch.float16 if i // 2 % 2 else torch.float32, id=case.name) for i, case in enumerate(ROWS)
    ),
)
@DEVICES
def test_rows_in_vectors(case, device, dtype, monkeypatch):
    module, seen = _implementation("upfirdn2d"), []
    plan = module.Pass.vectors
    monkeypatch.setattr(module.Pass, "vectors", lambda *args: seen.append(plan(*args)) or seen[-1])
    check(case, "triton", device, "contiguous", dtype, 0)
    assert seen and all(seen), "these cases must run the kernel of rows"
    check(case, "triton", device, "contiguous", dtype, 1)


@pytest.fixture
def int64_offsets(monkeypatch):
    """Lowers the limit, so that small tensors take the branch for more than 2^30 elements per sample or matrix."""
    monkeypatch.setattr(pytest.importorskip("hsr_kernels._triton"), "_MAX_INT32_ELEMENTS", 0)


@pytest.mark.usefixtures("poisoned_memory", "int64_offsets")
@pytest.mark.parametrize(
    "name, layout, order",
    every_other(
        ("modulated_conv2d-styled", "modulated_conv2d-styled-up", "modulated_conv2d-to-rgb"), LAYOUTS, (0, 1, 2)
    ),
)
@DEVICES
def test_64_bit_offsets_of_a_layer(name, layout, device, order):
    check(BY_NAME[name], "triton", device, layout, torch.float32, order)


@pytest.mark.usefixtures("poisoned_memory", "int64_offsets")
@DEVICES
def test_64_bit_offsets_of_one_kernel(device):
    with use_route("fused"):
        check(BY_NAME["modulated_conv2d-several-tiles"], "triton", device, "channels_last", torch.float32, 1)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "name, split",
    every_other(("modulated_conv2d-several-tiles", "modulated_conv2d-styled"), ((1, 2), (2, 1), (3, 1))),
)
@DEVICES
def test_weight_gradient_as_a_sum_of_parts(name, split, device, monkeypatch):
    """Where a layer has few weights, programs share the images and their sums are added up."""
    asked = []
    monkeypatch.setattr(_layer(), "_split", lambda *_: asked.append(split) or split)
    with use_route("fused"):
        check(BY_NAME[name], "triton", device, "channels_last", torch.float32, 1)
    assert asked


def test_weight_gradient_is_split_between_programs():
    split = _layer()._split
    # 108 programs of 3 samples each.
    assert split(8, 512, 36, 132, 3) == (1, 3)
    # Nothing is gained without more sums.
    assert split(8, 512, 144, 132, 1) == (1, 8)
    # 126 programs, each for a part of a sample.
    assert split(1, 512, 9, 132, 64) == (14, 1)
    # A part is no less than a tile.
    assert split(1, 4, 9, 132, 64) == (4, 1)
    assert split(4, 512, 9, 132, 0) == (1, 4)
    for n, tiles, programs in ((5, 7, 3), (32, 2, 9), (1, 1, 1)):
        splits, samples = split(n, tiles, programs, 132, 64)
        assert 1 in (splits, samples) and 1 <= splits <= tiles and 1 <= samples <= n


@pytest.mark.usefixtures("poisoned_memory", "int64_offsets")
@pytest.mark.parametrize("name, layout, order", every_other(("grow-equal-shrink", "no-multiples"), LAYOUTS, (0, 1)))
@DEVICES
def test_64_bit_offsets_of_the_loss(name, layout, device, order):
    check(BY_NAME[f"feature_projection_loss-{name}"], "triton", device, layout, torch.float32, order)


def _with_size(case: Case, size: tuple[int, int]) -> Case:
    return dataclasses.replace(case, shapes=case.shapes | {"x": (*case.shapes["x"][:2], *size)})


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("layout", LAYOUTS)
@DEVICES
def test_programs_that_take_many_tiles(layout, device, monkeypatch):
    """Where sums are kept, programs take several tiles each if there are many."""
    for op, case in (
        ("bias_act", Case("bias_act", "long", {"x": (2, 96, 33, 17), "b": (96,)}, {"act": "lrelu"})),
        ("modulated_conv2d", BY_NAME["modulated_conv2d-styled"]),
        ("modulated_conv2d", _with_size(BY_NAME["modulated_conv2d-to-rgb"], (23, 17))),
    ):
        monkeypatch.setattr(_implementation(op), "_PROGRAMS", 1)
        for order in (1, 2):
            check(case, "triton", device, layout, torch.float32, order)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "shape, act, layout",
    every_other(
        ((8, 3, 8, 8), (2, 5, 3, 7), (4, 300, 2, 2), (1, 1, 40, 40), (0, 3, 4, 4)), ("lrelu", "swish"), LAYOUTS
    ),
)
@DEVICES
def test_rows_that_hold_several_pixels(shape, act, layout, device):
    case = Case("bias_act", "folded", {"x": shape, "b": shape[1:2]}, {"act": act, "clamp": 1.0})
    for order in (0, 1, 2):
        check(case, "triton", device, layout, torch.float32, order)


def test_grids_of_flat_tensors_use_the_first_axis_only():
    """The other axes end at 65535 programs, which a tensor of 2^28 elements without a bias would exceed."""
    pytest.importorskip("triton")
    matrix = _implementation("bias_act")._matrix
    for shape, per_channel in (((2**32,), False), ((1, 1, 2**16, 2**16), True), ((2**20, 2**12), True)):
        grid = matrix(torch.empty(shape, device="meta"), len(shape) > 1, per_channel).grid
        assert len(grid) == 1 and 0 < grid[0] < 2**31
