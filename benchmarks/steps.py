# SPDX-License-Identifier: Apache-2.0
"""What each phase of a training step launches, calls and moves, counted on tensors without data.

A launch is one of a Triton kernel. An operation is a call of one of PyTorch's own operators that touches data, be it
between the library's operators or within them; the optimizer, the search for overflows and the moving average count
like the rest.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from . import roofline
from .networks import trainer

if TYPE_CHECKING:
    from hsr.training.trainer import Trainer

# The phases of most steps, which are added up.
MAIN_PHASES = ("G main", "D main", "EMA")
MAIN_STEP = "main step"
HEADER = ("phase", "launches", "moved by them, GB", "operations", "moved by them, GB")
PARTS_HEADER = ("phase", "launch or operation", "calls", "moved, GB")
_CONVOLUTIONS = ("aten::convolution", "aten::convolution_backward")


@dataclass(frozen=True)
class PhaseCount:
    """What a phase does.

    Attributes:
        name: The phase's.
        launches: Kernel -> (calls, bytes).
        operations: Operator of PyTorch's -> (calls, bytes).
    """

    name: str
    launches: Mapping[str, tuple[int, int]]
    operations: Mapping[str, tuple[int, int]]

    @property
    def launch_count(self) -> int:
        return sum(calls for calls, _ in self.launches.values())

    @property
    def launched_bytes(self) -> int:
        return sum(moved for _, moved in self.launches.values())

    @property
    def operation_count(self) -> int:
        return sum(calls for calls, _ in self.operations.values())

    @property
    def operation_bytes(self) -> int:
        """Bytes of all operations but convolutions, which are PyTorch's on every route."""
        return sum(moved for name, (_, moved) in self.operations.items() if name not in _CONVOLUTIONS)

    def cells(self) -> list[str]:
        """The cells under HEADER."""
        gigabytes = [f"{moved / 1e9:.2f}" for moved in (self.launched_bytes, self.operation_bytes)]
        return [self.name, str(self.launch_count), gigabytes[0], str(self.operation_count), gigabytes[1]]

    def part_cells(self) -> Iterator[list[str]]:
        """The cells of each kernel and operator under PARTS_HEADER."""
        for parts in (self.launches, self.operations):
            for name, (calls, moved) in sorted(parts.items(), key=lambda part: -part[1][0]):
                yield [self.name, name, str(calls), f"{moved / 1e9:.3f}"]


def count_step(resolution: int, batch: int, encoder: str = "", **changes: object) -> list[PhaseCount]:
    """Counts each phase of a step of the trainer in the settings of `networks.training`, and those of most steps.

    Raises:
        ValueError: There is an encoder, whose features would need its values.
    """
    if encoder:
        raise ValueError("encoder must be empty: without data there are no features to compare")
    trained = trainer(resolution, batch, "", **changes)
    counts: list[PhaseCount] = []
    with roofline.counting() as counter:
        _forget_values(trained)
        images = torch.empty(batch, 3, resolution, resolution, dtype=torch.uint8)
        labels = torch.zeros(batch, dtype=torch.int64)
        # Optimizers make their moments at their first step, which may have the main phases alone.
        trained.steps = 1
        trained.step(images, labels)

        @contextmanager
        def timer(name: str) -> Iterator[None]:
            counter.forget()
            yield
            counts.append(PhaseCount(name, dict(counter.launches), dict(counter.calls)))

        trained.timer = timer
        # This number has all phases due.
        trained.steps = 0
        trained.step(images, labels)
    return [*counts, _total(MAIN_STEP, [count for count in counts if count.name in MAIN_PHASES])]


def _total(name: str, counts: Sequence[PhaseCount]) -> PhaseCount:
    launches: dict[str, tuple[int, int]] = {}
    operations: dict[str, tuple[int, int]] = {}
    for count in counts:
        for total, parts in ((launches, count.launches), (operations, count.operations)):
            for part, (calls, moved) in parts.items():
                before = total.get(part, (0, 0))
                total[part] = (before[0] + calls, before[1] + moved)
    return PhaseCount(name, launches, operations)


def _forget_values(trained: "Trainer") -> None:
    """Replaces parameters and buffers by tensors without data; filters keep their values, which are looked at."""
    replaced: dict[int, torch.nn.Parameter] = {}
    for module in (part for network in (*trained.modules().values(), trained.loss) for part in network.modules()):
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in replaced:
                empty = torch.nn.Parameter(torch.empty(parameter.shape), requires_grad=parameter.requires_grad)
                replaced[id(parameter)] = empty
            module._parameters[name] = None if parameter is None else replaced[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and name != "resample_filter":
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    for optimizer in (trained.opt_G, trained.opt_D):
        for group in optimizer.param_groups:
            group["params"] = [replaced[id(parameter)] for parameter in group["params"]]
    for counters in (trained.skipped_updates, trained.skipped_streaks):
        counters.update({name: torch.zeros([], dtype=torch.int64) for name in counters})
