# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels of bias_act: any dense layout, one pass each."""

from collections.abc import Callable

import torch

from .._dispatch import native
from .._tensors import DTYPE_CODES, address, dense, device_and_stream, laid_out_like, stream, walk
from .activations import Epilogue

Launch = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def _cast_bias(b: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """Returns the bias as the kernels read it: dense and in the dtype of x."""
    if b is None or (b.dtype == x.dtype and b.is_contiguous()):
        return b
    return b.to(x.dtype).contiguous()


def bias_act(x, b, dim, act, alpha, gain, clamp):
    y = torch.empty_like(x)
    x, b = dense(x), _cast_bias(b, x)
    launch = native.cuda().BiasAct(walk(x, dim), DTYPE_CODES[x.dtype], (act, alpha, gain, clamp))
    launch(x.data_ptr(), address(b), y.data_ptr(), *device_and_stream(x))
    return y


def prepared(x: torch.Tensor, b: torch.Tensor | None, dim: int, epilogue: Epilogue) -> Launch | None:
    """Returns a forward launch for tensors like these; None where they need copies or nothing is launched."""
    needs_copy = dense(x) is not x or (b is not None and not (b.dtype == x.dtype and b.is_contiguous()))
    if needs_copy or not x.numel() or epilogue.gain == 0:
        return None
    # The bound method, so that it is looked up only once.
    run = native.cuda().BiasAct(walk(x, dim), DTYPE_CODES[x.dtype], epilogue.args).__call__
    empty_like, stream_of, device = torch.empty_like, stream, x.get_device()

    def launch(x: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        y = empty_like(x)
        run(x.data_ptr(), 0 if b is None else b.data_ptr(), y.data_ptr(), device, stream_of(device))
        return y

    return launch


def bias_act_bwd(dy, ref, b, dim, from_output, needs_db, act, alpha, gain, clamp):
    cuda, dx = native.cuda(), torch.empty_like(ref)
    ref, dy, b = dense(ref), laid_out_like(dy, dx), _cast_bias(b, ref)
    size, dtype, db_parts = walk(ref, dim), DTYPE_CODES[ref.dtype], None
    if needs_db:
        db_parts = dx.new_empty(cuda.bias_act_bwd_sums(size, dtype), dtype=torch.float32)
    cuda.bias_act_bwd(
        dy.data_ptr(), ref.data_ptr(), address(b), dx.data_ptr(), address(db_parts), size, from_output, dtype,
        (act, alpha, gain, clamp), device_and_stream(ref),
    )  # fmt: skip
    if db_parts is None:
        return dx, dx.new_empty(0, dtype=torch.float32)
    if not db_parts.numel():
        return dx, db_parts.new_zeros(ref.shape[dim])
    return dx, db_parts.view(-1, ref.shape[dim]).sum(0)


def bias_act_bwd_bwd(ddx, dy, ref, b, dim, from_output, act, alpha, gain, clamp):
    ddy, dref = torch.empty_like(ref), torch.empty_like(ref)
    ref, ddx, dy, b = dense(ref), laid_out_like(ddx, ddy), laid_out_like(dy, ddy), _cast_bias(b, ref)
    native.cuda().bias_act_bwd_bwd(
        ddx.data_ptr(), dy.data_ptr(), ref.data_ptr(), address(b), ddy.data_ptr(), dref.data_ptr(), walk(ref, dim),
        from_output, DTYPE_CODES[ref.dtype], (act, alpha, gain, clamp), device_and_stream(ref),
    )  # fmt: skip
    return ddy, dref
