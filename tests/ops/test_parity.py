# SPDX-License-Identifier: Apache-2.0
"""Every operator, backend, dtype, layout and order of derivative against the float64 reference."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks.parity import tolerances
from benchmarks.parity.inputs import LAYOUTS, Inputs, draw, evaluate
from hsr_kernels import _gpu, use_backend, use_route
from hsr_kernels.modulated_conv2d import autograd as modulated
from tests.cases import BY_NAME, CASES, FIR12, LARGE_CASES, Case
from tests.native import CUDA_DEVICES, TRITON_DEVICES, requires_native
from tests.selection import FULL, every_other, kept, sampled_entries

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# PyTorch's own kernels compute these, so there is nothing to interpret.
_PYTORCH_OPS = ("conv2d", "conv_transpose2d", "grid_sample")
_OPS_WITHOUT_CUDA_KERNELS = (*_PYTORCH_OPS, "feature_projection_loss")


@pytest.fixture(autouse=True)
def _ieee_float32():
    """Keeps cuDNN and cuBLAS from tf32, which no float32 tolerance allows, and restores what a test allows."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@functools.cache
def _inputs(case: Case, dtype: torch.dtype, number: int = 0) -> Inputs:
    return draw(case, dtype, number)


@functools.cache
def _truth(case: Case, dtype: torch.dtype, order: int, number: int = 0) -> dict[str, torch.Tensor]:
    """Float64 results of the reference on inputs that were rounded to `dtype`."""
    with use_backend("reference"):
        return evaluate(case, _inputs(case, dtype, number).in_float64(), order)


@functools.cache
def _reference_errors(case: Case, dtype: torch.dtype, order: int, layout: str) -> tolerances.Errors:
    """Errors of the reference in `dtype`, {(result, norm): largest of several draws}. It runs in every dtype."""
    return _errors_of_reference(case, dtype, order, lambda inputs: inputs, layout)


def _errors_of_reference(
    case: Case, dtype: torch.dtype, order: int, convert: Callable[[Inputs], Inputs], layout: str = "contiguous"
) -> tolerances.Errors:
    def evaluations() -> Iterator[tuple[tolerances.Results, tolerances.Results]]:
        for number in range(tolerances.DRAWS):
            with use_backend("reference"):
                reference = evaluate(case, convert(_inputs(case, dtype, number)), order, layout)
            yield reference, _truth(case, dtype, order, number)

    return tolerances.largest_errors(evaluations())


def _table():
    """(case, backend, device, layouts, dtype, marks) of every case, backend and dtype, in all layouts that differ."""
    for case in CASES:
        for dtype in DTYPES:
            # The reference is held against itself in one layout, for what its own dtypes and channels_last might break.
            yield case, "reference", "cpu", ("channels_last",), dtype, ()
            yield case, "cpu", "cpu", LAYOUTS, dtype, requires_native
            for device, mark in TRITON_DEVICES.items():
                layouts = [layout for layout in LAYOUTS if device == "cuda" or _interpreted(case, layout, dtype)]
                if dtype != torch.float64 and layouts:
                    yield case, "triton", device, layouts, dtype, mark
            if dtype != torch.float64 and case.op not in _OPS_WITHOUT_CUDA_KERNELS:
                for device, mark in CUDA_DEVICES.items():
                    # bfloat16 differs from float16 in its conversions alone: emulated, one layout will do.
                    emulated_once = device == "cpu" and dtype == torch.bfloat16
                    yield case, "cuda", device, ("slice",) if emulated_once else LAYOUTS, dtype, mark


def _interpreted(case: Case, layout: str, dtype: torch.dtype) -> bool:
    """Whether an entry is interpreted, which is slow: each dtype in the layouts whose code differs, not in all."""
    layouts: dict[torch.dtype, tuple[str, ...]] = {
        torch.float32: ("contiguous", "channels_last"),
        torch.bfloat16: ("slice",),
        torch.float16: ("channels_last",),
    }
    # conv2d_resample launches upfirdn2d's kernels alone; 12 taps take seconds each and read 16 bits as 4 taps do.
    # But filtered_lrelu of 16 bits and two such filters is a kernel of its own.
    filters = [f for f in case.options.values() if isinstance(f, torch.Tensor)]
    is_fused = case.op == "filtered_lrelu" and all(f.ndim == 1 for f in filters)
    looped = case.op == "conv2d_resample" or (not is_fused and any(f is FIR12 for f in filters))
    if dtype != torch.float32 and looped:
        return False
    return case.op not in _PYTORCH_OPS and layout in layouts.get(dtype, ())


