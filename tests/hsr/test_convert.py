# SPDX-License-Identifier: Apache-2.0
"""`hsr convert` and `hsr.load`: networks of other projects, here and back."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import hsr as package
from hsr.cli import parse
from hsr.data import open_dataset
from hsr.errors import UserError
from hsr.interop import load_generator
from hsr.semantics.encoders import Encoder
from hsr.training.evaluation import Evaluator
from hsr.training.start import start_from_weights
from hsr.training.trainer import Trainer
from hsr.weights import load_tensors, read_header, save_tensors

from .conftest import run_folders
from .foreign_files import ada_pickle, dump, generator_tree, importable, rosinality_contents, torch_file
from .foreign_networks import Spec, discriminator_tensors, generator_tensors, reference_images

Command = Callable[..., int]

ROSINALITY = Spec(z_dim=8)
FILES: dict[str, tuple[Spec, Callable[[], bytes]]] = {
    "ada.pkl": (Spec(), lambda: ada_pickle(Spec(), 3, numpy1=True)),
    "sg3.pkl": (
        Spec(c_dim=3, conv_clamp=0.5, num_fp16=2, w_avg_beta=0.998, layers=3),
        lambda: ada_pickle(Spec(c_dim=3, conv_clamp=0.5, num_fp16=2, w_avg_beta=0.998, layers=3), 4),
    ),
    "hsr.pkl": (Spec(heads=(6, 4, 3)), lambda: ada_pickle(Spec(heads=(6, 4, 3)), 5)),
    "protocol2.pkl": (
        Spec(c_dim=2, cmap_dim=3, label_layers=2, lr_multiplier=0.1),
        lambda: ada_pickle(Spec(c_dim=2, cmap_dim=3, label_layers=2, lr_multiplier=0.1), 2),
    ),
    "converted.pt": (ROSINALITY, lambda: torch_file(rosinality_contents(ROSINALITY))),
    "trained.pt": (ROSINALITY, lambda: torch_file(rosinality_contents(ROSINALITY, from_training=True))),
    "stream.pt": (ROSINALITY, lambda: torch_file(rosinality_contents(ROSINALITY, from_training=True), zipped=False)),
}


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[[str], Path]:
    """Writes one of the files above, and returns its path."""

    def write(name: str) -> Path:
        (tmp_path / name).write_bytes(FILES[name][1]())
        return tmp_path / name

    return write


def found_and_expected(generator: Any, spec: Spec, psi: float, noise_mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of a generator, and those of the reference, for two seeds."""
    z = torch.from_numpy(np.concatenate([np.random.RandomState(seed).randn(1, spec.z_dim) for seed in (3, 4)])).float()
    c = torch.eye(spec.c_dim)[[0, 1]] if spec.c_dim else None
    expected = reference_images(generator_tensors(spec), spec, z, c, psi, noise_mode)
    with torch.no_grad():
        return generator(z, c, truncation_psi=psi, noise_mode=noise_mode), expected.float()


@pytest.mark.parametrize("name", FILES)
def test_a_converted_generator_makes_the_same_images(
    name: str, foreign: Callable[[str], Path], hsr: Command, tmp_path: Path
) -> None:
    path, spec = foreign(name), FILES[name][0]
    before = path.read_bytes()
    assert hsr("convert", path, "out.safetensors") == 0
    assert path.read_bytes() == before
    converted, direct = load_generator(tmp_path / "out.safetensors"), package.load(str(path))
    assert not converted.training and not any(p.requires_grad for p in converted.parameters())
    for psi, noise_mode in ((1.0, "const"), (1.0, "none"), (0.7, "const")):
        if psi != 1 and name in ("trained.pt", "stream.pt"):
            # These files hold no mean of w.
            continue
        found, expected = found_and_expected(converted, spec, psi, noise_mode)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * expected.abs().max().item())
        assert found_and_expected(direct, spec, psi, noise_mode)[0].equal(found)
    config = read_header(tmp_path / "out.safetensors").config
    assert (config.conv_clamp, config.mixed_precision_resolutions) == (spec.conv_clamp, spec.num_fp16)
    assert config.w_avg_beta == (spec.w_avg_beta if path.suffix == ".pkl" else 0.998)


