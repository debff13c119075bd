# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs of training: a stand-in proves on the CPU that phases can be captured, a GPU that they are right."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hsr.errors import UserError
from hsr.losses import GANLoss, Stats
from hsr.training.graphs import WARM_UP_RUNS, Batch, Phase, PhaseGraphs, obstacle, require_graphs
from hsr.training.trainer import PHASES, Trainer
from tests.selection import FULL, kept

from .conftest import SMALL
from .test_parts import trainer_and_batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
aten = torch.ops.aten
# Operators whose result the host has to read, or that have a shape which depends on values.
HOST_READS = {aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten._unique2}


class Stream(TorchDispatchMode):
    """Records operators: what each is called with, the memory that is there before by its address.

    Attributes:
        calls: An operator's name and arguments. A tensor is its shape, strides and dtype, and the position at which its
            memory was made within the stream, or the address of memory from before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple]] = []
        self._made: dict[int, int] = {}
        # Memory that is in use can't be given to another tensor.
        self._kept: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A profiler's marks.
        if function.namespace == "profiler":
            return function(*args, **(kwargs or {}))
        masks = [t for t in tree_leaves(args[1:]) if isinstance(t, torch.Tensor) and t.dtype == torch.bool]
        is_selection = function.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and masks
        if function.overloadpacket in HOST_READS or is_selection:
            raise RuntimeError(f"the host reads what {function} returns")
        leaves = tree_leaves((args, kwargs or {}))
        self.calls.append((str(function), tuple(map(self._described, leaves))))
        before = {t.untyped_storage()._cdata for t in leaves if isinstance(t, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in before:
                self._kept.append(tensor.untyped_storage())
                self._made[tensor.untyped_storage()._cdata] = len(self._kept)
        return result

    def _described(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        storage = value.untyped_storage()
        made = self._made.get(storage._cdata)
        if made is None:
            self._kept.append(storage)
        where = ("made", made) if made is not None else ("there", storage.data_ptr())
        return where, tuple(value.shape), value.stride(), value.storage_offset(), value.dtype


class StandIn:
    """In the place of a capture: a replay runs the phase, and proves that it would have done what a graph does."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, phase: Phase) -> Phase:
        first: list[Stream] = []

        def replay() -> Stats:
            with Stream() as stream:
                stats = phase()
            if not first:
                first.append(stream)
            assert len(stream.calls) > 100
            for call, captured in zip(stream.calls, first[0].calls, strict=True):
                assert call == captured
            self.replays += 1
            return stats

        return replay


def captured_trainer(**settings: Any) -> tuple[Trainer, Batch, StandIn]:
    """A trainer on the CPU whose phases, due at every step, are captured by a stand-in."""
    trainer, *batch = trainer_and_batch(path_length_interval=1, r1_interval=1, **settings)
    capture = StandIn()
    trainer.graphs = PhaseGraphs(capture)
    return trainer, Batch(*batch), capture


def train(trainer: Trainer, batch: Batch, steps: int) -> list[Stats]:
    """Trains on other images at each step, in other memory."""
    return [trainer.step((batch.images + step).clone(), batch.labels.roll(step)) for step in range(steps)]


def test_captured_phases_repeat_operations_on_the_same_memory() -> None:
    """All four phases with HSR and ADA: nothing depends on values, on the step, or on memory that comes and goes."""
    trainer, batch, capture = captured_trainer()
    found = train(trainer, batch, WARM_UP_RUNS + 2)
    assert capture.replays == 2 * len(PHASES)
    eager, *images = trainer_and_batch(path_length_interval=1, r1_interval=1)
    expected = train(eager, Batch(*images), WARM_UP_RUNS + 2)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys() and all(value.equal(other[name]) for name, value in one.items())
    for name, module in trainer.modules().items():
        state = eager.modules()[name].state_dict()
        assert all(value.equal(state[key]) for key, value in module.state_dict().items())


