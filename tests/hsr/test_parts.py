# SPDX-License-Identifier: Apache-2.0
"""Batches in parts: the same gradients, statistics and running means as the undivided batch, in less memory."""

import dataclasses
from functools import partial
from itertools import accumulate

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from hsr import parts
from hsr.config import Config
from hsr.data import ImageDataset
from hsr.errors import UserError
from hsr.parts import BatchPart, computing
from hsr.ranks import Ranks
from hsr.semantics import LabelEncoder
from hsr.training.trainer import Trainer

from .conftest import SMALL

CPU = torch.device("cpu")


def trainer_and_batch(
    device: torch.device = CPU, ranks: Ranks | None = None, **settings
) -> tuple[Trainer, torch.Tensor, torch.Tensor]:
    """A trainer on eight images of noise, with noise in the generator, classes, HSR and ADA, and a batch of these.

    Of several processes each gets its part of the batch.
    """
    torch.manual_seed(1)
    pixels, labels = np.random.default_rng(1).integers(0, 256, (8, 3, 16, 16), np.uint8), np.arange(8) % 2
    dataset = ImageDataset("noise", 16, labels, pixels, np.arange(8), identity="noise", classes=(0, 1))
    encoder = LabelEncoder(2)
    encoder.freeze()
    # At this size there is no room for the filter bank.
    augmentation = {"augmentation": "ada", "augmentation_pipe": "bgcfnc,-imgfilter"}
    config = dataclasses.replace(SMALL, batch=8, minibatch_std_group=2, **(augmentation | settings))
    trainer = Trainer(config, dataset, encoder.to(device), device, ranks)
    if trainer.pipe is not None:
        trainer.pipe.p.fill_(0.8)
    with torch.no_grad():
        for name, parameter in trainer.G.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.5)
    own = trainer.ranks.part
    return trainer, own.take(torch.from_numpy(pixels)), own.take(torch.from_numpy(labels))


def outcome(steps_before: int, ranks: Ranks | None = None, **settings) -> dict[str, torch.Tensor]:
    """All that a step leaves behind: gradients, statistics, running means and the state of the random generator."""
    trainer, images, labels = trainer_and_batch(ranks=ranks, **settings)
    trainer.steps = steps_before
    # Adam divides gradients by their size, and so the next phase would see rounding errors as large as its updates.
    for group in trainer.opt_G.param_groups + trainer.opt_D.param_groups:
        group["lr"] = 0.0
    found = {f"statistic {name}": value for name, value in trainer.step(images, labels).items()}
    for network, module in trainer.modules().items():
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        found |= {f"gradient of {network}.{name}": value for name, value in gradients.items()}
    assert trainer.adaptation is not None
    trainer.adaptation.pool(trainer.ranks.is_main)
    found |= {"w_avg": trainer.G.mapping.w_avg, "pl_mean": trainer.loss.pl_mean, "ADA": trainer.adaptation.collected}
    return found | {"random state": torch.get_rng_state()}


# The first step ends with the lazy phases, whose gradients it leaves behind; the second one has the main phases alone.
@pytest.mark.parametrize(("steps_before", "last_statistic"), [(0, "Loss/D/r1"), (1, "Loss/signs/real")])
def test_parts_add_up_to_the_undivided_batch(steps_before: int, last_statistic: str) -> None:
    """Also in what is drawn for single samples, and in what they share: groups, cuts of style mixing, running means."""
    found = outcome(steps_before, batch_gpu=2)
    assert f"statistic {last_statistic}" in found
    assert_same_outcome(found, outcome(steps_before))
    assert any(name.startswith("gradient of hsr") for name in found) == (steps_before == 1)


def assert_same_outcome(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Checks that both agree to the rounding of float32, and the random generators to the bit."""
    assert found.keys() == expected.keys()
    assert found["random state"].equal(expected["random state"])
    for name, value in found.items():
        bound = 1e-5 * expected[name].abs().max().item() + 1e-8
        torch.testing.assert_close(
            value, expected[name], rtol=1e-4, atol=bound, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_the_initial_mean_of_path_lengths_is_that_of_the_undivided_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsr.training.trainer.PATH_LENGTH_SAMPLES", 8)
    means = []
    for batch_gpu in (None, 2):
        trainer, _, _ = trainer_and_batch(batch_gpu=batch_gpu)
        trainer.start_path_length_mean()
        means.append(trainer.loss.pl_mean.item())
    assert means[0] > 0 and means[1] == pytest.approx(means[0], rel=1e-5)


def test_parts_need_less_memory() -> None:
    peaks = []
    for batch_gpu in (8, 2):
        trainer, images, labels = trainer_and_batch(batch_gpu=batch_gpu, hsr_weight=0.0)
        # Without the lazy phases.
        trainer.steps = 1
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            trainer.step(images, labels)
        assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
        events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
        changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
        peaks.append(max(accumulate(changes)))
    assert peaks[1] < 0.5 * peaks[0]


def test_a_part_takes_its_own_of_what_the_batch_draws() -> None:
    for draw in (parts.rand, parts.randn, partial(parts.randint, 9)):
        torch.manual_seed(2)
        batch = draw(6, 2, 3, dtype=torch.float64)
        taken = []
        for index in range(3):
            torch.manual_seed(2)
            with computing(BatchPart(index, 3)):
                taken.append(draw(2, 2, 3, dtype=torch.float64))
        torch.testing.assert_close(torch.stack(taken, dim=1).flatten(0, 1), batch, rtol=0, atol=0)
        assert parts.computed_part() == parts.WHOLE


def test_parts_of_parts_are_parts_of_the_batch() -> None:
    batch = torch.arange(24)
    for rank, part in enumerate(parts.WHOLE.split(2)):
        own = part.take(batch)
        assert own.equal(batch[rank::2])
        for whole, local in zip(part.split(3), parts.WHOLE.split(3), strict=True):
            assert whole.take(batch).equal(local.take(own))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch": 16, "batch_gpu": 12}, "batch_gpu is 12, but the batch of 16 images must be a multiple of it"),
        ({"batch": 16, "batch_gpu": 32}, "the batch of 16 images must be a multiple"),
        ({"batch": 16, "batch_gpu": 2}, "batch_gpu is 2, but must be a multiple of 4, the group"),
        ({"batch": 9, "batch_gpu": 3, "minibatch_std_group": 3}, "batch_gpu is 3, but must be even"),
    ],
)
def test_impossible_parts_are_reported(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Config(preset="x", **settings)
    assert Config(preset="x", batch=3, batch_gpu=3, minibatch_std_group=3).batch_gpu == 3
