# SPDX-License-Identifier: Apache-2.0
"""The stage of training with HSR: its start from a baseline, and what its options make of the loss."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from hsr.config import Config, preset
from hsr.errors import UserError
from hsr.models import Generator
from hsr.semantics import Alignment, LabelEncoder, SemanticRegularizer, TimmEncoder
from hsr.semantics.alignment import cosine_distance
from hsr.weights import find_weights, load_weights

from .conftest import run_folders

Command = Callable[..., int]


@pytest.fixture(scope="module")
def encoder() -> LabelEncoder:
    """Random weights; feature maps at 4, 8, 16 and 32 pixels."""
    encoder = LabelEncoder(3).double()
    encoder.freeze()
    return encoder


def generator(resolution: int = 16) -> Generator:
    return Generator(4, 0, 4, resolution, channel_base=8 * resolution, channel_max=8, mapping_layers=1).double()


def literal_head(head: torch.nn.Module, x: Tensor, size: int) -> Tensor:
    """The head's formula, from its parameters alone."""
    if hasattr(head, "weight"):
        y = F.conv2d(x, head.weight / math.sqrt(9 * x.shape[1]), head.bias, padding=1)
    else:
        hidden = F.conv2d(x, head.weight1[:, :, None, None] / math.sqrt(x.shape[1]), head.bias1).relu() * math.sqrt(2)
        y = F.conv2d(hidden, head.weight2[:, :, None, None] / math.sqrt(hidden.shape[1]), head.bias2)
    return F.adaptive_avg_pool2d(y, size)


def literal_loss(y: Tensor, target: Tensor, alignment: Alignment) -> Tensor:
    if alignment.targets == "spatial-norm":
        positions = target.flatten(2)
        centred = positions - alignment.spatial_gamma * positions.mean(dim=2, keepdim=True)
        target = (centred / (positions.std(dim=2, keepdim=True) + 1e-6)).reshape(target.shape)
    if alignment.loss == "mse":
        return (y - target).square().mean()
    return (2 - 2 * F.cosine_similarity(y, target, dim=1)).mean()


ALIGNMENTS = {
    "default": Alignment(),
    "cosine": Alignment(loss="cosine"),
    "conv3x3": Alignment(head="conv3x3"),
    "spatial-norm": Alignment(targets="spatial-norm", spatial_gamma=0.6),
    "all": Alignment(head="conv3x3", loss="cosine", targets="spatial-norm"),
    "scales": Alignment(scales=(16, 32)),
}


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_every_option_is_its_formula(encoder: LabelEncoder, name: str) -> None:
    """Values and gradients, in float64; a scale that is left out leaves the others with their depths."""
    alignment = ALIGNMENTS[name]
    G = generator()
    hsr = SemanticRegularizer(encoder, G, hidden=6, alignment=alignment).double()
    with torch.no_grad():
        for key, parameter in hsr.named_parameters():
            if "bias" in key:
                parameter.normal_()
    ws = G.mapping(torch.randn(2, 4, dtype=torch.float64))
    images, features = G.synthesis.with_features(ws, hsr.resolutions, noise_mode="const")
    inputs = [features[r].detach().requires_grad_() for r in hsr.resolutions]
    assert hsr.resolutions == tuple(r for r in alignment.scales if r <= 16)
    maps = dict(zip((8, 16), encoder.feature_maps(images.detach()), strict=False))
    expected = torch.stack(
        [
            literal_loss(literal_head(head, x, maps[r].shape[2]), maps[r], alignment)
            for r, head, x in zip(hsr.resolutions, hsr.heads, inputs, strict=True)
        ]
    )
    found = hsr(inputs, images)
    torch.testing.assert_close(found, expected)
    variables = [*inputs, *hsr.parameters()]
    for gradient, value in zip(*(torch.autograd.grad(x.sum(), variables) for x in (found, expected)), strict=True):
        torch.testing.assert_close(gradient, value)