class Faults:
    """What a phase must not do; each takes the loss, and returns it unchanged."""

    def __init__(self) -> None:
        self.count = 0

    def reads(self, value: torch.Tensor) -> torch.Tensor:
        return value if value.item() < 1e30 else -value

    def selects(self, value: torch.Tensor) -> torch.Tensor:
        return value[value < 1e30]

    def counts(self, value: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return value + self.count * 1e-9

    def allocates(self, value: torch.Tensor) -> torch.Tensor:
        # As a batch that isn't copied to where the last one was.
        with torch.utils._python_dispatch._disable_current_modes():
            fresh = torch.zeros(1)
        return value + fresh[0]


@pytest.mark.parametrize(
    "fault",
    kept([Faults.reads, *(pytest.param(f, marks=FULL) for f in (Faults.selects, Faults.counts, Faults.allocates))]),
)
def test_a_phase_that_cannot_be_captured_is_found(fault: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, batch, _ = captured_trainer(hsr_weight=0.0)
    faults, penalty = Faults(), GANLoss.discriminator_r1

    def faulty(self: GANLoss, *inputs: Any) -> Any:
        value, stats = penalty(self, *inputs)
        return fault(faults, value).sum(), stats

    monkeypatch.setattr(GANLoss, "discriminator_r1", faulty)
    # What it raises in a capture lets training go on without graphs.
    said: list[str] = []
    trainer.graphs.tell = said.append
    with pytest.raises((AssertionError, RuntimeError)):
        train(trainer, batch, WARM_UP_RUNS + 2)


def test_training_goes_on_where_a_capture_fails() -> None:
    def capture(phase: Phase) -> Phase:
        raise RuntimeError("operation not permitted when stream is capturing. And more")

    said: list[str] = []
    trainer, batch, _ = captured_trainer(hsr_weight=0.0)
    trainer.graphs = PhaseGraphs(capture)
    trainer.graphs.tell = said.append
    train(trainer, batch, WARM_UP_RUNS + 2)
    assert said == [
        "Training goes on without CUDA graphs: G main can't be captured (operation not permitted when stream is "
        "capturing. And more)."
    ]
    trainer.graphs = PhaseGraphs(capture, are_demanded=True)
    with pytest.raises(UserError, match=r"There can be no CUDA graphs \(--cuda-graphs on\): G main can't be captured"):
        train(trainer, batch, WARM_UP_RUNS + 1)


@pytest.mark.parametrize(
    ("settings", "device", "processes", "words"),
    [
        ({}, CPU, 1, "they need a GPU"),
        ({}, CUDA, 2, "several processes train together"),
        ({"batch": 16, "batch_gpu": 8}, CUDA, 1, "a batch is computed in parts"),
        ({}, CUDA, 1, ""),
    ],
)
def test_what_cannot_be_captured_is_said(settings: dict, device: torch.device, processes: int, words: str) -> None:
    config = dataclasses.replace(SMALL, **settings)
    found = obstacle(config, device, processes)
    assert found.startswith(words) and bool(found) == bool(words)
    demanded = dataclasses.replace(config, cuda_graphs="on")
    if words:
        with pytest.raises(UserError, match=words):
            require_graphs(demanded, device, processes)
    else:
        require_graphs(demanded, device, processes)
    assert obstacle(dataclasses.replace(config, cuda_graphs="off"), device, processes)


def test_a_batch_of_another_shape_is_refused() -> None:
    graphs = PhaseGraphs(StandIn())
    graphs.hold(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), CPU)
    with pytest.raises(ValueError, match=r"images must have the shape \[4, 3, 8, 8\] .*, got \[2, 3, 8, 8\]"):
        graphs.hold(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), CPU)


@pytest.mark.gpu
def test_graphs_give_the_weights_of_eager_training() -> None:
    """After 16 steps they are as close to those of eager training as a second run of it comes."""
    cudnn = torch.backends.cudnn
    settings = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        eager, again, captured = (weights_on_gpu(setting) for setting in ("off", "off", "on"))
    finally:
        cudnn.deterministic, cudnn.benchmark = settings

    def distance(state: dict[str, torch.Tensor]) -> float:
        errors = (
            (state[name] - value).abs().max() / value.abs().max().clamp_min(1e-6) for name, value in eager.items()
        )
        return max(error.item() for error in errors)

    assert distance(captured) <= 3 * distance(again) + 1e-6


def weights_on_gpu(cuda_graphs: str) -> dict[str, torch.Tensor]:
    """All weights and running means after 16 steps, in which a captured R1 is replayed three times."""
    # PyTorch's gradient of augmented images isn't deterministic.
    trainer, *batch = trainer_and_batch(
        device=CUDA, mixed_precision_resolutions=1, augmentation="none", cuda_graphs=cuda_graphs
    )
    train(trainer, Batch(*batch), 16)
    assert bool(trainer.graphs.reason) == (cuda_graphs == "off")
    state = {f"{name}.{key}": v for name, m in trainer.modules().items() for key, v in m.state_dict().items()}
    return {key: value.double() for key, value in (state | {"pl_mean": trainer.loss.pl_mean}).items()}


@pytest.mark.gpu
def test_a_phase_that_reads_a_value_is_not_captured_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """And training goes on, with the random numbers of before."""
    penalty = GANLoss.discriminator_r1

    def reading(self: GANLoss, *inputs: Any) -> Any:
        value, stats = penalty(self, *inputs)
        assert value.item() >= 0
        return value, stats

    monkeypatch.setattr(GANLoss, "discriminator_r1", reading)
    said: list[str] = []
    trainer, *batch = trainer_and_batch(device=CUDA, path_length_interval=1, r1_interval=1)
    trainer.graphs.tell = said.append
    stats = train(trainer, Batch(*batch), WARM_UP_RUNS + 3)
    assert len(said) == 1 and said[0].startswith("Training goes on without CUDA graphs: D R1 can't be captured (")
    assert all(value.isfinite() for value in stats[-1].values())
