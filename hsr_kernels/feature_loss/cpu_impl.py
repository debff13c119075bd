# SPDX-License-Identifier: Apache-2.0
"""The HSR loss on the CPU: GEMM, ReLU, gain and pooling of the hidden layer a block of rows at a time.

The block stays in cache, so the hidden layer (K x H x W) never exists; one bit per element, saying where the ReLU
passed, is all that the backward needs of it. The second layer is linear and so is pooling: where the map shrinks, the
hidden layer is pooled first and the second layer sees T x T pixels instead of H x W. Where it grows, the second layer
comes first and its output is resized.

Matrices of bfloat16 are multiplied as they are, those of float16 as float32; sums, and all that isn't multiplied, have
the accumulation dtype.

Results don't depend on the number of threads. That rules out BLAS, which chooses its kernels, and with them the order
of sums, by how it splits a product among threads, and PyTorch's sum to one number, which adds up per thread.
"""

from dataclasses import dataclass

import torch

from .._dispatch import native
from .._tensors import DTYPE_CODES, accumulation_dtype, address, is_channels_last
from .ops import cpu_operand_dtype, empty_gradient, pooled_size

# Elements of the hidden layer that are computed at a time.
_BLOCK_ELEMENTS = 1 << 20


def feature_loss(x, target, w1, b1, w2, b2, gain):
    scales = zip(x, target, w1, b1, w2, b2, strict=True)
    losses, kept = zip(*(_loss(*scale, gain=gain) for scale in scales), strict=True)
    return torch.stack(losses), [t for scale in kept for t in scale]


def _loss(x, target, w1, b1, w2, b2, *, gain):
    dtype, operand_dtype = accumulation_dtype(x.dtype), cpu_operand_dtype(x.dtype)
    size, out = (x.shape[2], x.shape[3]), (target.shape[2], target.shape[3])
    th, tw = pooled_size(x, out[0])
    pooled, relu_mask = _hidden(x, w1, b1, th, tw, gain)
    projected = _product(w2.to(operand_dtype), pooled).add_(b2.to(dtype)[:, None]).unflatten(1, (len(x), th * tw))
    if (th, tw) != out:
        projected = _resize(projected, size, out)
    errors = projected.sub_(target.flatten(2).transpose(0, 1))
    return _mean_square(errors, out), (pooled, relu_mask, errors)


