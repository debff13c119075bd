# SPDX-License-Identifier: Apache-2.0
"""Augmentation in training: where it is applied, how p is adapted, kept and shown, and Freeze-D."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from hsr.augment import AugmentPipe
from hsr.config import Config, preset
from hsr.data import ImageDataset, open_dataset
from hsr.errors import UserError
from hsr.losses import GANLoss
from hsr.models import Discriminator, Generator
from hsr.training.adaptation import Adaptation, HighProbabilityWarning
from hsr.training.checkpoint import CheckpointFolder, restore
from hsr.training.freezing import freezable_layers, max_frozen_layers
from hsr.training.stream import BatchStream
from hsr.training.trainer import Trainer
from hsr.weights import find_weights

from .conftest import SMALL, run_folders

Command = Callable[..., int]
CPU = torch.device("cpu")
BASELINE = dataclasses.replace(SMALL, hsr_weight=0.0, encoder="auto", conditional=False)
ADAPTED = dataclasses.replace(BASELINE, augmentation="ada")


def adaptation(**options: object) -> Adaptation:
    pipe = AugmentPipe(xflip=1)
    pipe.p.fill_(0.5)
    return Adaptation(pipe, **({"batch": 10, "kimg": 1.0, "interval": 4} | options))


class TestControl:
    """At intervals of 4 steps of 10 images, p moves by 0.04."""

    @pytest.mark.parametrize(
        ("logits", "p"),
        [
            ([1.0, 2.0, 0.5, 0.1, -3.0], 0.5),  # A mean sign of 0.6, the target.
            ([1.0, 2.0, 0.5, 0.1, 3.0], 0.54),
            ([1.0, 2.0, 0.0, 0.0, 0.0], 0.46),
            # Only finite logits count: 3 of 4, then 2 of 2.
            ([1.0, 1.0, 1.0, 0.0, float("nan")], 0.54),
            ([1.0, 1.0, float("-inf"), float("-inf"), float("nan")], 0.54),
            ([float("nan")] * 5, 0.5),
        ],
    )
    def test_p_follows_the_mean_sign(self, logits: list[float], p: float) -> None:
        control = adaptation()
        control.collect(torch.tensor(logits)[:, None])
        control.adjust(4)
        assert control.pipe.p.item() == pytest.approx(p)

    def test_all_logits_since_the_last_adjustment_count_alike(self) -> None:
        control = adaptation()
        for step, logits in enumerate(([1.0], [-1.0] * 3, [1.0], [1.0] * 4), start=1):
            control.collect(torch.tensor(logits))
            stats = control.adjust(step)
            assert (control.pipe.p == 0.5) == (step < 4) or step == 4
        # (6 - 3) of 9, which a mean of the four means wouldn't be.
        assert stats["Augment/sign_real"].item() == pytest.approx(1 / 3)
        assert control.pipe.p.item() == pytest.approx(0.46)
        control.collect(torch.ones(1))
        assert control.adjust(8)["Augment/sign_real"] == 1

    def test_p_stays_within_bounds(self) -> None:
        for sign, bound in ((1, 1.0), (-1, 0.0)):
            control = adaptation()
            for step in range(4, 100, 4):
                control.collect(torch.tensor([float(sign)]))
                control.adjust(step)
            assert control.pipe.p == bound
            control.collect(torch.tensor([-float(sign)]))
            control.adjust(100)
            assert control.pipe.p.item() == pytest.approx(abs(bound - 0.04))

    def test_logits_that_are_not_finite_are_counted(self) -> None:
        control = adaptation()
        for step in (4, 8):
            control.collect(torch.tensor([float("nan"), float("inf"), 1.0]))
            control.adjust(step)
        assert control.not_finite == 4

    def test_processes_share_their_signs(self) -> None:
        """This process has a sign of 1, and three others -1 each."""
        control = adaptation(sum_over_processes=lambda totals: totals.add_(torch.tensor([-3.0, 3.0, 0.0])))
        control.collect(torch.ones(1))
        assert control.adjust(4)["Augment/sign_real"] == -0.5

    def test_no_step_waits_for_the_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        control = adaptation()
        for name in ("item", "__bool__", "__int__", "__float__", "tolist", "cpu"):
            monkeypatch.setattr(Tensor, name, lambda *_, name=name: pytest.fail(f"{name} waits for the device"))
        control.collect(torch.tensor([1.0, float("nan")]))
        control.adjust(4)
        AugmentPipe(xflip=1, rotate=1, hue=1, imgfilter=1, noise=1, cutout=1)(torch.zeros(2, 3, 24, 24))

    def test_speed_of_the_published_settings(self) -> None:
        """500,000 images, in steps of 64, take p from 0 to 1."""
        pipe = AugmentPipe(xflip=1)
        pipe.p.zero_()
        control = Adaptation(pipe, batch=64)
        for step in range(4, 4 * 1001, 4):
            control.collect(torch.ones(1))
            control.adjust(step)
        assert pipe.p.item() == pytest.approx(4 * 64 * 1000 / 500_000, rel=1e-3)


class Recorder:
    """A pipe that doubles images, and keeps those that it got."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.images.append(images)
        return 2 * images