def test_discriminator_and_generator_come_along(foreign: Callable[[str], Path], hsr: Command, tmp_path: Path) -> None:
    spec = FILES["protocol2.pkl"][0]
    assert hsr("convert", foreign("protocol2.pkl"), "out.safetensors") == 0
    found, published = safetensors.torch.load_file("out.safetensors"), discriminator_tensors(spec)
    names = {"D.from_rgb.bias": "b16.fromrgb.bias", "D.blocks.8.conv0.weight": "b8.conv0.weight"}
    names |= {"D.blocks.16.skip.weight": "b16.skip.weight", "D.conv.bias": "b4.conv.bias", "D.fc.bias": "b4.fc.bias"}
    names |= {"D.embed.embed.weight": "mapping.embed.weight", "D.embed.layers.1.weight": "mapping.fc1.weight"}
    assert all(found[ours].equal(published[name]) for ours, name in names.items())
    assert found["G.mapping.w_avg"].equal(generator_tensors(spec, 1)["mapping.w_avg"])
    assert hsr("convert", foreign("trained.pt"), "pt.safetensors") == 0
    found, published = safetensors.torch.load_file("pt.safetensors"), discriminator_tensors(ROSINALITY)
    assert all(found[ours].equal(published[name]) for ours, name in names.items() if "embed" not in ours)
    # The mean of w that the file lacks is that of many codes.
    w = load_generator("pt.safetensors").mapping.map(torch.randn(1000, ROSINALITY.z_dim), None)
    torch.testing.assert_close(found["G_ema.mapping.w_avg"], w.mean(0), rtol=0, atol=0.3 * w.std().item())