@pytest.mark.parametrize("name", ["cosine", "conv3x3", "spatial-norm", "all"])
def test_bfloat16_rounds_and_no_more(name: str) -> None:
    encoder = LabelEncoder(3)
    encoder.freeze()
    G = generator(8).float()
    hsr = SemanticRegularizer(encoder, G, hidden=32, alignment=ALIGNMENTS[name])
    images, features = G.synthesis.with_features(G.mapping(torch.randn(8, 4)), (8,), noise_mode="const")
    x, results = features[8].detach().requires_grad_(), []
    for precision in (None, torch.bfloat16):
        hsr.precision = precision
        loss = hsr([x], images)
        assert loss.dtype == torch.float32
        results.append(torch.autograd.grad(loss.sum(), [x, *hsr.parameters()]))
    for exact, rounded in zip(*results, strict=True):
        assert 0 < (rounded - exact).norm() / exact.norm() < 0.03


def test_a_vector_of_zeros_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    for target in (torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)):
        loss = cosine_distance(x, target)
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss.item() == 2 and gradient.abs().max() < 1


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    model = timm.create_model("vit_tiny_patch16_224")
    # All other tokens begin as noise, and so the class token is told from them.
    torch.nn.init.normal_(model.cls_token)
    safetensors.torch.save_file(model.state_dict(), path)
    return path


def test_class_token(vit_file: Path) -> None:
    encoder = TimmEncoder("vit_tiny_patch16_224", weights=vit_file)
    model = timm.create_model("vit_tiny_patch16_224").eval()
    model.load_state_dict(safetensors.torch.load_file(vit_file))
    tokens: list[Tensor] = []
    for i in (11, 8):
        model.blocks[i].register_forward_hook(lambda module, args, output: tokens.append(model.norm(output)[:, 0]))
    G = generator().float()
    hsr = SemanticRegularizer(encoder, G, hidden=6, alignment=Alignment(class_token=True))
    images, features = G.synthesis.with_features(G.mapping(torch.randn(2, 4)), (8, 16), noise_mode="const")
    with torch.no_grad():
        model(encoder.prepare(images))
    # Hooks run from the shallow block to the deep one.
    scales = zip(hsr.heads, features.values(), tokens[::-1], strict=True)
    expected = [(literal_head(head, x, 1)[:, :, 0, 0] - token).square().mean() for head, x, token in scales]
    torch.testing.assert_close(hsr(list(features.values()), images), torch.stack(expected), rtol=1e-3, atol=1e-5)
    with pytest.raises(UserError, match="one position only, so that --hsr-targets must be raw"):
        SemanticRegularizer(encoder, G, alignment=Alignment(class_token=True, targets="spatial-norm"))


def test_what_cannot_be_compared_is_refused(encoder: LabelEncoder) -> None:
    with pytest.raises(UserError, match="The encoder labels has no class token"):
        SemanticRegularizer(encoder, generator(), alignment=Alignment(class_token=True))
    with pytest.raises(UserError, match="HSR's scales are 32, 64, but the generator's images are 16 pixels wide"):
        SemanticRegularizer(encoder, generator(), alignment=Alignment(scales=(32, 64)))


@pytest.mark.parametrize("scales", ["", ",", "8,", "7", "8,8", "8;16", "eight", "128", "-8", "8,16,32,64,128"])
def test_wrong_scales(scales: str) -> None:
    with pytest.raises(UserError, match=r"^hsr_scales is .*, but must name some of 8, 16, 32, 64, "):
        Config(preset="x", hsr_scales=scales)