def small_loss(**options: object) -> tuple[GANLoss, Tensor, Tensor]:
    shape = {"channel_base": 64, "channel_max": 8, "mapping_layers": 2}
    torch.manual_seed(0)
    G, D = Generator(8, 0, 8, 16, **shape).double(), Discriminator(0, 16, **shape).double()
    for name, parameter in D.named_parameters():
        # Blank parts of images must not lie on the kinks of activations.
        if name.endswith("bias"):
            parameter.data.normal_(std=0.1)
    loss = GANLoss(G, D, hsr=None, r1_gamma=1.0, style_mixing_prob=0.0, **options).double()
    return loss, torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)


class TestPhases:
    def test_discriminator_sees_augmented_images_alone(self) -> None:
        pipe, logits = Recorder(), []
        loss, real, z = small_loss(augment=pipe, on_real_logits=logits.append)
        _, D, _ = loss._networks
        seen: list[Tensor] = []
        D.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        loss.generator_main(z, None)
        loss.discriminator_main(real, None, z, None)
        loss.discriminator_r1(real, None)
        # D's main phase has generated and real images in one call.
        assert len(seen) == 3 and len(pipe.images) == 4
        assert torch.cat(seen).equal(2 * torch.cat(pipe.images))
        assert pipe.images[2].equal(real) and pipe.images[3].equal(real)
        loss.generator_path_length(z, None)
        assert len(pipe.images) == 4
        # The real images of both phases of D report their logits.
        assert [value.shape for value in logits] == [(4, 1), (4, 1)]
        torch.testing.assert_close(logits[0], D(2 * real))

    def test_r1_is_taken_at_the_images_before_the_pipe(self) -> None:
        """Of a linear D, the gradient at x is twice that at 2x."""
        slope = torch.randn(3 * 16 * 16, dtype=torch.float64)
        plain, real, _ = small_loss()
        loss = GANLoss(plain._networks[0], lambda img, c: img.flatten(1) @ slope[:, None], hsr=None, r1_gamma=3.0,
                       augment=Recorder())  # fmt: skip
        torch.testing.assert_close(loss.discriminator_r1(real, None)[0], 4 * slope.square().sum() * 1.5)

    def test_gradients_go_through_the_pipe(self) -> None:
        """Every phase against finite differences of the loss, the penalty of R1 with its second derivatives."""
        loss, real, z = small_loss(augment=AugmentPipe(xflip=1, scale=1, rotate=1, hue=1, cutout=1, noise=1))
        G, D, _ = loss._networks
        phases = {
            "G": lambda: loss.generator_main(z, None)[0],
            "D": lambda: loss.discriminator_main(real, None, z, None)[0],
            "R1": lambda: loss.discriminator_r1(real, None)[0],
        }
        for name, phase in phases.items():
            network: nn.Module = G.synthesis if name == "G" else D
            parameters = [p for key, p in network.named_parameters() if "noise" not in key]

            def value(phase: Callable[[], Tensor] = phase) -> Tensor:
                torch.manual_seed(1)
                return phase()

            gradients = torch.autograd.grad(value(), parameters, allow_unused=True)
            torch.manual_seed(2)
            directions = [torch.randn_like(p) for p in parameters]
            values = []
            for step in (1e-6, -2e-6):
                for p, direction in zip(parameters, directions, strict=True):
                    p.data.add_(direction, alpha=step)
                values.append(value().item())
            slope = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True) if g is not None)
            assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4), name

    def test_state_of_the_losses_is_the_same(self) -> None:
        loss, _, _ = small_loss(augment=AugmentPipe(xflip=1))
        assert list(loss.state_dict()) == ["pl_mean"]


@pytest.fixture
def dataset(images: Path) -> ImageDataset:
    return open_dataset(images)


def train(trainer: Trainer, dataset: ImageDataset, steps: int) -> list[dict[str, Tensor]]:
    stream = BatchStream(dataset, trainer.config.batch, seed=0, mirror=False, start=trainer.images_seen)
    return [trainer.step(*next(stream)) for _ in range(steps)]


def tensors(trainer: Trainer) -> dict[str, Tensor]:
    state = {f"{k}.{n}": v.clone() for k, m in trainer.modules().items() for n, v in m.state_dict().items()}
    return state | (
        {} if trainer.adaptation is None else {k: v.clone() for k, v in trainer.adaptation.state_dict().items()}
    )


