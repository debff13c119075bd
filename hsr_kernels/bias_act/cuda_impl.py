# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels of bias_act: any dense layout, one pass each."""

import math
from collections.abc import Callable

import torch

from .._dispatch import native
from .._tensors import DTYPE_CODES, address, dense, device_and_stream, laid_out_like, stream, walk
from .activations import Epilogue

# (code, alpha, gain, clamp), the `args` of an epilogue.
Act = tuple[int, float, float, float]


def _cast_bias(b: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """Returns the bias as the kernels read it: dense and in the dtype of x."""
    if b is None or (b.dtype == x.dtype and b.is_contiguous()):
        return b
    return b.to(x.dtype).contiguous()


def takes_as_it_is(x: torch.Tensor, b: torch.Tensor | None) -> bool:
    """Whether the kernels can read x and the bias b, which isn't so if they need copies or have no elements."""
    return x.numel() > 0 and dense(x) is x and _cast_bias(b, x) is b


class Launches:
    """The launches of a call's forward and backward pass, for tensors like these, which are taken as they are.

    Attributes:
        forward: (x, b) -> y.
        strides: Those of x, y and their gradients.
    """

    def __init__(self, x: torch.Tensor, b: torch.Tensor | None, dim: int, epilogue: Epilogue) -> None:
        self.forward = prepare(x, dim, epilogue.args)
        self.strides = x.stride()
        self._backward = [
            prepare_bwd(x, dim, epilogue.from_output, needs_db, epilogue.args)
            for needs_db in ((False,) if b is None else (False, True))
        ]

    def backward(
        self, dy: torch.Tensor, ref: torch.Tensor, b: torch.Tensor | None, needs_db: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (dx, db), as the operator bias_act_bwd does."""
        return self._backward[needs_db](dy, ref, b)


def prepare(x: torch.Tensor, dim: int, act: Act) -> Callable[..., torch.Tensor]:
    """Returns the launch (x, b) -> y for tensors like the dense x and biases as the kernels read them."""
    # The bound method, so that it is looked up only once.
    run = native.cuda().BiasAct(walk(x, dim), DTYPE_CODES[x.dtype], act).__call__
    empty_like, stream_of, device = torch.empty_like, stream, x.get_device()

    def launch(x: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        y = empty_like(x)
        run(x.data_ptr(), 0 if b is None else b.data_ptr(), y.data_ptr(), device, stream_of(device))
        return y

    return launch


def prepare_bwd(
    ref: torch.Tensor, dim: int, from_output: bool, needs_db: bool, act: Act
) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Returns the launch (dy, ref, b) -> (dx, db) for dy and ref laid out like the dense ref, and such biases."""
    cuda, size, dtype = native.cuda(), walk(ref, dim), DTYPE_CODES[ref.dtype]
    run, empty_like, stream_of, device = cuda.bias_act_bwd, torch.empty_like, stream, ref.get_device()
    channels = ref.shape[dim] if needs_db else 0
    parts = math.prod(cuda.bias_act_bwd_sums(size, dtype)) // channels if channels else 0
    # A single part is the sum already.
    sums_shape = (parts, channels) if parts > 1 else (channels,)

    def launch(dy: torch.Tensor, ref: torch.Tensor, b: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        dx = empty_like(ref)
        db = dx.new_empty(sums_shape, dtype=torch.float32)
        run(
            dy.data_ptr(), ref.data_ptr(), 0 if b is None else b.data_ptr(), dx.data_ptr(),
            db.data_ptr() if needs_db else 0, size, from_output, dtype, act, (device, stream_of(device)),
        )  # fmt: skip
        if parts > 1:
            return dx, db.sum(0)
        return dx, db.zero_() if channels and not parts else db

    return launch


def bias_act(x, b, dim, act, alpha, gain, clamp):
    # This y has the strides of x, where these have gaps those of torch.empty_like, and then so has the dense x.
    x = dense(x)
    return prepare(x, dim, (act, alpha, gain, clamp))(x, _cast_bias(b, x))


def bias_act_bwd(dy, ref, b, dim, from_output, needs_db, act, alpha, gain, clamp):
    ref = dense(ref)
    launch = prepare_bwd(ref, dim, from_output, needs_db, (act, alpha, gain, clamp))
    return launch(laid_out_like(dy, ref), ref, _cast_bias(b, ref))


def bias_act_bwd_bwd(ddx, dy, ref, b, dim, from_output, act, alpha, gain, clamp):
    ddy, dref = torch.empty_like(ref), torch.empty_like(ref)
    ref, ddx, dy, b = dense(ref), laid_out_like(ddx, ddy), laid_out_like(dy, ddy), _cast_bias(b, ref)
    native.cuda().bias_act_bwd_bwd(
        ddx.data_ptr(), dy.data_ptr(), ref.data_ptr(), address(b), ddy.data_ptr(), dref.data_ptr(), walk(ref, dim),
        from_output, DTYPE_CODES[ref.dtype], (act, alpha, gain, clamp), device_and_stream(ref),
    )  # fmt: skip
    return ddy, dref
