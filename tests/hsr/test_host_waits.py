# SPDX-License-Identifier: Apache-2.0
"""No step of training waits for a GPU: it reads no value from the device, and copies nothing to it but its batch."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hsr.losses import GANLoss
from hsr.training.graphs import WARM_UP_RUNS
from hsr.training.logs import Averages
from hsr.training.trainer import Trainer
from tests.selection import FULL, kept

from .test_parts import trainer_and_batch

META = torch.device("meta")


class Copies(TorchDispatchMode):
    """Counts the tensors that are copied from the host to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        source = args[1] if function is torch.ops.aten.copy_.default else args[0] if args else None
        # A number of Python's becomes a scalar on the host, which kernels take as an argument.
        is_tensor = isinstance(source, torch.Tensor) and source.device.type == "cpu" and source.ndim > 0
        if is_tensor and isinstance(result, torch.Tensor) and result.is_meta:
            self.shapes.append(tuple(source.shape))
        return result


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A trainer on the meta device, whose tensors have no values: whatever asks for one raises an error."""
    # There is no autocast for that device, nor a fused optimizer, which PyTorch tests for waits.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)
    return trainer_and_batch(device=META)[0]


def test_a_step_reads_no_value_and_copies_its_batch_alone(trainer: Trainer) -> None:
    """All four phases, the moving average and the statistics."""
    images, labels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    averages = Averages()
    for _ in range(2):
        with Copies() as copies:
            averages.add(trainer.step(images, labels))
        assert copies.shapes == [(8, 3, 16, 16), (8,)]


@pytest.mark.parametrize(
    "read", kept([torch.Tensor.item, *(pytest.param(f, marks=FULL) for f in (torch.Tensor.cpu, lambda x: x[x > 0]))])
)
def test_a_value_that_is_read_is_found(trainer: Trainer, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = GANLoss.discriminator_r1

    def reading(self: GANLoss, *inputs: Any) -> Any:
        value, stats = phase(self, *inputs)
        read(value)
        return value, stats

    monkeypatch.setattr(GANLoss, "discriminator_r1", reading)
    with pytest.raises((RuntimeError, NotImplementedError)):
        trainer.step(torch.zeros(8, 3, 16, 16, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_gpu() -> None:
    trainer, images, labels = trainer_and_batch(device=torch.device("cuda"), mixed_precision_resolutions=1)
    images, labels = images.pin_memory(), labels.pin_memory()
    # The first steps of each kind load kernels and choose among them, and are then captured.
    interval = trainer.config.path_length_interval * trainer.config.r1_interval
    for _ in range(interval * (WARM_UP_RUNS + 1)):
        trainer.step(images, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(interval):
            trainer.step(images, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