class TestTrainer:
    def test_a_restored_run_goes_on_bit_by_bit(self, dataset: ImageDataset, tmp_path: Path) -> None:
        """Within an interval: what was collected of the statistic is kept, too."""
        config = dataclasses.replace(ADAPTED, ada_kimg=0.1, augmentation_target=0.0)
        torch.manual_seed(1)
        trainer = Trainer(config, dataset, None, CPU)
        assert trainer.pipe is not None and trainer.pipe.p == 0
        train(trainer, dataset, 5)
        assert trainer.adaptation is not None and trainer.adaptation.collected[1] > 0
        CheckpointFolder(tmp_path).save(trainer, {}, keep=1)
        assert not any("pipe" in name or name == "p" for name in safetensors.torch.load_file(find_weights(tmp_path)))
        saved = tensors(trainer)
        assert saved["pipe.p"] in (torch.tensor(0.16), 0)
        train(trainer, dataset, 3)

        torch.manual_seed(99)
        restored = Trainer(config, dataset, None, CPU)
        restore(restored, tmp_path)
        assert all(value.equal(saved[name]) for name, value in tensors(restored).items())
        train(restored, dataset, 3)
        expected = tensors(trainer)
        assert all(value.equal(expected[name]) for name, value in tensors(restored).items())

    def test_both_phases_of_the_discriminator_are_counted(self, dataset: ImageDataset) -> None:
        trainer = Trainer(ADAPTED, dataset, None, CPU)
        assert trainer.adaptation is not None
        counts = []
        for _ in range(4):
            stats = train(trainer, dataset, 1)[0]
            counts.append(trainer.adaptation.collected[1].item())
        # Four images in each main phase, and as many in R1, which every third step has.
        assert counts == [8, 12, 16, 0] and "Augment/sign_real" in stats
        mean = stats["Augment/sign_real"].item() * 24
        assert mean == pytest.approx(round(mean))

    def test_a_fixed_p_never_moves(self, dataset: ImageDataset) -> None:
        config = dataclasses.replace(BASELINE, augmentation="fixed", augmentation_p=0.3)
        trainer = Trainer(config, dataset, None, CPU)
        train(trainer, dataset, 5)
        assert trainer.adaptation is None and trainer.pipe is not None and trainer.pipe.p.item() == pytest.approx(0.3)
        # Settings of a run with a fixed p may go on with an adapted one.
        adapted = Trainer(dataclasses.replace(config, augmentation="ada"), dataset, None, CPU)
        assert adapted.pipe is not None and adapted.pipe.p == 0
        plain = Trainer(BASELINE, dataset, None, CPU)
        assert plain.pipe is None and plain.adaptation is None

    @pytest.mark.parametrize("count", [1, 3, 7])
    def test_frozen_layers_stay_as_they_are(self, dataset: ImageDataset, count: int) -> None:
        trainer = Trainer(dataclasses.replace(BASELINE, frozen_layers=count), dataset, None, CPU)
        layers = freezable_layers(trainer.D)
        assert len(layers) == max_frozen_layers(16, residual=True) == 7 and layers[:2] == [
            trainer.D.from_rgb,
            trainer.D.blocks["16"].conv0,
        ]
        assert len(freezable_layers(Discriminator(0, 64, residual=False))) == max_frozen_layers(64, residual=False) == 9
        before = [[p.clone() for p in layer.parameters()] for layer in layers]
        train(trainer, dataset, 4)
        for i, (layer, values) in enumerate(zip(layers, before, strict=True)):
            is_same = [p.equal(value) for p, value in zip(layer.parameters(), values, strict=True)]
            assert all(is_same) if i < count else not any(is_same), i
            assert all(p.grad is None and not p.requires_grad for p in layer.parameters()) or i >= count


