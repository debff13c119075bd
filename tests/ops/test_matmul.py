# SPDX-License-Identifier: Apache-2.0
"""The CPU's matrix product: every stride, ragged tiles, adding up, and the same bits for every number of threads."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hsr_kernels._dispatch import native
from hsr_kernels._tensors import DTYPE_CODES
from hsr_kernels.feature_loss.cpu_impl import _pack, _product
from tests.native import requires_native

pytestmark = requires_native

ROOT = Path(__file__).parents[2]
# m, k, n.
_SIZES = [(1, 1, 1), (3, 5, 7), (17, 300, 33), (70, 257, 530), (5, 0, 6), (0, 4, 3), (128, 512, 64), (40, 1030, 65)]
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
sizes = pytest.mark.parametrize("m, k, n", _SIZES)


def _layouts(rows: int, columns: int, dtype: torch.dtype):
    """The same matrix in rows, in columns, and with gaps in both directions."""
    matrix = torch.randn(rows, columns, dtype=torch.float64).to(dtype)
    gaps = torch.full((2 * rows, 3 * columns), torch.nan, dtype=dtype)[::2, ::3]
    return matrix, (matrix, matrix.t().contiguous().t(), gaps.copy_(matrix))


def _check(product: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Products of bfloat16 are exact in float32, so that only sums round."""
    eps = torch.finfo(product.dtype).eps
    bound = eps * (a.double().norm(dim=1)[:, None] * b.double().norm(dim=0) * max(a.shape[1], 1) ** 0.5 + 1)
    assert ((product - a.double() @ b.double()).abs() <= bound).all()


@pytest.mark.parametrize("dtype", _DTYPES.values(), ids=_DTYPES.keys())
@sizes
def test_matches_float64_in_every_layout_and_number_of_threads(m, k, n, dtype):
    (a, layouts_a), (b, layouts_b) = _layouts(m, k, dtype), _layouts(k, n, dtype)
    expected = _product(a, b)
    assert expected.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    _check(expected, a, b)
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        for left in layouts_a:
            for right in layouts_b:
                for operand in (right, _pack(right)):
                    out = torch.full((m, n), torch.nan, dtype=expected.dtype)
                    assert torch.equal(_product(left, operand, out), expected)


@pytest.mark.parametrize("dtype", _DTYPES.values(), ids=_DTYPES.keys())
def test_product_is_added_to_the_output(dtype):
    a, b = torch.randn(9, 1100).to(dtype), torch.randn(1100, 40).to(dtype)
    before = torch.randn(9, 50, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    after = before.clone()
    _product(a, b, after[:, 5:45], add=True)
    expected = before[:, 5:45] + a.to(before.dtype) @ b.to(before.dtype)
    torch.testing.assert_close(after[:, 5:45], expected, rtol=0, atol=1e-4)
    assert torch.equal(after[:, :5], before[:, :5]) and torch.equal(after[:, 45:], before[:, 45:])


@pytest.fixture(scope="module")
def emulated_amx(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., torch.Tensor]:
    """The products of bfloat16 that AMX computes, by an emulation of its instructions."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler here: the extension came as a wheel")
    library = tmp_path_factory.mktemp("amx") / "products.so"
    sources = ("csrc/cpu/matmul.cpp", "csrc/cpu/parallel.cpp", "tests/ops/products.cpp")
    subprocess.run(
        [compiler, "-std=c++17", "-O2", "-shared", "-fPIC", "-Icsrc/include", "-Icsrc/cpu", "-DHSR_ISA=amx",
         "-DHSR_EMULATED_AMX", *sources, "-o", library, "-pthread", "-ldl"],
        cwd=ROOT, check=True,
    )  # fmt: skip
    function = ctypes.CDLL(str(library)).product
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [pointer] * 4 + [integer] * 7 + [ctypes.c_int] * 2

    def product(a, b, out=None, *, packs=False, threads=1):
        (m, k), n = a.shape, b.shape[1]
        packed = torch.full((native.cpu().packed_bytes(k, n, DTYPE_CODES[a.dtype]),), 255, dtype=torch.uint8)
        c = torch.full((m, n), torch.nan) if out is None else out
        function(
            a.data_ptr(), b.data_ptr(), packed.data_ptr() if packs else None, c.data_ptr(), m, n, k, *a.stride(),
            *b.stride(), out is not None, threads,
        )  # fmt: skip
        return c

    return product


@sizes
def test_tiles_of_amx_match_float64(m, k, n, emulated_amx):
    (a, layouts_a), (b, layouts_b) = _layouts(m, k, torch.bfloat16), _layouts(k, n, torch.bfloat16)
    expected = emulated_amx(a, b)
    _check(expected, a, b)
    for left, right in [(left, right) for left in layouts_a for right in layouts_b]:
        for packs, threads in ((False, 1), (True, 2)):
            assert torch.equal(emulated_amx(left, right, packs=packs, threads=threads), expected)
    before = torch.randn(m, n)
    torch.testing.assert_close(emulated_amx(a, b, before.clone()), before + expected, rtol=0, atol=1e-4)