@pytest.mark.parametrize("name", ["ada.pkl", "sg3.pkl", "hsr.pkl", "protocol2.pkl"])
def test_the_way_back_to_nvlabs_gives_every_tensor(
    name: str, foreign: Callable[[str], Path], hsr: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = FILES[name][0]
    assert hsr("convert", foreign(name), "out.safetensors") == 0
    assert hsr("convert", "--to", "nvlabs", "out.safetensors", "back.pt") == 0
    assert f"c_dim={spec.c_dim}" in capsys.readouterr().out
    found = torch.load("back.pt", weights_only=True)
    expected = {"G": generator_tensors(spec, 1), "D": discriminator_tensors(spec), "G_ema": generator_tensors(spec)}
    assert_same(found, expected)


def test_a_discriminator_without_skips_comes_along(
    hsr: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cifar.pkl").write_bytes(ada_pickle(Spec(), architecture="orig"))
    assert hsr("convert", "cifar.pkl", "out.safetensors") == 0
    assert not read_header(Path("out.safetensors")).config.residual_discriminator
    assert hsr("convert", "--to", "nvlabs", "out.safetensors", "back.pt") == 0
    found = torch.load("back.pt", weights_only=True)
    assert_same({"D": found["D"]}, {"D": discriminator_tensors(Spec(), architecture="orig")})
    assert hsr("convert", "--to", "rosinality", "out.safetensors", "back.pt") == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("name", ["converted.pt", "stream.pt"])
def test_the_way_back_to_rosinality_gives_every_tensor(name: str, foreign: Callable[[str], Path], hsr: Command) -> None:
    contents = rosinality_contents(ROSINALITY, from_training=name == "stream.pt")
    assert hsr("convert", foreign(name), "out.safetensors") == 0
    assert hsr("convert", "out.safetensors", "back.pt", "--to", "rosinality") == 0
    found = torch.load("back.pt", weights_only=True)
    assert found["latent_avg"].shape == (8,)
    states = {key: contents[key] for key in ("g_ema", "g", "d") if key in contents}
    assert found.keys() == {*states, "latent_avg"}
    assert_same({key: found[key] for key in states}, states)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for network, tensors in expected.items():
        assert found[network].keys() == tensors.keys()
        assert all(found[network][key].equal(value) for key, value in tensors.items())
        assert all(found[network][key].shape == value.shape for key, value in tensors.items())


def test_no_length_of_a_header_makes_weights_a_pickle(hsr: Command, tmp_path: Path) -> None:
    """The first byte of a file of weights is that of its header's length, and 128 is how pickles begin."""
    Path("ada.pkl").write_bytes(FILES["ada.pkl"][1]())
    assert hsr("convert", "ada.pkl", "ada.safetensors") == 0
    weights = tmp_path / "ada.safetensors"
    tensors, header = load_tensors(weights)
    for length in range(256):
        save_tensors(tensors, weights, header | {"padding": length * "."})
        if weights.read_bytes()[0] == 0x80:
            break
    assert weights.read_bytes()[0] == 0x80
    assert load_generator(weights).resolution == 16
    assert hsr("convert", "--to", "nvlabs", weights, "back.pt") == 0


def test_a_run_goes_to_both_projects(hsr: Command, labelled: Path, write_cfg: Any, tmp_path: Path) -> None:
    cfg = write_cfg("cfg", conditional=False)
    assert hsr("train", "--cfg", cfg, "--data", labelled, "--kimg", 0.004, "--device", "cpu") == 0
    (run,) = run_folders(tmp_path)
    assert hsr("convert", "--to", "nvlabs", run, "ada.pt") == 0
    state = torch.load("ada.pt", weights_only=True)["G_ema"]
    spec = Spec(widths={4: 8, 8: 8, 16: 8}, z_dim=8, heads=(8, 128, 64))
    assert {name: value.shape for name, value in generator_tensors(spec).items() if "feat" not in name} == {
        name: value.shape for name, value in state.items() if "feat" not in name
    }
    assert {name for name in state if "feat" in name} == {name for name in generator_tensors(spec) if "feat" in name}
    z = torch.randn(2, 8)
    expected = reference_images(state, spec, z, None, 0.5, "const").float()
    with torch.no_grad():
        found = package.load(run)(z, truncation_psi=0.5, noise_mode="const")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert hsr("convert", "--to", "rosinality", run, "ros.pt") == 0
    with torch.no_grad():
        assert load_generator("ros.pt")(z, truncation_psi=0.5, noise_mode="const").equal(found)


def test_generate_draws_codes_as_the_projects_do(foreign: Callable[[str], Path], hsr: Command) -> None:
    path, spec = foreign("ada.pkl"), FILES["ada.pkl"][0]
    z = torch.from_numpy(np.random.RandomState(7).randn(1, spec.z_dim)).float()
    expected = reference_images(generator_tensors(spec), spec, z, None, 0.7, "const")
    pixels = (expected * 127.5 + 128).clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()
    options = ["--seeds", 7, "--truncation", 0.7, "--device", "cpu"]
    assert hsr("generate", "--checkpoint", path, *options, "--rng", "numpy", "--out", "a.png") == 0
    assert abs(np.asarray(Image.open("a.png")).astype(int) - pixels).max() <= 1
    assert hsr("generate", "--checkpoint", path, *options, "--out", "b.png") == 0
    assert abs(np.asarray(Image.open("b.png")).astype(int) - pixels).max() > 9
    assert hsr("generate", "--checkpoint", path, "--seeds", 2**32, "--rng", "numpy") == 2


def changed_pickle(tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> bytes:
    """A pickle of a generator with other tensors or attributes."""
    with importable():
        return dump({"G_ema": generator_tree(Spec(), generator_tensors(Spec()) | (tensors or {}), **changes)})


def _arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, w=np.ones(3))
    return stream.getvalue()


REFUSALS: dict[str, tuple[Callable[[], bytes], str]] = {
    "filter": (lambda: changed_pickle({"synthesis.b16.conv0.resample_filter": torch.eye(4)}), "another filter"),
    "activation": (lambda: changed_pickle(SynthesisLayer_activation="relu"), "activation relu instead of lrelu"),
    "architecture": (lambda: changed_pickle(SynthesisBlock_architecture="orig"), "architecture orig instead of skip"),
    "grey": (lambda: changed_pickle(Generator_img_channels=1), "images of 1 channels, and hsr's"),
    "gain": (lambda: changed_pickle(ToRGBLayer_weight_gain=1.0), "weight_gain 1 instead of"),
    "low precision": (lambda: changed_pickle(SynthesisBlock_use_fp16=True), "other than the highest"),
    "clamp": (lambda: changed_pickle(ToRGBLayer_conv_clamp=1.0), "clamps some layers otherwise"),
    "tensor": (lambda: changed_pickle({"synthesis.b8.conv1.extra": torch.ones(1)}), "StyleGAN2 lacks, among them"),
    "alias-free": (lambda: changed_pickle({"synthesis.input.weight": torch.ones(1)}), "alias-free"),
    "infinite": (lambda: changed_pickle({"synthesis.b8.conv1.bias": torch.full([5], torch.inf)}), "not finite, in syn"),
    "shape": (lambda: changed_pickle({"mapping.w_avg": torch.ones(3)}), "w_avg is [3] and should be [8]"),
    "widths": (lambda: ada_pickle(Spec(widths={4: 5, 8: 7, 16: 6})), "not inversely proportional"),
    "TensorFlow": (lambda: b"\x80\x03cdnnlib.tflib.network\nNetwork\n.", "TensorFlow code"),
    "arrays": (lambda: dump({"G_ema": np.ones(3)}), "NumPy arrays, as alias-free"),
    "dict": (lambda: dump({"w": 1}), "no generator G_ema"),
    "projector": (lambda: torch_file({"a.png": {"latent": torch.ones(3)}}), "result of a projector"),
    "state dicts": (lambda: torch_file({"G_ema": {"w": torch.ones(3)}}), "say too little"),
    "weights": (lambda: torch_file({"w": torch.ones(3)}), "no generator g_ema"),
    "no zip of PyTorch": (_arrays, "archive of NumPy arrays"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_other_networks_are_refused_by_name(name: str, tmp_path: Path) -> None:
    make, sentence = REFUSALS[name]
    (tmp_path / "file").write_bytes(make())
    with pytest.raises(UserError) as error:
        load_generator(tmp_path / "file")
    assert str(error.value).startswith(str(tmp_path / "file")) and sentence in str(error.value)


def test_layers_that_change_nothing_come_along_or_are_left_out(
    hsr: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {name: value for name, value in generator_tensors(Spec()).items() if ".noise" not in name}
    tensors |= {"synthesis.feat_transfer.weight": torch.ones(5, 4, 1, 1), "synthesis.feat_transfer.bias": torch.ones(5)}
    with importable():
        data = dump({"G_ema": generator_tree(Spec(), tensors, SynthesisLayer_use_noise=False)})
    (tmp_path / "baseline.pkl").write_bytes(data)
    assert hsr("convert", "baseline.pkl", "out.safetensors") == 0
    out = capsys.readouterr().out
    assert "synthesis.feat_transfer, which takes no part" in out and "noise of strength 0" in out
    generator = load_generator("out.safetensors")
    found, expected = found_and_expected(generator, Spec(), 1.0, "none")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert found_and_expected(generator, Spec(), 1.0, "random")[0].equal(found)


@pytest.mark.parametrize(("command", "option"), [("convert", "to"), ("generate", "rng")])
def test_help_documents_the_options(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([command, "--help"])
    text = " ".join(line.strip(" │") for line in capsys.readouterr().out.splitlines())
    assert len(text.split(f"--{option} ")[1].split(" --")[0].split()) > 4


def test_wrong_files_and_targets_are_one_sentence(
    foreign: Callable[[str], Path], hsr: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sentence(*words: object) -> str:
        assert hsr("convert", *words) == 2
        error = capsys.readouterr().err
        assert error.startswith("hsr: ") and error.endswith(".\n") and error.count("\n") == 1
        return error

    path = foreign("sg3.pkl")
    (tmp_path / "link.safetensors").symlink_to(path)
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "junk").write_text("junk")
    assert "is the file that is read" in sentence(path, "link.safetensors")
    assert "is a folder" in sentence(path, "folder.safetensors")
    assert "does not end in .safetensors" in sentence(path, "out.pkl")
    assert "does not exist" in sentence("nowhere", "out.safetensors")
    assert "cannot be written" in sentence(path, "junk/out.safetensors")
    assert "cannot be read as a checkpoint" in sentence("/dev/null", "out.safetensors")
    assert "cannot be read as a checkpoint" in sentence("junk", "out.safetensors")
    assert hsr("convert", path, "deep/out.safetensors") == 0
    assert "hsr's own format already" in sentence("deep/out.safetensors", "again.safetensors")
    assert "has 3 classes, and that project has none" in sentence(
        "--to", "rosinality", "deep/out.safetensors", "no/out.pt"
    )
    assert not (tmp_path / "no").exists()


def test_a_discriminator_of_another_kind_is_left_out(
    hsr: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The settings of large networks measure thousands of images.
    monkeypatch.setattr(Evaluator, "measure", lambda self, metrics, G: {self.title(name): 1.0 for name in metrics})
    (tmp_path / "cifar.pkl").write_bytes(ada_pickle(Spec(heads=(6, 4)), architecture="skip"))
    assert hsr("convert", "cifar.pkl", "out.safetensors") == 0
    out = capsys.readouterr().out
    assert "D was left out, as it has the architecture skip, not resnet or orig." in out
    assert "heads of G were left out, as it has 1, and a generator of this size has 2 in hsr." in out
    # The networks know no classes, and the run takes none from the data.
    words = "--hsr-weight 0 --encoder labels --kimg 0.008 --batch 8 --device cpu"
    options = ["--data", labelled, *words.split()]
    assert hsr("train", "--resume", "out.safetensors", *options) == 0
    assert "D starts untrained" in capsys.readouterr().out
    (run,) = run_folders(tmp_path)
    assert run.name == "001-labelled-converted-baseline"
    assert json.loads((run / "config.json").read_text())["channel_base"] == 40


class TwoDepths(Encoder):
    """An encoder with features of given numbers of channels."""

    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.name, self.shapes = "two depths", [(n, 2) for n in channels]


@pytest.mark.parametrize("targets", [(4, 3), (4, 5)])
def test_training_takes_heads_that_fit(targets: tuple[int, int], hsr: Command, labelled: Path, tmp_path: Path) -> None:
    spec = Spec(heads=(6, 4, 3), c_dim=2)
    (tmp_path / "hsr.pkl").write_bytes(ada_pickle(spec))
    assert hsr("convert", "hsr.pkl", "out.safetensors") == 0
    path = tmp_path / "out.safetensors"
    config = read_header(path).config
    trainer = Trainer(config, open_dataset(labelled), TwoDepths(*targets), torch.device("cpu"))
    fresh = trainer.hsr.heads[1].weight2.clone()
    sentence = start_from_weights(trainer, path)
    head = generator_tensors(spec, 1)["synthesis.feat_transfer_list.1.conv1x1_2.weight"][:, :, 0, 0]
    is_fit = targets == (4, 3)
    assert trainer.hsr.heads[1].weight2.equal(head if is_fit else fresh)
    assert ("heads are the file's" if is_fit else "heads are new") in sentence
    assert trainer.D.blocks["8"].conv0.weight.equal(discriminator_tensors(spec)["b8.conv0.weight"])
    assert trainer.G.synthesis.const.equal(generator_tensors(spec, 1)["synthesis.b4.const"])
    assert trainer.G_ema.synthesis.const.equal(generator_tensors(spec)["synthesis.b4.const"])


def test_training_starts_from_the_average_alone(
    foreign: Callable[[str], Path], hsr: Command, images: Path, tmp_path: Path
) -> None:
    assert hsr("convert", foreign("converted.pt"), "out.safetensors") == 0
    path = tmp_path / "out.safetensors"
    trainer = Trainer(read_header(path).config, open_dataset(images), None, torch.device("cpu"))
    before = trainer.D.conv.weight.clone()
    assert "no G, so G starts from the averaged weights. It holds no D" in start_from_weights(trainer, path)
    average = trainer.G_ema.state_dict()
    assert all(value.equal(average[name]) for name, value in trainer.G.state_dict().items())
    assert average["synthesis.const"].equal(generator_tensors(ROSINALITY)["synthesis.b4.const"])
    assert trainer.D.conv.weight.equal(before)


def test_what_training_conflicts_with_is_said(
    hsr: Command, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two.pkl").write_bytes(ada_pickle(Spec(c_dim=2)))
    assert hsr("convert", "two.pkl", "out.safetensors") == 0
    assert hsr("train", "--resume", "out.safetensors", "--data", images, "--hsr-weight", 0, "--device", "cpu") == 2
    assert "2 classes from 0 to 1, but images has images 16 pixels wide and no classes" in capsys.readouterr().err
    assert hsr("train", "--resume", "two.pkl", "--data", images, "--device", "cpu") == 2
    assert "hsr convert two.pkl two.safetensors" in capsys.readouterr().err