def test_settings_arrive() -> None:
    config = Config(
        preset="x", hsr_scales="32, 8", hsr_head="conv3x3", hsr_loss="cosine", hsr_targets="spatial-norm",
        hsr_spatial_gamma=0.5, hsr_class_token=True,
    )  # fmt: skip
    expected = Alignment((8, 32), "conv3x3", "cosine", "spatial-norm", 0.5, True)
    assert Alignment.from_config(config) == expected
    assert Alignment.from_config(preset("paper256", 256, "cuda")) == Alignment()


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_hsr_starts_from_a_baseline_in_one_command(
    hsr: Command, labelled: Path, write_cfg: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = write_cfg("baseline", kimg=0.008, gamma=0.7, ema_rampup=0.05)
    assert hsr("train", "--cfg", cfg, "--data", labelled, "--hsr-weight", 0, "--device", "cpu") == 0
    (baseline,) = run_folders(tmp_path)
    options = ["--hsr-scales", 16, "--hsr-head", "conv3x3", "--hsr-loss", "cosine", "--hsr-targets", "spatial-norm"]
    assert hsr("train", "--hsr-from", baseline, *options, "--kimg", 0.004, "--device", "cpu") == 0
    run = run_folders(tmp_path)[1]
    config = json.loads((run / "config.json").read_text())
    changed = {"data": str(labelled), "gamma": 0.7, "ema_rampup": None, "hsr_weight": 1.0, "hsr_scales": "16"}
    assert config.items() >= changed.items()
    start = safetensors.torch.load_file(run / "checkpoints/000000.000.safetensors")
    end = safetensors.torch.load_file(find_weights(baseline))
    assert all(start[name].equal(value) for name, value in end.items())
    heads = {name: value.shape for name, value in start.items() if name not in end}
    # The second deepest of the encoder's features has 64 channels.
    assert heads == {"hsr.heads.0.weight": (64, 8, 3, 3), "hsr.heads.0.bias": (64,)}
    tick = events(run)[1]
    assert "Loss/G/hsr_16" in tick and "Loss/G/hsr_8" not in tick and 0 < tick["Loss/G/hsr"] < 4
    state = safetensors.torch.load_file(run / "checkpoints/state.safetensors")
    assert state["loss.pl_mean"] > tick["Loss/G/path_length"] / 3
    steps = {value.item() for name, value in state.items() if name.startswith("opt_D.") and name.endswith(".step")}
    assert max(steps) == 2, "R1 and the main phase of one step, by a new optimizer"

    capsys.readouterr()
    assert hsr("train", "--hsr-from", run, "--data", labelled, "--dry-run", "--device", "cpu") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "were trained with HSR already" in out and "kimg 25000.0" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--hsr-from nowhere", "nowhere does not exist"),
        ("--hsr-from images", "images is not a run folder with a checkpoint"),
        ("--hsr-from small.json", "small.json cannot be read as a checkpoint"),
        ("--hsr-from images --resume images2", "--hsr-from and --resume both say where"),
        ("--hsr-from images --cfg small.json", "--hsr-from and --cfg both say where"),
        ("--hsr-from images --hsr-weight 0", "trains with HSR, and --hsr-weight 0 without it"),
        ("--cfg small.json --data labelled --hsr-scales 12", 'hsr_scales is "12"'),
        ("--cfg small.json --data labelled --hsr-scales 64", "choose a smaller scale"),
        ("--cfg small.json --data labelled --hsr-class-token", "has no class token"),
        ("--cfg small.json --data labelled --hsr-head conv3x3 --hsr-hidden 8", "--hsr-hidden belongs to --hsr-head"),
        ("--cfg small.json --data labelled --hsr-spatial-gamma 0.5", "belongs to --hsr-targets spatial-norm"),
        ("--cfg small.json --data labelled --hsr-hidden 0", "hsr_hidden is 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(
    options: str, words: str, hsr: Command, images: Path, labelled: Path, small_cfg: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    capfd.readouterr()
    assert hsr("train", *options.split(), "--device", "cpu") == 2
    error = capfd.readouterr().err
    assert words in error and error.startswith("hsr: ") and error.count("\n") == 1


def test_heads_of_another_kind_are_reported(hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path) -> None:
    """And they don't go into files of a project that has none such."""
    options = ["--cfg", small_cfg, "--data", labelled, "--hsr-head", "conv3x3", "--kimg", 0.004, "--device", "cpu"]
    assert hsr("train", *options) == 0
    (run,) = run_folders(tmp_path)
    regularizer = SemanticRegularizer(LabelEncoder(2), generator(), hidden=8)
    with pytest.raises(UserError, match=r"is a checkpoint of another shape: hsr\.heads\.0\.bias is \[128\] there and"):
        load_weights(find_weights(run), {"hsr": regularizer})
    assert hsr("convert", "--to", "nvlabs", run, "back.pt") == 0
    state = torch.load("back.pt", weights_only=True)["G_ema"]
    assert not any("head" in name or "transfer" in name for name in state)
