# SPDX-License-Identifier: Apache-2.0
"""Which of a GPU's two backends an operator is faster on: measures what hsr_kernels' measured.csv holds.

A time is that of forward and first-order backward of the public function, as training sees it: so many calls are issued
one after another, the device is waited for, and the clock's time is divided by their number. So of small tensors it is
the host's time, which launching takes, and of large ones the device's. The modulated layer's includes its convolution.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch

import hsr_kernels as hk
from hsr_kernels import _tables
from hsr_kernels._measured import Measurement

from ..cases import Case
from ..run import differentiate
from ..workloads import Workload, bias_act, fir, styled_layer
from . import device as gpu

CUDA, TRITON = "cuda", "triton"
_LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
_BATCH_SECONDS = 0.005
_MIN_CALLS, _MAX_CALLS = 3, 200  # of a batch
_ROUNDS = 5


@dataclass(frozen=True)
class Tensor:
    """Images [n, channels, side, side]."""

    n: int
    channels: int
    side: int

    @property
    def elements(self) -> int:
        return self.n * self.channels * self.side**2


# StyleGAN2's activations, in batches of training and then one by one, and smaller ones such as RGB images of 4x4. As a
# measurement speaks for tensors of about its size, no two here have the same. Those that need much memory are last.
TENSORS = (
    Tensor(32, 512, 4), Tensor(32, 512, 8), Tensor(16, 512, 16), Tensor(8, 512, 32), Tensor(4, 512, 64),
    Tensor(4, 256, 128), Tensor(4, 128, 256), Tensor(1, 512, 4), Tensor(1, 512, 8), Tensor(1, 64, 4), Tensor(1, 8, 4),
    Tensor(4, 64, 512), Tensor(4, 32, 1024),
)  # fmt: skip
TINY = (Tensor(1, 4, 8),)


@dataclass(frozen=True)
class Comparison:
    """An operator, by its folder, on images of one size, dtype and layout."""

    op: str
    tensor: Tensor
    dtype: torch.dtype
    layout: str

    def __str__(self) -> str:
        t = self.tensor
        return f"{self.op}, {t.n}x{t.channels}x{t.side}x{t.side}, {self.precision}, {self.layout}"

    @property
    def precision(self) -> str:
        """The dtype's name."""
        return str(self.dtype).removeprefix("torch.")

    def workload(self, device: str) -> Workload:
        """Its public function with tensors on a device."""
        n, channels, side = self.tensor.n, self.tensor.channels, self.tensor.side
        image: dict[str, Any] = {"n": n, "channels": channels, "side": side, "layout": _LAYOUTS[self.layout]}
        layer = {"n": n, "c_in": channels, "c_out": channels, "side": side, "up": 1, "layout": image["layout"]}
        build, size = {
            "bias_act": (bias_act, image),
            "upfirdn2d": (partial(fir, hk.upsample2d), image),
            "modulated_conv2d": (styled_layer, layer),
        }[self.op]
        return Case(str(self), str(self), build, size, size, {}, dtype=self.dtype).workload(device=device)


def comparisons(tensors: Sequence[Tensor] = TENSORS) -> Iterator[Comparison]:
    """What is to be measured, the most usual first: what mixed precision as `hsr train` has it runs on."""
    usual = (torch.float16, torch.float32), ("channels_last",)
    for dtypes, layouts in (usual, (usual[0], ("contiguous",)), ((torch.bfloat16,), tuple(_LAYOUTS))):
        for tensor, dtype, layout in product(tensors, dtypes, layouts):
            for op in ("bias_act", "upfirdn2d", "modulated_conv2d"):
                yield Comparison(op, tensor, dtype, layout)


def measure(one: Comparison) -> Measurement:
    """Times an operator on both backends, in turns."""
    torch.manual_seed(0)
    run = differentiate(one.workload(gpu.name()))
    calls: dict[str, int] = {}
    for backend in (CUDA, TRITON):
        with hk.use_backend(gpu.backend(backend)):
            gpu.batch(run, _MIN_CALLS)  # compiles, and lets allocations settle
            seconds = max(gpu.batch(run, _MIN_CALLS), 1e-9)
            calls[backend] = int(max(_MIN_CALLS, min(_MAX_CALLS, _BATCH_SECONDS / seconds)))
    times: dict[str, list[float]] = {CUDA: [], TRITON: []}
    for i in range(_ROUNDS):
        for backend in (CUDA, TRITON) if i % 2 == 0 else (TRITON, CUDA):
            with hk.use_backend(gpu.backend(backend)):
                times[backend].append(1e6 * gpu.batch(run, calls[backend]))
    known = (_tables.chip(torch.device(gpu.name())), one.op, one.precision, one.layout, one.tensor.elements)
    return Measurement(*known, median(times[CUDA]), median(times[TRITON]))
