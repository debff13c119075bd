# SPDX-License-Identifier: Apache-2.0
"""Which calls of filtered_lrelu are one Triton kernel, and what that kernel does with several tiles and steps."""

import pytest
import torch

pytest.importorskip("triton")

import hsr_kernels as hk
from hsr_kernels.aot import record
from hsr_kernels.filtered_lrelu import autograd, triton_impl
from tests.cases import FIR4_SEPARABLE, FIR12, ODD7_SEPARABLE, RADIAL12, Case
from tests.native import TRITON_DEVICES
from tests.ops.test_parity import check
from tests.selection import every_other

_DEVICES = [pytest.param(device, marks=mark) for device, mark in TRITON_DEVICES.items()]
_FUSED = {"filtered_lrelu_kernel"}
_COMPOSED = {"bias_act_kernel", "bias_act_bwd_kernel", "upfirdn2d_kernel"}


def _case(name, x, fu, fd, **options):
    return Case("filtered_lrelu", name, {"x": x, "b": x[1:2]}, {"fu": fu, "fd": fd, **options})


# More columns than a tile has, more rows than a step, and a last program with fewer planes than the others.
_CASES = (
    _case("several-tiles", (1, 3, 41, 35), FIR12, FIR12, up=2, down=2, padding=(9, 8, 9, 8), clamp=1.5),
    _case("crop", (1, 3, 30, 44), ODD7_SEPARABLE, FIR12, up=2, down=2, padding=(-7, 3, -20, -1), flip_filter=True),
    _case("up-4-down-4", (1, 3, 21, 13), FIR12, ODD7_SEPARABLE, up=4, down=4, padding=(7, 5, 10, 6), clamp=1.0),
    _case("padding", (1, 3, 5, 3), FIR4_SEPARABLE, ODD7_SEPARABLE, up=2, down=4, padding=(38, 2, 33, 45)),
    _case("size-1", (3, 1, 1, 1), FIR12, FIR4_SEPARABLE, up=2, down=2, padding=(9, 6, 9, 6)),
)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "case, device, layout, dtype, order",
    every_other(
        [pytest.param(case, id=case.name) for case in _CASES], _DEVICES, ("contiguous", "channels_last"),
        (torch.float16, torch.bfloat16), (0, 1, 2),
    ),
)  # fmt: skip
def test_fused_kernel_matches_float64_reference(case, device, layout, dtype, order, monkeypatch):
    # The other route would be an error.
    monkeypatch.delattr(autograd, "composition")
    monkeypatch.setattr(triton_impl, "_MIN_PROGRAMS", 1)
    check(case, "triton", device, layout, dtype, order)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("dtype, atol", ((torch.bfloat16, 0.2), (torch.float16, 5.0)), ids=("bfloat16", "float16"))
@pytest.mark.parametrize("device", _DEVICES)
def test_a_clamp_cuts_infinite_values_off(device, dtype, atol):
    """They would be NaN in the whole tile, as products multiply them by zeros; so they count as the largest number.

    The smallest taps of all bring float16's below the clamp.
    """
    x = torch.arange(2.0 * 40 * 40).reshape(1, 2, 40, 40).remainder(7).to(dtype)
    x[0, 0, 20, 20], x[0, 1, 3, 38] = torch.inf, -torch.inf
    results = []
    for backend, target in (("reference", "cpu"), ("triton", device)):
        filters = [FIR12.to(target)] * 2
        with hk.use_backend(backend):
            results.append(hk.filtered_lrelu(x.to(target), *filters, up=2, down=2, padding=9, clamp=20.0).cpu())
    assert results[0].isfinite().all()
    torch.testing.assert_close(results[1], results[0], rtol=0.01, atol=atol)


@pytest.mark.parametrize("device", _DEVICES)
def test_nan_stays_in_its_plane(device):
    """Though it spreads over a tile: where it comes from, it is still to be seen."""
    x = torch.zeros(1, 2, 30, 30).half()
    x[0, 0, 3, 3] = torch.nan
    with hk.use_backend("reference"):
        expected = hk.filtered_lrelu(x, FIR12, FIR12, up=2, down=2, padding=9, clamp=2.0).isnan()
    with hk.use_backend("triton"):
        f = FIR12.to(device)
        y = hk.filtered_lrelu(x.to(device), f, f, up=2, down=2, padding=9, clamp=2.0).cpu()
    assert expected.any() and y[expected].isnan().all() and not y[0, 1].isnan().any()


@pytest.mark.parametrize("dtype, fu, fd, factors, kernels", (
    (torch.float16, FIR12, FIR12, (2, 2), _FUSED),
    (torch.bfloat16, FIR4_SEPARABLE, FIR12, (4, 2), _FUSED),
    (torch.float32, FIR12, FIR12, (2, 2), _COMPOSED),
    (torch.float16, FIR12, RADIAL12, (2, 2), {*_COMPOSED, "upfirdn2d_looped_kernel"}),
    (torch.float16, FIR12, FIR12, (1, 2), _COMPOSED),
))  # fmt: skip
def test_all_derivatives_take_the_route_of_the_call(dtype, fu, fd, factors, kernels):
    with record.recording(record.CHIPS["sm_90"]) as found:
        x, b = (torch.empty(shape, dtype=dtype, requires_grad=True) for shape in ((2, 3, 20, 20), (3,)))
        y = hk.filtered_lrelu(x, fu, fd, b, *factors, padding=9)
        dy = torch.empty_like(y, requires_grad=True)
        first = torch.autograd.grad(y, (x, b), dy, create_graph=True)
        torch.autograd.grad(first, dy, [torch.empty_like(t) for t in first])
        (sentence,) = hk.explain("filtered_lrelu", x, fu, fd).details
    assert {launch.kernel for launch in found.launches.values()} == kernels
    assert sentence.startswith("bias_act" if dtype == torch.float32 or fd is RADIAL12 else "one fused kernel where")


@pytest.mark.parametrize("layout, forward, backward", (
    (torch.channels_last, "filtered_lrelu_one_filter_kernel", "filtered_lrelu_one_filter_bwd_kernel"),
    (torch.contiguous_format, "bias_act_kernel", "bias_act_bwd_kernel"),
))  # fmt: skip
def test_a_leaky_relu_before_a_fir_is_one_launch_in_channels_last(layout, forward, backward):
    with record.recording(record.CHIPS["sm_90"]) as found:
        x = torch.empty(2, 8, 16, 16).contiguous(memory_format=layout).requires_grad_()
        b = torch.empty(8, requires_grad=True)
        y = hk.filtered_lrelu(x, None, FIR4_SEPARABLE, b, padding=2)
        torch.autograd.grad(y, (x, b), torch.empty_like(y))
        (sentence,) = hk.explain("filtered_lrelu", x, None, FIR4_SEPARABLE).details
    kernels = {launch.kernel for launch in found.launches.values()}
    is_fused = layout == torch.channels_last
    assert kernels == {forward, backward} | (set() if is_fused else {"upfirdn2d_kernel"})
    assert sentence.startswith("one fused kernel" if is_fused else "bias_act")
