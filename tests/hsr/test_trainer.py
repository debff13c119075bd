# SPDX-License-Identifier: Apache-2.0
"""Training steps, checkpoints, pictures and metrics, each by itself."""

import copy
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from hsr.data import ImageDataset, open_dataset
from hsr.errors import UserError
from hsr.images import save_grid
from hsr.losses import GANLoss
from hsr.semantics import LabelEncoder
from hsr.training import checkpoint
from hsr.training.checkpoint import CheckpointFolder, restore
from hsr.training.ema import ema_decay, update_ema
from hsr.training.evaluation import Evaluator
from hsr.training.logs import MAX_NOT_FINITE_STREAK, Averages
from hsr.training.stream import BatchStream
from hsr.training.trainer import Trainer
from hsr.weights import find_weights, join_groups, load_weights, read_header

from .conftest import SMALL

CPU = torch.device("cpu")


@pytest.fixture
def encoder() -> LabelEncoder:
    """An encoder with random weights: nothing here depends on what it has learnt."""
    encoder = LabelEncoder(2)
    encoder.freeze()
    return encoder


@pytest.fixture
def dataset(labelled: Path) -> ImageDataset:
    return open_dataset(labelled)


@pytest.fixture
def trainer(dataset: ImageDataset, encoder: LabelEncoder) -> Trainer:
    torch.manual_seed(1)
    return Trainer(SMALL, dataset, encoder, CPU)


def train(trainer: Trainer, dataset: ImageDataset, steps: int) -> list[dict[str, torch.Tensor]]:
    batch = trainer.config.batch
    stream = BatchStream(dataset, batch, seed=0, mirror=True, start=trainer.images_seen)
    return [trainer.step(*next(stream)) for _ in range(steps)]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    state = {name: copy.deepcopy(module.state_dict()) for name, module in trainer.modules().items()}
    return join_groups(state)


def test_regularization_is_lazy(trainer: Trainer, dataset: ImageDataset) -> None:
    stats = train(trainer, dataset, 7)
    assert ["Loss/G/pl" in s for s in stats] == [i % SMALL.path_length_interval == 0 for i in range(7)]
    assert ["Loss/D/r1" in s for s in stats] == [i % SMALL.r1_interval == 0 for i in range(7)]
    assert all({"Loss/G/gan", "Loss/D/gan", "Loss/G/hsr_8", "Loss/G/hsr_16"} <= s.keys() for s in stats)
    assert (trainer.steps, trainer.images_seen) == (7, 28)


def test_adam_is_corrected_for_lazy_regularization(trainer: Trainer) -> None:
    for optimizer, interval in ((trainer.opt_G, 2), (trainer.opt_D, 3)):
        group = optimizer.param_groups[0]
        ratio = interval / (interval + 1)
        assert group["lr"] == pytest.approx(SMALL.learning_rate * ratio)
        assert group["betas"] == pytest.approx((0, 0.99**ratio))


def test_heads_have_a_learning_rate_of_their_own(
    trainer: Trainer, dataset: ImageDataset, encoder: LabelEncoder
) -> None:
    torch.manual_seed(1)
    slower = Trainer(dataclasses.replace(SMALL, hsr_learning_rate=SMALL.learning_rate / 4), dataset, encoder, CPU)
    start = weights(trainer)
    for trained in (slower, trainer):
        torch.manual_seed(2)
        train(trained, dataset, 1)
    # Both have the same gradients, and Adam's first step is as long as its learning rate.
    moved = [{name: value - start[name] for name, value in weights(t).items()} for t in (slower, trainer)]
    heads = {name for name in start if name.startswith("hsr.")}
    assert heads
    for name, movement in moved[1].items():
        factor = 4 if name in heads else 1
        torch.testing.assert_close(factor * moved[0][name], movement, rtol=1e-3, atol=1e-6)