@pytest.mark.usefixtures("no_encoders")
def test_p_is_shown_logged_and_warned_of_once(
    hsr: Command, images: Path, write_cfg: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A discriminator that knows all real images: p rises to 1 in 0.04 kimg, and has been high for 0.2 of that."""
    monkeypatch.setattr(Adaptation, "collect", lambda self, logits: self.collected.add_(torch.tensor([1.0, 1.0, 1.0])))
    settings = dataclasses.asdict(ADAPTED) | {"ada_kimg": 0.04, "kimg": 0.048, "ada_interval": 1}
    cfg = write_cfg("adapted", **settings)
    assert hsr("train", "--cfg", cfg, "--data", images, "--device", "cpu") == 0
    (run,) = run_folders(tmp_path)
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    ticks = [event for event in events if event["event"] == "tick"]
    p = [tick["Augment/p"] for tick in ticks]
    assert p == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert all(tick["Augment/sign_real"] == 1 for tick in ticks)
    assert ticks[0]["Augment/not_finite_logits"] == 3
    out = capsys.readouterr().out
    assert "p 0.200" in out and "p 1.000" in out
    sentences = re.findall(r"p has stayed above 0.8 for 0.008 kimg", " ".join(out.split()))
    assert len(sentences) == 1
    assert hsr("train", "--resume", run, "--kimg", 0.052, "--device", "cpu") == 0
    assert "stayed above" not in capsys.readouterr().out


def test_a_high_p_must_last_to_be_warned_of() -> None:
    state: dict = {}
    warning = HighProbabilityWarning(Config(preset="x"), state)
    ps = [(0.9, 0), (0.9, 99_000), (0.79, 99_500), (0.85, 100_000), (0.9, 199_000)]
    assert not any(warning.sentence(p, images) for p, images in ps)
    # After a resume, too.
    assert "above 0.8 for 100 kimg" in HighProbabilityWarning(warning.config, state).sentence(1.0, 200_000)
    assert not warning.sentence(1.0, 400_000)


def test_presets() -> None:
    kinds = {name: preset(name, 64, "cpu").augmentation for name in ("digits", "auto", "paper256", "stylegan2")}
    assert kinds == {"digits": "none", "auto": "ada", "paper256": "none", "stylegan2": "none"}
    config = preset("auto", 256, "cuda")
    assert (config.augmentation_pipe, config.augmentation_target, config.ada_kimg, config.ada_interval) == (
        "bgc",
        0.6,
        500,
        4,
    )
    with pytest.raises(UserError, match="A fixed augmentation needs its probability"):
        Config(preset="x", augmentation="fixed")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--p 0.3", "--p 0.3 goes with --aug fixed, but the augmentation is none."),
        ("--aug ada --p 0.3", "--p 0.3 goes with --aug fixed, but the augmentation is ada."),
        ("--aug fixed", "A fixed augmentation needs its probability (augmentation_p, --p), from 0 to 1."),
        ("--aug fixed --p 1.5", "--p is 1.5, but must be a number from 0 to 1"),
        ("--aug fixed --p 0.5 --target 0.5", "--target 0.5 goes with --aug ada, but the augmentation is fixed."),
        ("--augpipe bg", "--augpipe bg goes with --aug ada or fixed, but the augmentation is none."),
        ("--aug ada --augpipe bcg", '--augpipe bcg cannot be used ("bcg" is no pipe: expected blit'),
        ("--aug ada --augpipe bgc,-noise", '"bgc" has no transform "noise" to leave out'),
        ("--aug ada --augpipe bgcf", "which takes at least 22 pixels, but they are 16 pixels wide"),
        ("--freezed 3", "--freezed 3 freezes layers of a discriminator that is trained already"),
        ("--freezed 8", "--freezed is 8, but must be at most 7 for images 16 pixels wide"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    words: str, sentence: str, hsr: Command, images: Path, small_cfg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hsr("train", "--cfg", small_cfg, "--data", images, "--device", "cpu", *words.split()) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1, error


@pytest.mark.usefixtures("no_encoders")
def test_a_start_from_weights_adapts_faster_and_freezes(
    hsr: Command, images: Path, write_cfg: Callable[..., Path], tmp_path: Path
) -> None:
    cfg = write_cfg("adapted", **dataclasses.asdict(ADAPTED))
    assert hsr("train", "--cfg", cfg, "--data", images, "--kimg", 0.004, "--device", "cpu") == 0
    weights = find_weights(run_folders(tmp_path)[0])
    options = ["--freezed", 4, "--augpipe", "bgc,-xflip", "--target", 0.5, "--kimg", 0.008, "--device", "cpu"]
    assert hsr("train", "--resume", weights, "--data", images, *options) == 0
    run = run_folders(tmp_path)[1]
    config = json.loads((run / "config.json").read_text())
    assert (config["ada_kimg"], config["frozen_layers"], config["ema_rampup"]) == (100, 4, None)
    assert (config["augmentation_pipe"], config["augmentation_target"]) == ("bgc,-xflip", 0.5)
    before, after = (safetensors.torch.load_file(path) for path in (weights, find_weights(run)))
    frozen = [name for name in before if re.match(r"D\.(from_rgb|blocks\.16)\.", name)]
    assert len(frozen) == 7 and all(after[name].equal(before[name]) for name in frozen)
    assert not after["D.blocks.8.conv0.weight"].equal(before["D.blocks.8.conv0.weight"])
    assert hsr("train", "--resume", run, "--kimg", 0.012, "--device", "cpu") == 0