def _mean_square(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Returns the mean square of maps [D, N, H * W]."""
    # Axis by axis, no sum is split among threads.
    total = x.square().unflatten(2, size)
    for _ in range(4):
        total = total.sum(-1, dtype=torch.float64)
    return (total / x.numel()).to(x.dtype)


def feature_loss_bwd(dloss, loss, kept, x, w1, b1, w2, b2, sides, gain, needs):
    grads: list[torch.Tensor] = []
    for i, scale in enumerate(zip(x, w1, b1, w2, b2, strict=True)):
        scale_grads = _loss_bwd(dloss[i], kept[3 * i : 3 * i + 3], *scale, sides[i], gain, needs[5 * i : 5 * i + 5])
        dtypes = (x[i].dtype, *[accumulation_dtype(x[i].dtype)] * 4)
        pairs = zip(scale_grads, dtypes, strict=True)
        grads += [x[i].new_empty(0, dtype=dtype) if g is None else g.to(dtype) for g, dtype in pairs]
    return grads


def _loss_bwd(dloss, kept, x, w1, b1, w2, b2, side, gain, needs):
    """Returns the gradients of one scale, None for those that aren't needed."""
    pooled, relu_mask, errors = kept
    needs_dx, needs_dw1, needs_db1, needs_dw2, needs_db2 = needs
    size, out, pooled_hw = (x.shape[2], x.shape[3]), (side, side), pooled_size(x, side)
    dprojected = errors * (dloss * (2 / max(errors.numel(), 1)))
    if pooled_hw != out:
        dprojected = _resize(dprojected, size, out, transposed=True)
    dx = dw1 = db1 = dw2 = db2 = None
    if needs_db2:
        db2 = dprojected.sum(2).sum(1)
    # [D, N * pixels].
    dprojected = dprojected.flatten(1).to(cpu_operand_dtype(x.dtype))
    if needs_dw2:
        dw2 = _product(dprojected, pooled.t())
    if needs_dx or needs_dw1 or needs_db1:
        dpooled = _product(w2.to(dprojected.dtype).t(), dprojected)
        dx, dw1, db1 = _hidden_bwd(dpooled, relu_mask, x, w1, *pooled_hw, gain, needs_dx, needs_dw1)
    return dx if needs_dx else None, dw1 if needs_dw1 else None, db1 if needs_db1 else None, dw2, db2


@dataclass(frozen=True)
class _Packed:
    """A right matrix [K, N] as the extension multiplies it, for several products."""

    memory: torch.Tensor
    shape: tuple[int, int]
    dtype: torch.dtype


def _pack(b: torch.Tensor) -> _Packed:
    k, n = b.shape
    dtype = DTYPE_CODES[b.dtype]
    memory = torch.empty(native.cpu().packed_bytes(k, n, dtype), dtype=torch.uint8)
    native.cpu().matmul_pack(address(b), address(memory), k, n, b.stride(), dtype, torch.get_num_threads())
    return _Packed(memory, (k, n), b.dtype)


def _product(
    a: torch.Tensor, b: torch.Tensor | _Packed, out: torch.Tensor | None = None, *, add: bool = False
) -> torch.Tensor:
    """Returns a [M, K] @ b [K, N] in the accumulation dtype, for any strides.

    Args:
        a, b: float32, float64 or bfloat16.
        out: Where the product is stored, or None.
        add: Whether the product is added to `out`.
    """
    (m, k), n = a.shape, b.shape[1]
    if out is None:
        out = a.new_empty((m, n), dtype=accumulation_dtype(a.dtype))
    right, right_strides = (b.memory, (0, 0)) if isinstance(b, _Packed) else (b, b.stride())
    native.cpu().matmul(
        address(a), address(right), address(out), (m, n, k), a.stride(), right_strides, out.stride(),
        isinstance(b, _Packed), add, DTYPE_CODES[a.dtype], torch.get_num_threads(),
    )  # fmt: skip
    return out


def _matrices(x: torch.Tensor) -> list[torch.Tensor]:
    """Returns each sample of images [N, C, H, W] as a matrix [C, H * W], as a view where the layout allows."""
    n, c, h, w = x.shape
    if is_channels_last(x):
        return [t.reshape(h * w, c).t() for t in x.permute(0, 2, 3, 1)]
    return list(x.reshape(n, c, h * w))


def _blocks(k: int, hw: int) -> list[tuple[int, int]]:
    """Returns the blocks [begin, end) of rows of the hidden layer [K, H * W]."""
    step = max(min(_BLOCK_ELEMENTS // max(hw, 1), k), 16)
    return [(begin, min(begin + step, k)) for begin in range(0, k, step)]


def _hidden(x, w1, b1, th, tw, gain):
    """Returns the pooled hidden layer [K, N * th * tw] as an operand, and the mask of its ReLU [N, K, bytes]."""
    n, _, h, w = x.shape
    k = w1.shape[0]
    dtype, operand_dtype = accumulation_dtype(x.dtype), cpu_operand_dtype(x.dtype)
    w1, b1 = w1.to(operand_dtype), b1.to(dtype).contiguous()
    pooled = w1.new_empty((k, n * th * tw))
    relu_mask = torch.empty((n, k, (h * w + 7) // 8), dtype=torch.uint8)
    blocks = _blocks(k, h * w)
    z = b1.new_empty((blocks[0][1] if blocks else 0, h * w))
    for i, matrix in enumerate(_matrices(x.to(operand_dtype))):
        columns = _pack(matrix)
        for begin, end in blocks:
            block = _product(w1[begin:end], columns, z[: end - begin])
            native.cpu().feature_pool(
                address(block), address(b1[begin:]), address(pooled[begin:, i * th * tw :]), pooled.stride(0),
                address(relu_mask[i, begin:]), (end - begin, h, w, th, tw), gain, DTYPE_CODES[operand_dtype],
                torch.get_num_threads(),
            )  # fmt: skip
    return pooled, relu_mask


def _hidden_bwd(dpooled, relu_mask, x, w1, th, tw, gain, needs_dx, needs_dw):
    """Returns dx in the dtype and layout of x, dw1 and db1 in the accumulation dtype; dpooled is [K, N * th * tw]."""
    h, w = x.shape[2:]
    k = w1.shape[0]
    dtype, operand_dtype = accumulation_dtype(x.dtype), cpu_operand_dtype(x.dtype)
    w1 = w1.to(operand_dtype)
    dx = empty_gradient(x, dtype).zero_() if needs_dx else w1.new_zeros(0)
    dx_matrices = _matrices(dx) if needs_dx else []
    channels_last = is_channels_last(x)
    dw = w1.new_zeros(w1.shape if needs_dw else 0, dtype=dtype)
    db = torch.zeros(k, dtype=torch.float64)
    blocks = _blocks(k, h * w)
    z = w1.new_empty((blocks[0][1] if blocks else 0, h * w))
    for i, matrix in enumerate(_matrices(x.to(operand_dtype))):
        rows = _pack(matrix.t()) if needs_dw else None
        for begin, end in blocks:
            dz = z[: end - begin]
            native.cpu().feature_pool_bwd(
                address(dz), address(dpooled[begin:, i * th * tw :]), dpooled.stride(0), address(relu_mask[i, begin:]),
                address(db[begin:]), (end - begin, h, w, th, tw), gain, DTYPE_CODES[operand_dtype],
                torch.get_num_threads(),
            )  # fmt: skip
            if rows is not None:
                _product(dz, rows, dw[begin:end], add=True)
            # Either way the rows of the product lie in memory as rows.
            if needs_dx and channels_last:
                _product(dz.t(), w1[begin:end], dx_matrices[i].t(), add=True)
            elif needs_dx:
                _product(w1[begin:end].t(), dz, dx_matrices[i], add=True)
    return dx.to(x.dtype), dw, db.to(dtype)


def _windows(size: int, out: int, like: torch.Tensor) -> torch.Tensor:
    """Returns the matrix [out, size] of adaptive average pooling of one axis."""
    position = torch.arange(size, device=like.device)
    index = torch.arange(out, device=like.device)[:, None]
    begin = index * size // out
    end = ((index + 1) * size + out - 1) // out
    membership = ((position >= begin) & (position < end)).to(like.dtype)
    return membership / membership.sum(1, keepdim=True)


def _resize(z: torch.Tensor, size: tuple[int, int], out: tuple[int, int], *, transposed: bool = False) -> torch.Tensor:
    """Area-resizes maps [D, N, H * W] from `size` to `out`, or applies the transpose from `out` to `size`."""
    rows, columns = _windows(size[0], out[0], z), _windows(size[1], out[1], z)
    if transposed:
        rows, columns = rows.t(), columns.t()
    maps = z.unflatten(2, out if transposed else size)
    return _pool_columns(_pool_columns(maps, columns), rows).flatten(2)


def _pool_columns(maps: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """Multiplies each row of maps [D, N, H, W] by windows [T, W] and transposes: [D, N, T, H]."""
    rows = maps.reshape(-1, maps.shape[3])
    return _product(rows, windows.t()).unflatten(0, maps.shape[:3]).transpose(2, 3)