def _orders(backend: str, device: str, dtype: torch.dtype) -> tuple[int, ...]:
    """Order 1 returns the output too, so order 0 is interpreted in float32 alone."""
    return (1, 2) if (backend, device) == ("triton", "cpu") and dtype != torch.float32 else (0, 1, 2)


def _entry(case, backend, device, layout, dtype, marks):
    target = backend if device == "cpu" else f"{backend}-{device}"
    name = f"{case}-{target}-{layout}-{str(dtype).removeprefix('torch.')}"
    return pytest.param(case, backend, device, layout, dtype, marks=marks, id=name)


def _with_order(entry, order: int, *more: object, sampled: bool):
    """An entry for one order, after further arguments of its test."""
    marks = entry.marks if sampled else (*entry.marks, FULL)
    return pytest.param(*entry.values, *more, order, marks=marks, id=f"{entry.id}-{order}")


def _ordered_table():
    for case, backend, device, layouts, dtype, marks in _table():
        orders = _orders(backend, device, dtype)
        is_interpreted = (backend, device) == ("triton", "cpu")
        sample = sampled_entries(CASES.index(case), dtype, layouts, orders, is_interpreted)
        for layout in layouts:
            for order in orders:
                entry = _entry(case, backend, device, layout, dtype, marks)
                yield _with_order(entry, order, sampled=(layout, order) in sample)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("case, backend, device, layout, dtype, order", kept(_ordered_table()))
def test_matches_float64_reference(case, backend, device, layout, dtype, order):
    check(case, backend, device, layout, dtype, order)


def check(case: Case, backend: str, device: str, layout: str, dtype: torch.dtype, order: int) -> None:
    """Holds one entry of the table against the float64 reference."""
    truth = _truth(case, dtype, order)
    # Results that the reference itself computes (the backends use it for the loss's second order) round as PyTorch does
    # in the entry's layout: its pooling of channels_last adds a window up in one sequence and is some five times less
    # precise. Below float64 that would hold the reference against itself. Our own kernels gain nothing by it.
    computed_by_reference = backend == "reference" or (case.op == "feature_projection_loss" and order == 2)
    same_layout = layout if computed_by_reference and dtype == torch.float64 else "contiguous"
    reference_errors = _reference_errors(case, tolerances.reference_dtype(dtype), order, same_layout)
    with use_backend(backend):
        actual = evaluate(case, _inputs(case, dtype), order, layout, device)
    _check(case, dtype, actual, truth, reference_errors)


def _check(case, dtype, actual, truth, reference_errors):
    """Holds results against the truth and its tolerance, in every norm."""
    assert actual.keys() == truth.keys()
    assert [*tolerances.faults(actual, truth, reference_errors, dtype)] == []
    if "output" in actual:
        assert actual["output"].dtype == (torch.promote_types(dtype, torch.float32) if "loss" in case.op else dtype)
    if "d2/d(cotangent)" in actual:
        for name in (*case.nonlinear_tensors(), *([] if case.degenerate else ["cotangent"])):
            second = actual[f"d2/d({name})"]
            assert second.numel() == 0 or second.any(), f"the second derivative with respect to {name} must not vanish"


def _fused_table():
    """(entry of the table, whether float32 may be multiplied as tf32, order) of layers that one kernel can compute."""
    for case in CASES:
        if case.op != "modulated_conv2d" or {"up", "down"} & case.options.keys():
            continue
        # For these, channels_last isn't a layout of its own.
        if 0 in case.shapes["x"] or case.shapes["x"][2:] == (1, 1):
            continue
        for device, mark in TRITON_DEVICES.items():
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                # The interpreter multiplies float32 alike in both; a GPU's tf32 is beyond the tolerance of float32.
                orders = _orders("triton", device, dtype)
                sample = sampled_entries(CASES.index(case), dtype, ("channels_last",), orders, device == "cpu")
                for tf32 in (False, True) if (dtype, device) == (torch.float32, "cpu") else (False,):
                    entry = _entry(case, "triton", device, "channels_last", dtype, mark)
                    named = pytest.param(*entry.values, marks=entry.marks, id=f"{entry.id}{'-tf32' * tf32}")
                    for order in orders:
                        turn = dtype != torch.float32 or tf32 == (CASES.index(case) + order) % 2
                        yield _with_order(named, order, tf32, sampled=turn and ("channels_last", order) in sample)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("case, backend, device, layout, dtype, tf32, order", kept(_fused_table()))
