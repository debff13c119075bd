# SPDX-License-Identifier: Apache-2.0
"""Results don't depend on the number of threads, to the bit.

The one exception is a sum that PyTorch makes: the weight gradient of a convolution is added up per thread. It is asked
to be the same up to rounding; so is the second order of the feature loss, which the reference computes by convolutions.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from benchmarks.parity.inputs import LAYOUTS, Inputs, draw, evaluate
from hsr_kernels import use_backend
from tests.cases import BY_NAME, FIR4, FIR12, Case
from tests.native import requires_native
from tests.selection import every_other

_LAYER = {"x": (2, 16, 24, 40), "weight": (12, 16, 3, 3), "styles": (2, 16), "bias": (12,)}
_LRELU = {"padding": 1, "act": "lrelu", "clamp": 1.5}

# Large enough for several threads to have work; the small ones have less work than there are threads.
CASES = [
    Case("bias_act", "lrelu", {"x": (2, 24, 48, 50), "b": (24,)}, {"act": "lrelu", "clamp": 1.0}),
    Case("bias_act", "swish", {"x": (2, 24, 48, 50), "b": (24,)}, {"act": "swish"}),
    Case("bias_act", "matrix", {"x": (513, 129), "b": (129,)}, {"act": "tanh"}),
    Case("upfirdn2d", "up", {"x": (2, 9, 37, 41)}, {"f": FIR4, "up": 2, "padding": (2, 1, 2, 1)}),
    Case("upfirdn2d", "down", {"x": (2, 9, 64, 62)}, {"f": FIR12, "down": 2, "padding": 5}),
    Case("filtered_lrelu", "planes", {"x": (2, 9, 37, 41), "b": (9,)},
         {"fu": FIR12, "fd": FIR12, "up": 2, "down": 2, "padding": (9, 8, 9, 8), "clamp": 1.5}),
    Case("filtered_lrelu", "chunks", {"x": (1, 1, 270, 266), "b": (1,)},
         {"fu": FIR4, "fd": FIR4, "up": 2, "down": 2, "padding": 3}),
    Case("modulated_conv2d", "styled", _LAYER | {"noise": (2, 1, 24, 40)}, _LRELU),
    Case("modulated_conv2d", "up", _LAYER | {"noise": (1, 1, 48, 80)}, _LRELU | {"up": 2, "resample_filter": FIR4}),
    Case("modulated_conv2d", "down", _LAYER | {"noise": ()}, _LRELU | {"down": 2, "resample_filter": FIR4}),
    Case("conv2d_resample", "down", {"x": (2, 8, 40, 38), "w": (8, 8, 3, 3)}, {"f": FIR4, "down": 2, "padding": 1}),
    *(BY_NAME[name] for name in ("bias_act-size-1", "upsample2d-skip-to-rgb", "modulated_conv2d-styled-up")),
    *(BY_NAME[f"feature_projection_loss-{name}"] for name in ("grow-equal-shrink", "vit-16-to-14", "size-1")),
]  # fmt: skip
_RESULTS_SUMMED_BY_TORCH = ("d/d(weight)", "d2/d(weight)", "d/d(w)", "d2/d(w)")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@requires_native
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("case, layout, dtype", every_other(CASES, LAYOUTS[:2], (torch.float32, torch.bfloat16)))
def test_results_do_not_depend_on_the_number_of_threads(case, layout, dtype):
    inputs = draw(case, dtype)

    def results(number: int) -> dict[str, torch.Tensor]:
        torch.set_num_threads(number)
        with use_backend("cpu"):
            return {name: t for order in (0, 1, 2) for name, t in evaluate(case, inputs, order, layout).items()}

    expected = results(1)
    for number in (2, 3):
        for name, t in results(number).items():
            if name in _RESULTS_SUMMED_BY_TORCH or (case.op == "feature_projection_loss" and name.startswith("d2")):
                scale = float(expected[name].abs().max()) if t.numel() else 0.0
                torch.testing.assert_close(t, expected[name], rtol=0, atol=64 * torch.finfo(dtype).eps * scale)
            else:
                assert torch.equal(t, expected[name]), f"{name} differs between 1 and {number} threads"


@requires_native
@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_are_the_same_on_every_run(case):
    inputs = draw(case, torch.float32)
    with use_backend("cpu"):
        for a, b in zip(*(evaluate(case, inputs, 1).values() for _ in range(2)), strict=True):
            assert torch.equal(a, b)


@requires_native
def test_calls_from_several_python_threads():
    """Kernels run without the GIL; what they keep between calls isn't shared between threads."""
    work = [(case, draw(case, dtype)) for case in CASES for dtype in (torch.float32, torch.bfloat16)]

    def results(item: tuple[Case, Inputs]) -> list[torch.Tensor]:
        torch.set_num_threads(1)
        return [t for order in (0, 1) for t in evaluate(*item, order).values()]

    expected = [results(item) for item in work]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(pool.map(results, work * 2), expected * 2, strict=True):
            for x, y in zip(a, b, strict=True):
                assert torch.equal(x, y)
