# SPDX-License-Identifier: Apache-2.0
"""The CPU's matrix product: every stride, ragged tiles, adding up, and the same bits for every number of threads."""

import pytest
import torch

from hsr_kernels.feature_loss.cpu_impl import _product
from tests.native import requires_native

pytestmark = requires_native

_SIZES = [(1, 1, 1), (3, 5, 7), (17, 300, 33), (70, 257, 530), (5, 0, 6), (0, 4, 3), (128, 512, 64)]  # m, k, n


def _layouts(rows: int, columns: int, dtype: torch.dtype):
    """The same matrix in rows, in columns, and with gaps in both directions."""
    matrix = torch.randn(rows, columns, dtype=torch.float64).to(dtype)
    gaps = torch.full((2 * rows, 3 * columns), torch.nan, dtype=dtype)[::2, ::3]
    return matrix, (matrix, matrix.t().contiguous().t(), gaps.copy_(matrix))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=("float32", "float64"))
@pytest.mark.parametrize("m, k, n", _SIZES)
def test_matches_float64_in_every_layout_and_number_of_threads(m, k, n, dtype):
    (a, layouts_a), (b, layouts_b) = _layouts(m, k, dtype), _layouts(k, n, dtype)
    truth = a.double() @ b.double()
    expected = _product(a, b)
    bound = torch.finfo(dtype).eps * (a.double().norm(dim=1)[:, None] * b.double().norm(dim=0) * max(k, 1) ** 0.5 + 1)
    assert ((expected - truth).abs() <= bound).all()
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        for left in layouts_a:
            for right in layouts_b:
                out = torch.full((m, n), torch.nan, dtype=dtype)
                assert torch.equal(_product(left, right, out), expected)


def test_product_is_added_to_the_output():
    a, b, before = torch.randn(9, 300), torch.randn(300, 40), torch.randn(9, 50)
    after = before.clone()
    _product(a, b, after[:, 5:45], add=True)
    torch.testing.assert_close(after[:, 5:45], before[:, 5:45] + a @ b, rtol=0, atol=1e-4)
    assert torch.equal(after[:, :5], before[:, :5]) and torch.equal(after[:, 45:], before[:, 45:])


def test_batched_product_matches_single_products():
    a, b = torch.randn(6, 20), torch.randn(3, 20, 33)
    assert torch.equal(_product(a, b), torch.stack([_product(a, sample) for sample in b]))