def test_fused_route_matches_float64_reference(case, backend, device, layout, dtype, tf32, order, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    # The other route would be an error, where no second derivative needs it.
    for name in ("convolution_route", "input_gradient", "weight_gradient")[: 1 if order == 2 else 3]:
        monkeypatch.delattr(modulated, name)
    with use_route("fused"):
        check(case, backend, device, layout, dtype, order)


# Kernels of products, in the tiles of chips that need small ones; the rest of this file has the others.
_SMALL_TILES = (
    ("filtered_lrelu-stylegan3", torch.float16, None),
    ("filtered_lrelu-wide", torch.bfloat16, None),
    ("filtered_lrelu-up-2-down-4", torch.float16, None),
    ("feature_projection_loss-grow-equal-shrink", torch.float16, None),
    ("modulated_conv2d-styled", torch.float32, "fused"),
    ("modulated_conv2d-styled", torch.float16, "fused"),
)


@pytest.mark.interpret
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name, dtype, route", _SMALL_TILES)
def test_small_tiles_match_float64_reference(name, dtype, route, monkeypatch):
    rdna = _gpu.amd("gfx1100", 2)
    assert rdna.needs_small_product_tiles and not _gpu.NO_GPU.needs_small_product_tiles
    monkeypatch.setattr(_gpu, "of", lambda tensor: rdna)
    with use_route(route):
        check(BY_NAME[name], "triton", "cpu", "channels_last", dtype, 1)


_TRITON = [pytest.param("triton", device, marks=mark) for device, mark in TRITON_DEVICES.items()]
_NATIVE = pytest.param("cpu", "cpu", marks=requires_native)
_CUDA = [pytest.param("cuda", device, marks=mark) for device, mark in CUDA_DEVICES.items()]
_BACKENDS = [pytest.param("reference", "cpu"), _NATIVE, *_TRITON, *_CUDA]


def _supported(backends: list, cases: Iterable[Case]) -> list:
    """(case, backend, device) of every case that a backend has kernels for."""
    return [
        pytest.param(case, *entry.values, marks=entry.marks, id=f"{case}-{'-'.join(entry.values)}")
        for case in cases
        for entry in backends
        if entry.values[0] != "cuda" or case.op not in _OPS_WITHOUT_CUDA_KERNELS
    ]


_MIXED_CASES = (
    "bias_act-styled-clamped", "bias_act-swish-clamped", "conv2d_resample-up-2", "modulated_conv2d-styled",
    "modulated_conv2d-styled-up", "modulated_conv2d-to-rgb", "modulated_conv2d-1x1-down",
    "modulated_conv2d-scalar-noise", "feature_projection_loss-grow-equal-shrink",
)  # fmt: skip


def _with_float32_parameters(inputs: Inputs) -> Inputs:
    """The same values with everything but images in float32, as mixed-precision training has its parameters."""

    def convert(name: str, t: torch.Tensor) -> torch.Tensor:
        return t if name.partition(".")[0] in ("x", "features") else t.float()

    tensors = {name: convert(name, t) for name, t in inputs.tensors.items()}
    return replace(inputs, tensors=tensors, second={name: convert(name, t) for name, t in inputs.second.items()})


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "case, backend, device, dtype, order",
    every_other(
        _supported(_BACKENDS, (BY_NAME[name] for name in _MIXED_CASES)), (torch.float16, torch.bfloat16), (0, 1, 2)
    ),
)
def test_parameters_in_float32_match_float64_reference(case, backend, device, dtype, order):
    with use_backend(backend):
        actual = evaluate(case, _with_float32_parameters(_inputs(case, dtype)), order, device=device)
    errors = _errors_of_reference(case, dtype, order, _with_float32_parameters)
    _check(case, dtype, actual, _truth(case, dtype, order), errors)


@pytest.mark.interpret
@pytest.mark.parametrize(
    "name, layout, order",
    every_other(
        ("feature_projection_loss-grow-equal-shrink", "feature_projection_loss-no-multiples"), LAYOUTS[:2], (0, 1)
    ),
)
def test_loss_where_tf32_is_allowed_matches_float64_reference(name, layout, order):
    """Covers the launches and tiles of tf32. The interpreter computes in float32, so float32's tolerance holds."""
    # A fixture restores this: monkeypatch can't, as the object has no such attribute.
    torch.backends.cudnn.allow_tf32 = True
    check(BY_NAME[name], "triton", "cpu", layout, torch.float32, order)


@pytest.mark.parametrize(
    "case, backend, device, dtype, order",
    # Interpreting these takes minutes each.
    every_other(_supported([_NATIVE, *_TRITON[1:], *_CUDA], LARGE_CASES), (torch.float32, torch.bfloat16), (0, 1, 2)),
)
def test_large_tensors_match_float64_reference(case, backend, device, dtype, order):
    for layout in ("contiguous", "channels_last"):
        check(case, backend, device, layout, dtype, order)