def test_lazy_terms_are_multiplied_by_their_intervals(
    trainer: Trainer, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each phase ends with its lazy term, whose gradients are therefore those that stay behind."""
    terms = (
        ("generator_path_length", next(trainer.G.parameters()), SMALL.path_length_interval),
        ("discriminator_r1", next(trainer.D.parameters()), SMALL.r1_interval),
    )
    for name, weight, _ in terms:
        monkeypatch.setattr(trainer.loss, name, lambda *_, weight=weight: (weight.sum(), {}))
    train(trainer, dataset, 1)
    for _, weight, interval in terms:
        assert weight.grad is not None and weight.grad.eq(interval).all()


def test_each_phase_trains_its_own_networks(trainer: Trainer, dataset: ImageDataset) -> None:
    before = weights(trainer)
    train(trainer, dataset, 1)
    changed = {name.split(".")[0] for name, value in weights(trainer).items() if not value.equal(before[name])}
    assert changed == {"G", "D", "G_ema", "hsr"}

    trainer.opt_D.param_groups[0]["lr"] = trainer.opt_G.param_groups[0]["lr"] = 0.0
    trainer.loss.r1_gamma, before = 0.0, weights(trainer)
    train(trainer, dataset, 1)
    still = {k: v for k, v in weights(trainer).items() if "w_avg" not in k and not k.startswith("G_ema")}
    assert all(value.equal(before[name]) for name, value in still.items())


def test_the_baseline_has_no_heads(dataset: ImageDataset, encoder: LabelEncoder) -> None:
    baseline = Trainer(dataclasses.replace(SMALL, hsr_weight=0.0), dataset, encoder, CPU)
    stats = train(baseline, dataset, 1)[0]
    assert baseline.hsr is None and set(baseline.modules()) == {"G", "D", "G_ema"}
    assert not any("hsr" in name for name in stats)


def test_labels_are_used_unless_switched_off(dataset: ImageDataset, images: Path, encoder: LabelEncoder) -> None:
    assert Trainer(SMALL, dataset, encoder, CPU).c_dim == 2
    assert Trainer(dataclasses.replace(SMALL, conditional=False), dataset, encoder, CPU).c_dim == 0
    unlabelled = Trainer(SMALL, open_dataset(images), encoder, CPU)
    assert unlabelled.c_dim == 0 and unlabelled.random_classes(4) is None
    train(unlabelled, open_dataset(images), 1)


def test_ema_decay_follows_the_half_life() -> None:
    assert ema_decay(1000, 10**9, 1.0, None) == pytest.approx(0.5)
    assert ema_decay(500, 10**9, 1.0, 0.05) == pytest.approx(0.5**0.5)
    assert ema_decay(100, 2000, 10.0, 0.05) == pytest.approx(0.5)  # 2000 images * 0.05 = 100
    assert ema_decay(16, 16, 0.0, None) == 0


def test_ema_averages_parameters_and_copies_buffers() -> None:
    average, source = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    source.weight.data.fill_(3.0)
    source.running_mean.fill_(7.0)  # type: ignore[union-attr]
    update_ema(average, source, 0.75)
    assert average.weight.item() == pytest.approx(1.5)
    assert average.running_mean.item() == 7.0  # type: ignore[union-attr]


def test_one_seed_gives_one_result(dataset: ImageDataset, encoder: LabelEncoder) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        trainer = Trainer(SMALL, dataset, encoder, CPU)
        train(trainer, dataset, 3)
        results.append(weights(trainer))
    assert all(value.equal(results[1][name]) for name, value in results[0].items())
    assert not all(value.equal(results[2][name]) for name, value in results[0].items())


def test_a_restored_trainer_goes_on_bit_by_bit(
    dataset: ImageDataset, encoder: LabelEncoder, trainer: Trainer, tmp_path: Path
) -> None:
    train(trainer, dataset, 4)
    CheckpointFolder(tmp_path).save(trainer, {"note": 1}, keep=2)
    train(trainer, dataset, 5)

    torch.manual_seed(99)
    restored = Trainer(SMALL, dataset, encoder, CPU)
    assert restore(restored, tmp_path)["note"] == 1
    train(restored, dataset, 5)
    expected = weights(trainer)
    assert all(value.equal(expected[name]) for name, value in weights(restored).items())
    assert restored.loss.pl_mean.equal(trainer.loss.pl_mean)


def test_an_update_that_is_not_finite_is_left_out(
    trainer: Trainer, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither weights nor moments nor running means take it in, and the other network trains on."""
    train(trainer, dataset, 2)
    penalty = GANLoss.path_lengths

    def overflow(self: GANLoss, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        return penalty(self, z, c) * float("inf")

    def state() -> dict[str, torch.Tensor]:
        moments = checkpoint._moments(trainer.opt_G)
        return {k: v.clone() for k, v in moments.items()} | {"pl_mean": trainer.loss.pl_mean.clone()}

    monkeypatch.setattr(GANLoss, "path_lengths", overflow)
    before_D, before_mean = weights(trainer), trainer.loss.pl_mean.clone()
    (stats,) = train(trainer, dataset, 1)
    assert stats["Loss/G/pl"].isfinite().logical_not() and stats["Loss/G/gan"].isfinite()
    assert (trainer.skipped_updates["G"], trainer.skipped_updates["D"]) == (1, 0)
    assert trainer.loss.pl_mean.equal(before_mean)
    assert all(value.isfinite().all() for value in [*weights(trainer).values(), *state().values()])
    assert any(not value.equal(before_D[name]) for name, value in weights(trainer).items() if name.startswith("D."))

    monkeypatch.undo()
    train(trainer, dataset, 2)
    assert all(value.isfinite().all() for value in state().values())


def test_nothing_that_is_not_finite_is_saved(trainer: Trainer, dataset: ImageDataset, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(trainer, {}, keep=2)
    train(trainer, dataset, 1)
    next(trainer.G.parameters()).data[0] = float("nan")
    with pytest.raises(UserError, match=r"diverged: 1 of .* the last good checkpoint is .*000000\.000\.safetensors"):
        folder.save(trainer, {}, keep=2)
    assert len(folder.weights()) == 1


def test_persistent_values_are_distinguished_from_passing_ones() -> None:
    averages, bad = Averages(), torch.tensor(float("nan"))
    for value in (torch.tensor(1.0), bad, torch.tensor(3.0)):
        averages.add({"x": value})
    assert (averages.means(), averages.not_finite(), averages.diverged()) == ({"x": 2.0}, {"x": 1}, [])
    averages.clear()
    for _ in range(MAX_NOT_FINITE_STREAK - 1):
        averages.add({"x": bad})
    assert averages.diverged() == [] and averages.means() == {}
    averages.clear()
    averages.add({"x": bad, "y": torch.tensor(0.0)})
    assert averages.diverged() == ["x"]


def test_path_lengths_of_zero_have_finite_gradients(trainer: Trainer) -> None:
    """Images that don't depend on w: where the square root has no derivative, it is 0."""
    for name, parameter in trainer.G.named_parameters():
        if "torgb" in name:
            parameter.data.zero_()
    lengths = trainer.loss.path_lengths(*trainer._latents(4))
    assert lengths.eq(0).all()
    lengths.sum().backward()
    assert all(p.grad.isfinite().all() for p in trainer.G.parameters() if p.grad is not None)


def test_leftovers_of_a_killed_save_go(trainer: Trainer, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    ours, theirs = folder.folder / ".hsr-77-0123456789abcdef.part", folder.folder / ".hsr-77.part"
    for path in (ours, theirs):
        path.write_text("half")
    CheckpointFolder(tmp_path)
    assert theirs.exists() and not ours.exists()


def test_old_checkpoints_make_room(trainer: Trainer, dataset: ImageDataset, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for _ in range(4):
        train(trainer, dataset, 1)
        folder.save(trainer, {}, keep=2)
    assert [path.name for path in folder.weights()] == ["000000.012.safetensors", "000000.016.safetensors"]
    assert find_weights(tmp_path) == folder.weights()[-1]
    header = read_header(find_weights(tmp_path))
    assert (header.config, header.resolution, header.classes, header.images_seen) == (SMALL, 16, (0, 1), 16)


def test_a_failed_save_leaves_the_last_checkpoint(
    trainer: Trainer,
    dataset: ImageDataset,
    encoder: LabelEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = CheckpointFolder(tmp_path)
    train(trainer, dataset, 1)
    folder.save(trainer, {}, keep=1)
    expected = weights(trainer)
    train(trainer, dataset, 1)

    def full(tensors: dict, path: Path, metadata: dict) -> None:
        Path(path).write_bytes(b"half a")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(UserError, match="No space left on device"):
            folder.save(trainer, {}, keep=1)
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"No space left .* the last good checkpoint is .*000000\.004"):
        folder.save(trainer, {}, keep=1)

    restored = Trainer(SMALL, dataset, encoder, CPU)
    restore(restored, tmp_path)
    assert (restored.images_seen, restored.steps) == (4, 1)
    assert all(value.equal(expected[name]) for name, value in weights(restored).items())
    assert not list(tmp_path.rglob("*.part"))


def test_weights_of_another_shape_are_reported(
    trainer: Trainer, dataset: ImageDataset, encoder: LabelEncoder, tmp_path: Path
) -> None:
    path = CheckpointFolder(tmp_path).save(trainer, {}, keep=1)
    wider = dataclasses.replace(SMALL, channel_max=16)
    other = Trainer(wider, dataset, encoder, CPU)
    with pytest.raises(UserError, match=r"another shape: G\..* is \[8.*\] there and \[16.*\] in"):
        load_weights(path, other.modules())
    with pytest.raises(UserError, match=r"another shape: X\..* is missing there"):
        load_weights(path, {"X": trainer.G})


def test_a_grid_is_row_by_row(tmp_path: Path) -> None:
    pixels = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((1, 2, 2, 3), 10, np.uint8)
    save_grid(pixels, 3, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (4, 6, 3)
    np.testing.assert_array_equal(grid[::2, ::2, 0], [[0, 10, 20], [30, 40, 0]])


def test_metrics_leave_the_random_numbers_alone(trainer: Trainer, dataset: ImageDataset, encoder: LabelEncoder) -> None:
    state = torch.get_rng_state()
    evaluator = Evaluator(encoder, dataset, 20, CPU, seed=0)
    first = evaluator.measure(["frechet", "ppl_w", "recall"], trainer.G_ema)
    assert list(first) == [
        "Metrics/Frechet distance, labels features, 20 held-out images",
        "Metrics/PPL in w, labels features",
        "Metrics/Recall, labels features, 20 held-out images",
    ]
    assert all(value > 0 for value in list(first.values())[:2])
    assert evaluator.measure(["frechet", "ppl_w", "recall"], trainer.G_ema) == first
    assert torch.equal(torch.get_rng_state(), state)
