# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs of the phases of a training step: the host launches a phase as a whole, instead of kernel by kernel."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import Config
from ..errors import UserError, reason
from ..losses import Stats

# Runs of a phase before it is captured: they load kernels, choose among them, and make the optimizers' moments.
WARM_UP_RUNS = 3
SWITCHED_OFF = "they are switched off"


class Batch(NamedTuple):
    """Real images on the device.

    Attributes:
        images: [N, 3, R, R] uint8.
        labels: Their classes, [N] int64.
    """

    images: Tensor
    labels: Tensor


Phase = Callable[[], Stats]
# Takes in a phase without running it, and returns what runs it: the same operations on the same memory.
Capture = Callable[[Phase], Phase]


def obstacle(config: Config, device: torch.device, processes: int) -> str:
    """Returns why the phases of training in so many processes can't be captured, empty if they can."""
    if config.cuda_graphs == "off":
        return SWITCHED_OFF
    if device.type != "cuda":
        return "they need a GPU"
    if processes > 1:
        return "several processes train together"
    if config.parts_per_process(processes) > 1:
        return "a batch is computed in parts (--batch-gpu)"
    return ""


def require_graphs(config: Config, device: torch.device, processes: int) -> None:
    """Raises `UserError` where CUDA graphs are demanded that there can't be."""
    if config.cuda_graphs == "on" and (found := obstacle(config, device, processes)):
        raise UserError(f"There can be no CUDA graphs (--cuda-graphs on): {found}.")


class CudaCapture:
    """Captures phases as CUDA graphs, which share their memory, as they run one after another.

    The state of PyTorch's default generator, which all of training draws from, is part of a graph's inputs: replays
    see the numbers that the phase itself would see.

    Args:
        device: A GPU.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, phase: Phase) -> Phase:
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        generator = torch.cuda.default_generators[index]
        state = generator.clone_state()
        graph = torch.cuda.CUDAGraph()
        try:
            # Threads that read and pin the next batches may go on meanwhile.
            with (
                torch.cuda.device(self._device),
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                stats = phase()
                values = torch.stack([value.float() for value in stats.values()])
        except RuntimeError:
            # A capture that breaks off leaves the generator in the midst of it.
            generator.graphsafe_set_state(state)
            raise
        names = list(stats)

        def replay() -> Stats:
            graph.replay()
            # The next replay overwrites them.
            return dict(zip(names, values.clone().unbind(), strict=True))

        return replay


class PhaseGraphs:
    """Runs the phases of training steps: the first times as they are, and from then on as they were captured.

    Where a capture fails, all phases run as they are from then on.

    Args:
        capture: Captures a phase.
        found: Why none is captured; empty if they are.
        are_demanded: Whether a capture that fails is an error.

    Attributes:
        reason: Why phases aren't captured; empty if they are.
        tell: Takes the sentence that says so when a capture fails.
    """

    def __init__(self, capture: Capture | None, found: str = "", are_demanded: bool = False):
        self._capture = capture
        self._are_demanded = are_demanded
        self._runs: Counter[str] = Counter()
        self._replays: dict[str, Phase] = {}
        self._batch: Batch | None = None
        self.reason = found
        self.tell: Callable[[str], object] = lambda sentence: None

    def hold(self, images: Tensor, labels: Tensor, device: torch.device) -> Batch:
        """Returns a batch on the device, in the same memory at each step if phases are captured.

        Args:
            images, labels: As in `Batch`, on the host or on the device.
            device: Where training runs.

        Raises:
            ValueError: The batch has another shape than that of the first step.
        """
        given = Batch(images, labels)
        if self.reason:
            return Batch(*(tensor.to(device, non_blocking=True) for tensor in given))
        if self._batch is None:
            self._batch = Batch(*(torch.empty_like(tensor, device=device) for tensor in given))
        if images.shape != self._batch.images.shape:
            raise ValueError(
                f"images must have the shape {list(self._batch.images.shape)} of the first batch, "
                f"got {list(images.shape)}"
            )
        for held, tensor in zip(self._batch, given, strict=True):
            held.copy_(tensor, non_blocking=True)
        return self._batch

    def run(self, name: str, phase: Phase) -> Stats:
        """Runs a phase and returns its statistics."""
        if name in self._replays:
            return self._replays[name]()
        if self.reason or self._capture is None:
            return phase()
        if self._runs[name] < WARM_UP_RUNS:
            self._runs[name] += 1
            return phase()
        try:
            self._replays[name] = self._capture(phase)
        except RuntimeError as error:
            # Nothing has run yet, as a capture only records.
            self.give_up(f"{name} can't be captured ({reason(error)})")
            return phase()
        return self._replays[name]()

    def give_up(self, found: str) -> None:
        """Runs all phases as they are from now on, and says why.

        Raises:
            UserError: The graphs are demanded.
        """
        if self._are_demanded:
            raise UserError(f"There can be no CUDA graphs (--cuda-graphs on): {found}.")
        self.reason = found
        self._replays.clear()
        self.tell(f"Training goes on without CUDA graphs: {found}.")


def build_graphs(config: Config, device: torch.device, processes: int) -> PhaseGraphs:
    """Returns what runs the phases of training in so many processes on a device.

    Raises:
        UserError: CUDA graphs are demanded, and there can be none.
    """
    require_graphs(config, device, processes)
    found = obstacle(config, device, processes)
    return PhaseGraphs(None if found else CudaCapture(device), found, config.cuda_graphs == "on")
