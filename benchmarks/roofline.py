# SPDX-License-Identifier: Apache-2.0
"""What a design can reach on a chip before anything is measured: bytes, operations, and the larger of their times.

The operators run on tensors without data, and what each dispatched operator reads and writes is added up: a tensor
counts once per operator that takes or returns it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import hsr_kernels

from .cases import BOTH, FORWARD, STEP, Case, Workload

aten = torch.ops.aten
# They allocate or look at a tensor, or give it another shape, but touch no data.
_FREE = {
    aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default,
    aten._unsafe_view.default, aten._reshape_alias.default, aten.detach.default,
}  # fmt: skip


@dataclass(frozen=True)
class Chip:
    """Data-sheet rates; dense, with float32 accumulation.

    Attributes:
        bandwidth: Bytes per second of the device's memory.
        flops: Operations per second by the dtype of a product's operands.
    """

    name: str
    bandwidth: float
    flops: dict[torch.dtype, float]

    def floor(self, moved: float, flops: float, dtype: torch.dtype) -> float:
        """The least seconds for so many bytes and operations."""
        return max(moved / self.bandwidth, flops / self.flops[dtype])


def _chip(name: str, terabytes: float, half: float, single: float) -> Chip:
    rates = {torch.float16: half, torch.bfloat16: half, torch.float32: single}
    return Chip(name, terabytes * 1e12, {dtype: rate * 1e12 for dtype, rate in rates.items()})


# float32 products run on the ordinary units: tf32 is for those who ask for it.
CHIPS = (
    _chip("H200", 4.8, 989, 67),
    _chip("A100", 2.039, 312, 19.5),
    _chip("RTX 4090", 1.008, 165.2, 82.6),
)


@dataclass(frozen=True)
class Work:
    """What one pass of a case costs.

    Attributes:
        fewest: Bytes, with every input read and every result written once.
        moved: Bytes that our operators and PyTorch's between them move.
        flops: Of convolutions and matrix products.
        operators: {operator: (calls, bytes)} that `moved` is made of.
    """

    case: Case
    phase: str
    fewest: int
    moved: int
    flops: int
    operators: dict[str, tuple[int, int]]


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of the tensors that operators take and return."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: dict[str, tuple[int, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        is_view = any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)
        if func.namespace != "prim" and not is_view and func not in _FREE:
            tensors = {id(t): t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)}
            name = f"{func.namespace}::{func._schema.name.split('::')[-1]}"
            calls, total = self.operators.get(name, (0, 0))
            self.operators[name] = calls + 1, total + _bytes(list(tensors.values()))
        return result


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of tensors; of an expanded one, those that exist."""
    return sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in tensors)


def _fewest(case: Case, work: Workload, output: torch.Tensor, gradients: Sequence[torch.Tensor], phase: str) -> int:
    tensors = {"inputs": list(work.inputs), "parameters": list(work.parameters), "output": [output]}
    total = _bytes([*tensors["inputs"], *tensors["parameters"], output])
    if phase == BOTH:
        again = [t for name in case.reread for t in tensors[name]]
        total += _bytes([work.cotangent, *again, *gradients])
    return total


def estimate(case: Case) -> Iterator[Work]:
    """What each pass of a case costs; training steps, which are many operators, are left out."""
    if STEP in case.targets:
        return
    backend = "cpu"  # the same operators in the same order as on a GPU
    with FakeTensorMode(allow_non_fake_inputs=True), hsr_kernels.use_backend(backend):
        # PyTorch's CPU convolutions cast float16, which no GPU does; bfloat16 has its size.
        same = torch.bfloat16 if case.dtype == torch.float16 else case.dtype
        work = replace(case, dtype=same).workload()
        tensors = [*work.inputs, *work.parameters]
        leaves = [t for t in tensors if t.requires_grad]
        for phase in (FORWARD, BOTH):
            with _Traffic() as traffic, FlopCounterMode(display=False) as counter:
                gradients: Sequence[torch.Tensor] = ()
                if phase == FORWARD:
                    with torch.no_grad():
                        output = work.function(*tensors)
                else:
                    output = work.function(*tensors)
                    gradients = torch.autograd.grad(output, leaves, work.cotangent)
            fewest = _fewest(case, work, output, gradients, phase)
            moved = sum(total for _, total in traffic.operators.values())
            yield Work(case, phase, fewest, moved, counter.get_total_flops(), traffic.operators)


HEADER = ("case", "pass", "fewest, MB", "moved, MB", "x fewest", "GFLOP", *(f"{chip.name}, µs" for chip in CHIPS))


def line(work: Work) -> list[str]:
    """The cells of one pass under HEADER."""
    floors = [chip.floor(work.fewest, work.flops, work.case.dtype) for chip in CHIPS]
    return [
        work.case.name,
        work.phase,
        f"{work.fewest / 1e6:.1f}",
        f"{work.moved / 1e6:.1f}",
        f"{work.moved / work.fewest:.2f}",
        f"{work.flops / 1e9:.1f}",
        *(f"{1e6 * floor:.0f}" for floor in floors),
    ]
