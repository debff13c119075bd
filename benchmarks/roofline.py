# SPDX-License-Identifier: Apache-2.0
"""What a design can reach on a chip before anything is measured: bytes, operations, and the larger of their times.

The operators run as their Triton implementations on tensors without data. What an implementation moves is added up over
the kernels that it launches and over PyTorch's own operators that it calls, such as copies, casts and the adding up of
partial sums: a tensor counts once per launch or call that takes or returns it. What a kernel reads again, of tiles that
overlap or of a matrix's rows, isn't counted: caches are there for that.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hsr_kernels
from hsr_kernels._dispatch import library

from .case import Case
from .costs import cost, tensor_bytes
from .variants import differentiate, infer
from .workloads import BOTH, FORWARD

# Of the bytes that a fused operator moves to the fewest that it could.
MAX_MOVED_RATIO = 1.15
# Chains of fused kernels, by design: between them a chain's pooled layers and its gradients pass through memory. The
# fewest bytes of a chain are those of its kernels; copies, casts and sums around them are too much.
CHAINS = ("hsr_kernels::feature_loss", "hsr_kernels::feature_loss_bwd")
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
aten = torch.ops.aten
# Operators that allocate or look at a tensor, or give it another shape, but touch no data.
_WITHOUT_DATA = {
    aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default,
    aten._unsafe_view.default, aten._reshape_alias.default, aten.detach.default,
    aten.promote_types.default, aten.new_empty_strided.default,
}  # fmt: skip
# Operators that write a tensor and only look at the shape of another one.
WRITE_ONLY = {
    aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.zeros_like.default,
    aten.ones_like.default, aten.full_like.default,
}  # fmt: skip


@dataclass(frozen=True)
class DataSheet:
    """The rates in a chip's data sheet; dense, with float32 accumulation.

    Attributes:
        name: The chip's.
        bandwidth: Bytes per second of the device's memory.
        flops: Operations per second by the dtype of a product's operands.
    """

    name: str
    bandwidth: float
    flops: dict[torch.dtype, float]

    def floor(self, moved: float, flops: float, dtype: torch.dtype) -> float:
        """The least seconds for so many bytes and operations."""
        return max(moved / self.bandwidth, flops / self.flops[dtype])


def _data_sheet(name: str, terabytes: float, half: float, single: float) -> DataSheet:
    rates = {torch.float16: half, torch.bfloat16: half, torch.float32: single}
    return DataSheet(name, terabytes * 1e12, {dtype: rate * 1e12 for dtype, rate in rates.items()})


# float32 products run on the ordinary units: tf32 is for those who ask for it.
DATA_SHEETS = (
    _data_sheet("H200", 4.8, 989, 67),
    _data_sheet("A100", 2.039, 312, 19.5),
    _data_sheet("RTX 4090", 1.008, 165.2, 82.6),
)


@dataclass
class Traffic:
    """What calls of one operator move.

    Attributes:
        calls: How many there are.
        min_bytes: Bytes of what the calls take and return; of CHAINS, of what their kernels do.
        moved_bytes: Bytes that they move: of a fused operator, by all that it launches and calls.
        parts: {launch or PyTorch's operator: bytes} that the calls consist of.
        launched_bytes: Bytes of these that the library's kernels move.
        launches, operations: How many launches and PyTorch's operators they consist of.
    """

    calls: int = 0
    min_bytes: int = 0
    moved_bytes: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    launched_bytes: int = 0
    launches: int = 0
    operations: int = 0

    def add(self, other: "Traffic") -> None:
        """Counts what other calls move too."""
        self.calls += other.calls
        self.min_bytes += other.min_bytes
        self.moved_bytes += other.moved_bytes
        self.launched_bytes += other.launched_bytes
        self.launches += other.launches
        self.operations += other.operations
        for part, moved in other.parts.items():
            self.parts[part] = self.parts.get(part, 0) + moved


@dataclass(frozen=True)
class Work:
    """What one pass of a case costs.

    Attributes:
        case, phase: What runs.
        min_bytes: Bytes, with every input read and every result written once.
        flops: The fewest of convolutions and matrix products.
        operators: By name; those of hsr_kernels:: are fused, the others are PyTorch's.
        route: Of modulated layers, where one was demanded.
    """

    case: Case
    phase: str
    min_bytes: int
    flops: float
    operators: dict[str, Traffic]
    route: str | None = None

    @property
    def name(self) -> str:
        return self.case.name + (f", {self.route}" if self.route else "")

    @property
    def moved_bytes(self) -> int:
        """Bytes that the library's operators and PyTorch's move between them."""
        return sum(traffic.moved_bytes for traffic in self.operators.values())

    def wasteful(self, max_ratio: float) -> dict[str, float]:
        """Fused operators that move more than `max_ratio` times the fewest bytes, and how many times."""
        ratios = {
            name: t.moved_bytes / t.min_bytes for name, t in self.operators.items() if is_fused(name) and t.min_bytes
        }
        return {name: ratio for name, ratio in ratios.items() if ratio > max_ratio}


def is_fused(operator: str) -> bool:
    """Whether an operator is one of the library's, not of PyTorch's."""
    return operator.startswith("hsr_kernels::")


def touches_data(operator: torch._ops.OpOverload) -> bool:
    """Whether an operator of PyTorch's does more than to allocate a tensor or to look at one in another way."""
    is_view = any(a.alias_info is not None and not a.alias_info.is_write for a in operator._schema.arguments)
    return not is_view and operator not in _WITHOUT_DATA and operator.namespace != "prim"


class _Counter(TorchDispatchMode):
    """Adds up the bytes of the tensors that operators and launches take and return."""

    def __init__(self) -> None:
        super().__init__()
        # Of the fused operator that is running.
        self.running: Traffic | None = None
        self.forget()

    def forget(self) -> None:
        """Begins anew."""
        self.operators: dict[str, Traffic] = {}
        # What operators consist of: kernel, or operator of PyTorch's -> (calls, bytes).
        self.launches: dict[str, tuple[int, int]] = {}
        self.calls: dict[str, tuple[int, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # These ask for a tensor's properties, and a profiler marks optimizers.
        if func.namespace in ("prim", "profiler"):
            return func(*args, **(kwargs or {}))
        # Without the overload: of the library's operators that is the backend.
        name = func._schema.name
        implementation = library.triton_operators.get(func.name())
        if implementation is not None:
            return self._run_fused(name, implementation, args)
        # Below autograd, composite operators such as `contiguous` arrive undivided: what they consist of moves bytes.
        if self.running is not None and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if touches_data(func):
            self._count(name, tensor_bytes(tree_leaves(result if func in WRITE_ONLY else (args, kwargs, result))))
        return result

    def _run_fused(self, name, implementation, args):
        traffic = self.running = Traffic()
        try:
            with self:
                result = implementation(*args)
        finally:
            self.running = None
        traffic.calls = 1
        traffic.min_bytes = traffic.launched_bytes if name in CHAINS else tensor_bytes(tree_leaves((args, result)))
        self._add(name, traffic)
        return result

    def _count(self, name: str, moved: int, *, launched: bool = False) -> None:
        traffic = Traffic(1, moved, moved, {name: moved}, moved if launched else 0, int(launched), int(not launched))
        parts = self.launches if launched else self.calls
        calls, before = parts.get(name, (0, 0))
        parts[name] = calls + 1, before + moved
        if self.running is None:
            self._add(name, traffic)
        else:
            self.running.add(traffic)

    def _add(self, name: str, traffic: Traffic) -> None:
        self.operators.setdefault(name, Traffic()).add(traffic)

    def launch(self, kernel: str, arguments: Sequence[object]) -> None:
        """Counts what a launch of a Triton kernel moves."""
        # A descriptor stands for the tensor that it describes.
        moved = tensor_bytes(getattr(t, "base", t) for t in tree_leaves(arguments))
        self._count(kernel, moved, launched=True)


@contextmanager
def counting() -> Iterator[_Counter]:
    """Within it operators run as their Triton implementations on tensors without data, and their bytes are counted."""
    # Not before it is needed: it imports Triton.
    from hsr_kernels.aot import record

    counter = _Counter()
    with record.recording(record.CHIPS["sm_90"], counter.launch), counter:
        yield counter


def estimate(case: Case, route: str | None = None) -> Iterator[Work]:
    """What each pass of a case costs; training steps, which are many operators, are left out.

    Args:
        route: That its modulated layers take; None for the measured one, or the default.
    """
    for phase in (FORWARD, BOTH):
        if phase not in case.targets:
            continue
        with hsr_kernels.use_route(route), counting() as counter:
            # PyTorch's CPU convolutions cast float16, which no GPU does; bfloat16 has its size.
            dtype = torch.bfloat16 if case.dtype == torch.float16 else case.dtype
            work = replace(case, dtype=dtype).workload()
            counter.forget()
            (infer(work) if phase == FORWARD else differentiate(work))()
            operators = dict(counter.operators)
        least = cost(work, phase, case.reread)
        yield Work(case, phase, least.min_bytes, least.flops, operators, route)


HEADER = (
    "case",
    "pass",
    "min, MB",
    "moved, MB",
    "x min",
    "GFLOP",
    *(f"{sheet.name}, µs" for sheet in DATA_SHEETS),
)
OPERATORS_HEADER = ("case", "pass", "operator", "calls", "min, MB", "moved, MB", "x min")


def cells(work: Work) -> list[str]:
    """The cells of one pass under HEADER."""
    floors = [sheet.floor(work.min_bytes, work.flops, work.case.dtype) for sheet in DATA_SHEETS]
    return [
        work.name,
        work.phase,
        f"{work.min_bytes / 1e6:.1f}",
        f"{work.moved_bytes / 1e6:.1f}",
        f"{work.moved_bytes / work.min_bytes:.2f}",
        f"{work.flops / 1e9:.1f}",
        *(f"{1e6 * floor:.0f}" for floor in floors),
    ]


def operator_cells(work: Work, max_ratio: float, *, only_wasteful: bool) -> Iterator[list[str]]:
    """The cells of each operator of one pass under OPERATORS_HEADER; below a wasteful one, what it consists of."""
    wasteful = work.wasteful(max_ratio)
    for name, t in sorted(work.operators.items(), key=lambda item: -item[1].moved_bytes):
        if only_wasteful and name not in wasteful:
            continue
        ratio = (
            f"{t.moved_bytes / t.min_bytes:.2f}{' !' if name in wasteful else ''}"
            if is_fused(name) and t.min_bytes
            else ""
        )
        minimum = f"{t.min_bytes / 1e6:.1f}" if is_fused(name) else ""
        yield [work.name, work.phase, name, str(t.calls), minimum, f"{t.moved_bytes / 1e6:.1f}", ratio]
        if name in wasteful:
            for part, moved in t.parts.items():
                yield ["", "", f"  {part}", "", "", f"{moved / 1e6:.1f}", ""]
