# SPDX-License-Identifier: Apache-2.0
"""Which of a GPU's two backends an operator is faster on.

A time is that of forward and first-order backward of the public function, as training calls it: a number of calls is
issued one after another, the device is waited for, and the clock's time is divided by their number. So for small
tensors it is the host's time, which launching takes, and for large ones the device's. The modulated layer's time
includes its convolution.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median

import torch

import hsr_kernels as hk
from hsr_kernels._dispatch import measured
from hsr_kernels._dispatch.measured import Measurement, Problem
from hsr_kernels._dispatch.operators import CALL

from .. import device
from ..case import Case
from ..variants import CUDA, TRITON, differentiate
from ..workloads import IMAGE_OPERATORS, Workload, styled_layer

BACKENDS = (CUDA, TRITON)
_LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
# The dtypes and layouts, the most usual first: what mixed precision, as `hsr train` has it, runs on.
GROUPS = (
    ((torch.float16, torch.float32), ("channels_last",)),
    ((torch.float16, torch.float32), ("contiguous",)),
    ((torch.bfloat16,), ("channels_last", "contiguous")),
)
SECONDS_PER_BATCH = 0.005
MIN_CALLS_PER_BATCH, MAX_CALLS_PER_BATCH = 3, 200
ROUNDS = 5


@dataclass(frozen=True)
class Images:
    """The shape [n, channels, side, side]."""

    n: int
    channels: int
    side: int

    @property
    def elements(self) -> int:
        return self.n * self.channels * self.side**2


# StyleGAN2's activations, in batches of training and then one by one, and smaller ones such as RGB images of 4x4. As a
# measurement speaks for tensors of about its size, no two here have the same. Those that need much memory are last.
IMAGES = (
    Images(32, 512, 4), Images(32, 512, 8), Images(16, 512, 16), Images(8, 512, 32), Images(4, 512, 64),
    Images(4, 256, 128), Images(4, 128, 256), Images(1, 512, 4), Images(1, 512, 8), Images(1, 64, 4), Images(1, 8, 4),
    Images(4, 64, 512), Images(4, 32, 1024),
)  # fmt: skip
TINY_IMAGES = (Images(1, 4, 8),)


def _layer(n: int, channels: int, side: int, layout: torch.memory_format) -> Workload:
    return styled_layer(n, channels, channels, side, up=1, layout=layout)


# By the folder of their kernels; upsampling stands for the operators of upfirdn2d.
WORKLOADS = {
    "bias_act": IMAGE_OPERATORS["bias_act"].build,
    "upfirdn2d": IMAGE_OPERATORS["upsample2d"].build,
    "modulated_conv2d": _layer,
}


@dataclass(frozen=True)
class Comparison:
    """An operator, by its folder, on images of one size, dtype and layout."""

    op: str
    images: Images
    dtype: torch.dtype
    layout: str

    def __str__(self) -> str:
        shape = self.images
        return f"{self.op}, {shape.n}x{shape.channels}x{shape.side}x{shape.side}, {self.dtype_name}, {self.layout}"

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def problem(self) -> Problem:
        """What the library's table knows it by."""
        return Problem(self.op, CALL, self.dtype_name, self.layout, (self.images.elements,))

    def workload(self, device: str) -> Workload:
        """Builds the call of the public function with tensors on a device."""
        shape = self.images
        size = {"n": shape.n, "channels": shape.channels, "side": shape.side, "layout": _LAYOUTS[self.layout]}
        return Case(str(self), str(self), WORKLOADS[self.op], size, size, {}, dtype=self.dtype).workload(device=device)


def comparisons(images: Sequence[Images] = IMAGES) -> Iterator[Comparison]:
    """Yields what is to be measured, group by group."""
    for dtypes, layouts in GROUPS:
        for shape, dtype, layout, op in product(images, dtypes, layouts, WORKLOADS):
            yield Comparison(op, shape, dtype, layout)


def measure_backends(comparison: Comparison) -> Measurement:
    """Times an operator on both backends, in turns."""
    torch.manual_seed(0)
    run = differentiate(comparison.workload(device.name()))
    calls: dict[str, int] = {}
    for backend in BACKENDS:
        with hk.use_backend(device.backend(backend)):
            # Compiles, and lets allocations settle.
            device.batch(run, MIN_CALLS_PER_BATCH)
            seconds = max(device.batch(run, MIN_CALLS_PER_BATCH), 1e-9)
            calls[backend] = int(max(MIN_CALLS_PER_BATCH, min(MAX_CALLS_PER_BATCH, SECONDS_PER_BATCH / seconds)))
    microseconds: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    for i in range(ROUNDS):
        for backend in BACKENDS if i % 2 == 0 else reversed(BACKENDS):
            with hk.use_backend(device.backend(backend)):
                microseconds[backend].append(1e6 * device.batch(run, calls[backend]))
    chip = measured.chip(torch.device(device.name()))
    return Measurement(chip, comparison.problem, {name: median(times) for name, times in microseconds.items()})
