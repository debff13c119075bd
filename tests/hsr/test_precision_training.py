# SPDX-License-Identifier: Apache-2.0
"""Training in low precision: which blocks, what overflows leave behind, and TF32."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hsr.config import Config, preset
from hsr.losses import GANLoss
from hsr.metrics.exact import exact_metrics
from hsr.models import Discriminator, Generator
from hsr.models.build import build_discriminator, build_generator
from hsr.training.trainer import Trainer
from hsr_kernels._precision import convolutions_use_tf32

from .conftest import run_folders
from .test_parts import trainer_and_batch

Command = Callable[..., int]


def networks(resolution: int, **settings) -> tuple[Generator, Discriminator]:
    small = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 4 * resolution, "channel_max": 8}
    config = Config(preset="x", **(small | settings))
    return build_generator(config, resolution, 0), build_discriminator(config, resolution, 0)


def block_dtypes(network: Generator | Discriminator, run: Callable[[], object]) -> dict[int, set[torch.dtype]]:
    """The dtypes of what layers or blocks take and give, by the resolution of their block, while `run` runs."""
    found: dict[int, set[torch.dtype]] = {}
    if isinstance(network, Generator):
        layers = [(int(r), layer) for r, block in network.synthesis.blocks.items() for layer in block.children()]
    else:
        layers = [(int(r), block) for r, block in network.blocks.items()]
        layers += [(network.resolution, network.from_rgb), (4, network.conv)]

    def note(resolution: int, layer: torch.nn.Module) -> None:
        layer.register_forward_hook(
            lambda _, inputs, output: found.setdefault(resolution, set()).update({inputs[0].dtype, output.dtype})
        )

    for resolution, layer in layers:
        note(resolution, layer)
    run()
    return found


@pytest.mark.parametrize("resolution", [8, 16, 32, 64, 256])
def test_low_precision_is_where_it_is_published_to_be(resolution: int) -> None:
    """At resolutions of at least max(2^(log2 R + 1 - number), 8), in both networks, and nowhere else."""
    for number in (1, 4):
        lowest = max(2 ** (resolution.bit_length() - number), 8)
        G, D = networks(resolution, mixed_precision="bf16", mixed_precision_resolutions=number, channel_base=resolution)
        images = G(torch.randn(1, 8))
        low, full = {torch.bfloat16}, {torch.float32}
        for network, run in ((G, lambda G=G: G(torch.randn(1, 8))), (D, lambda D=D, x=images: D(x))):
            expected = {2**i: low if 2**i >= lowest else full for i in range(2, resolution.bit_length())}
            assert block_dtypes(network, run) == expected
        assert images.dtype == D(images).dtype == torch.float32


def test_low_precision_is_off_where_it_is_switched_off_or_unsuitable() -> None:
    z = torch.randn(1, 8)
    dtypes = {}
    for name in ("off", "fp16", "bf16"):
        G, D = networks(16, mixed_precision=name)
        dtypes[name] = (
            block_dtypes(G, lambda G=G: G(z))[16] | block_dtypes(D, lambda D=D: D(torch.randn(1, 3, 16, 16)))[16]
        )
        # Networks of another dtype than float32 have that of their weights.
        assert block_dtypes(G.double(), lambda G=G: G(z.double()))[16] == {torch.float64}
    assert dtypes == {"off": {torch.float32}, "fp16": {torch.float32}, "bf16": {torch.bfloat16}}
    assert preset("paper256", 256, "cuda").mixed_precision == preset("auto", 32, "cpu").mixed_precision == "fp16"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_activations_of_low_precision_are_channels_last(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("generator", "discriminator"):
        monkeypatch.setattr(f"hsr.models.{module}.activation_dtype", lambda x, low: dtype if low else x.dtype)
    G, D = networks(16)
    images, features = G.synthesis.with_features(G.mapping(torch.randn(2, 8)), (8, 16))
    seen = []
    D.blocks["8"].register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0], output]))
    D(images)
    for x in (*features.values(), *seen):
        assert x.dtype == dtype and x.is_contiguous(memory_format=torch.channels_last) and x.stride(1) == 1


def test_a_step_in_bfloat16_is_one_in_float32_but_for_rounding() -> None:
    """All four phases, their second derivatives included."""
    found = []
    for precision in ("off", "bf16"):
        trainer, images, labels = trainer_and_batch(
            mixed_precision=precision, mixed_precision_resolutions=1, learning_rate=1e-9
        )
        stats = trainer.step(images, labels)
        gradients = [p.grad.flatten() for m in (trainer.G, trainer.D) for p in m.parameters() if p.grad is not None]
        found.append((stats, torch.cat(gradients)))
        assert all(count == 0 for count in trainer.skipped_updates.values())
    (expected_stats, expected), (stats, gradient) = found
    for name in ("Loss/G/gan", "Loss/G/pl", "Loss/D/gan", "Loss/D/r1"):
        assert stats[name].item() == pytest.approx(expected_stats[name].item(), rel=0.05)
        assert stats[name] != expected_stats[name]
    assert torch.cosine_similarity(gradient, expected, dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nothing_poisons_the_mean_of_path_lengths(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _, _ = trainer_and_batch()
    for bad in (float("nan"), float("inf"), torch.finfo(dtype).max):
        lengths = torch.tensor([1.0, bad], dtype=dtype)
        monkeypatch.setattr(GANLoss, "path_lengths", lambda *_, lengths=lengths: lengths)
        trainer.loss.pl_mean.fill_(2.0)
        trainer.loss.generator_path_length(torch.randn(4, 8), None)
        if dtype != torch.float16 or bad != torch.finfo(dtype).max:
            assert trainer.loss.pl_mean == 2
        # The largest number of float16 is a length like any other, for a mean in float32.
        assert trainer.loss.pl_mean < 1000
    monkeypatch.setattr(GANLoss, "path_lengths", lambda *_: torch.full([2], 3.0, dtype=dtype))
    trainer.loss.pl_mean.fill_(2.0)
    trainer.loss.generator_path_length(torch.randn(4, 8), None)
    assert trainer.loss.pl_mean.item() == pytest.approx(2.01)


@pytest.mark.usefixtures("no_encoders")
def test_updates_that_are_skipped_for_good_end_the_run(
    hsr: Command, images: Path, write_cfg: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Losses may be finite where gradients aren't, and other phases of the same network may go on."""
    monkeypatch.setattr("hsr.training.trainer.MAX_SKIPPED_STREAK", 2)
    penalty = GANLoss.discriminator_r1
    # The numbers of the penalties that overflow, of which every third step has one.
    calls, overflows = itertools.count(), {1, 3}

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            return gradient * float("inf")

    def overflowing(self: GANLoss, real: Tensor, c: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        value, stats = penalty(self, real, c)
        return (Overflow.apply(value) if next(calls) in overflows else value), stats

    monkeypatch.setattr(GANLoss, "discriminator_r1", overflowing)
    cfg = write_cfg("baseline", encoder="auto", hsr_weight=0.0)
    options = ["--cfg", cfg, "--data", images, "--device", "cpu", "--kimg"]
    assert hsr("train", *options, 0.04) == 0
    calls, overflows = itertools.count(), {1, 2}
    assert hsr("train", *options, 0.04) == 2
    assert "Training diverged (gradients of D R1 persistently not finite" in capsys.readouterr().err
    for run, counts in zip(run_folders(tmp_path), ([0, 1, 1, 1, 2], [0, 1, 1]), strict=True):
        events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert [event["Skipped updates/D"] for event in events if event["event"] == "tick"] == counts


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_for_training_alone_and_only_if_asked_for(
    hsr: Command, labelled: Path, small_cfg: Path, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In convolutions and products, as PyTorch's older and newer interfaces tell; metrics never use it."""

    def uses_tf32() -> tuple[bool, ...]:
        backends = torch.backends
        newer = [backends.cudnn.conv.fp32_precision == "tf32", backends.cuda.matmul.fp32_precision == "tf32"]
        older = [backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32]
        return (convolutions_use_tf32(), torch.get_float32_matmul_precision() == "high", *newer, *older)

    found: dict[str, set[tuple[bool, ...]]] = {"training": set(), "metrics": set()}
    step = Trainer.step

    def observed_step(self: Trainer, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        found["training"].add(uses_tf32())
        return step(self, images, labels)

    def observed_metrics(device: torch.device):
        with exact_metrics(device):
            found["metrics"].add(uses_tf32())
        return exact_metrics(device)

    before = (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())
    monkeypatch.setattr(Trainer, "step", observed_step)
    monkeypatch.setattr("hsr.evaluation.features.exact_metrics", observed_metrics)
    words = ["--cfg", small_cfg, "--data", labelled, "--device", "cpu", "--kimg", 0.008]
    assert hsr("train", *words, *(["--tf32", "yes"] if tf32 else [])) == 0
    assert found == {"training": {(tf32,) * 6}, "metrics": {(False,) * 6}}
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before


def test_a_precision_without_effect_is_reported(
    hsr: Command, labelled: Path, small_cfg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--data", labelled, "--device", "cpu"]
    assert hsr(*words, "--cfg", "auto", "--mixed-precision", "fp16") == 2
    assert "--mixed-precision fp16 needs a GPU: CPUs can train with bf16 or off." in capsys.readouterr().err
    assert hsr(*words, "--cfg", small_cfg, "--mixed-precision", "bf16") == 2
    assert "give their number as --mixed-precision-resolutions" in capsys.readouterr().err
    assert hsr(*words, "--cfg", small_cfg, "--mixed-precision", "bf8") == 2
