# SPDX-License-Identifier: Apache-2.0
"""Directions in latent space against closed forms, and `hsr directions`, `hsr edit` and `hsr mix`."""

import copy
import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from hsr.console import make_console
from hsr.editing.directions import Direction, identify, read_directions, write_directions
from hsr.editing.edit import interpolate, parse_range
from hsr.editing.effects import with_effects
from hsr.editing.ganspace import ganspace_directions, principal_axes
from hsr.editing.interfacegan import interfacegan_directions
from hsr.editing.layers import layer_range, parse_layers
from hsr.editing.mix import mixed_codes
from hsr.editing.rendering import render
from hsr.editing.samples import Samples, choose_attributes, draw_samples
from hsr.editing.sefa import sefa_directions, style_matrix
from hsr.editing.stylespace import stylespace_directions
from hsr.errors import UserError
from hsr.latents import load_generator, map_seeds
from hsr.models import Generator
from hsr.models.build import build_generator
from hsr.weights import load_tensors, save_tensors

from .conftest import SMALL, write_weights

Command = Callable[..., int]
CLASSES = (3, 7)


@pytest.fixture(scope="module")
def G() -> Generator:
    torch.manual_seed(0)
    G = build_generator(SMALL, 16, len(CLASSES)).eval().requires_grad_(False)
    G.mapping.w_avg.normal_()
    return G


@pytest.fixture
def weights(G: Generator, tmp_path: Path) -> Path:
    return write_weights(tmp_path / "weights.safetensors", G, CLASSES)


def random_ws(G: Generator, n: int = 3) -> Tensor:
    return torch.randn(n, G.num_ws, G.w_dim, generator=torch.Generator().manual_seed(1))


def unit(*components: float) -> Tensor:
    vector = torch.tensor(components, dtype=torch.float64)
    return vector / vector.norm()


def test_layers_of_a_range_are_those_of_its_resolutions(G: Generator) -> None:
    # Codes of 16 pixels: 0 at 4x4, 1 and 2 at 8x8, 3, 4 and ToRGB's 5 at 16x16.
    assert [layer_range(G, name) for name in ("coarse", "middle", "fine")] == [(0,), (1, 2), (3, 4, 5)]
    published = Generator(4, 0, 4, 128, channel_base=128, channel_max=2, mapping_layers=1)
    ranges = [layer_range(published, name) for name in ("coarse", "middle", "fine")]
    assert ranges == [(0, 1, 2), (3, 4, 5, 6), (7, 8, 9, 10, 11)]
    assert parse_layers(G, "0-1,4") == (0, 1, 4)
    for text in ("6", "2-1", "low", "", "-1"):
        with pytest.raises(UserError, match="--layers"):
            parse_layers(G, text)


def test_ganspace_finds_the_axes_of_a_linear_mapping(G: Generator) -> None:
    # Codes with these axes and standard deviations, turned by a rotation.
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    deviations = torch.tensor([5.0, 3, 2, 1, 1, 1, 1, 1], dtype=torch.float64)
    z = torch.randn(20000, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    w = (z * deviations) @ rotation.T + 7
    axes, variances, ratios = principal_axes(w, 3)
    assert ((axes * rotation.T[:3]).sum(dim=1).abs() > 0.999).all()
    assert torch.allclose(variances.sqrt(), deviations[:3], rtol=0.02)
    assert torch.allclose(ratios, deviations[:3].square() / deviations.square().sum(), rtol=0.03)
    found = ganspace_directions(G, w.float(), 2)
    names = [f"ganspace-{i}@{name}" for name in ("all", "coarse", "middle", "fine") for i in (1, 2)]
    assert [direction.name for direction in found] == names
    assert [direction.layers for direction in found[2::2]] == [(0,), (1, 2), (3, 4, 5)]
    assert found[0].unit_step == pytest.approx(5, rel=0.02)


def test_sefa_finds_the_right_singular_vectors_of_the_styles(G: Generator) -> None:
    w = torch.randn(500, 8, generator=torch.Generator().manual_seed(4))
    found = {direction.name: direction for direction in sefa_directions(G, w, 3)}
    for name in ("all", "coarse", "middle", "fine"):
        layers = layer_range(G, name)
        # By finite differences: what the styles do when the codes of these layers move along each axis of W.
        moved = torch.zeros(8, G.num_ws, 8)
        moved[:, list(layers)] = torch.eye(8)[:, None]
        styles, base = (torch.cat(G.synthesis.styles(ws), dim=1) for ws in (moved, torch.zeros_like(moved)))
        _, values, vectors = torch.linalg.svd((styles - base).T.double())
        for i in range(3):
            direction = found[f"sefa-{i + 1}@{name}"]
            assert abs(float(direction.vector.double() @ vectors[i])) == pytest.approx(1, abs=1e-4)
            assert direction.scores["eigenvalue"] == pytest.approx(float(values[i]) ** 2, rel=1e-4)
            assert direction.unit_step == pytest.approx(float((w @ direction.vector).std()), rel=1e-4)
    assert style_matrix(G, (0,)).shape == (G.channels(4), 8)


def planted(samples: int = 4000) -> Samples:
    """Codes with two attributes whose planes are known, and are 60 degrees apart."""
    w = torch.randn(samples, 8, generator=torch.Generator().manual_seed(5))
    normals = torch.stack([unit(1, 0, 0, 0, 0, 0, 0, 0), unit(0.5, 0.75**0.5, 0, 0, 0, 0, 0, 0)])
    return Samples(w, ("young", "smile"), w @ normals.float().T)


def test_interfacegan_finds_the_normals_of_planes_and_preserves_others(G: Generator) -> None:
    found = {d.name: d for d in interfacegan_directions(G, planted(), ["young", "smile"], ["young"])}
    assert list(found) == ["interfacegan-young", "interfacegan-smile", "interfacegan-smile-preserving-young"]
    assert found["interfacegan-young"].vector[0] > 0.99
    assert found["interfacegan-smile"].vector[:2].double() @ unit(0.5, 0.75**0.5) > 0.99
    rest = found["interfacegan-smile-preserving-young"]
    assert abs(float(rest.vector @ found["interfacegan-young"].vector)) < 1e-5
    assert rest.vector[1] > 0.99 and rest.scores["remainder"] == pytest.approx(0.75**0.5, abs=0.05)
    assert all(d.scores["accuracy"] > 0.97 and abs(float(d.vector.norm()) - 1) < 1e-5 for d in found.values())
    # Labels that have nothing to do with the codes can't be told on codes that the classifier hasn't seen.
    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(6))
    (guess,) = interfacegan_directions(G, Samples(planted().w, ("noise",), noise), ["noise"])
    assert guess.scores["accuracy"] == pytest.approx(0.5, abs=0.06)
    twins = Samples(planted().w, ("a", "b"), planted().logits[:, :1].repeat(1, 2))
    with pytest.raises(UserError, match="leaves nothing of the direction of a"):
        interfacegan_directions(G, twins, ["a"], ["b"])


def test_stylespace_finds_the_channel_that_an_attribute_depends_on(G: Generator) -> None:
    w = torch.randn(3000, 8, generator=torch.Generator().manual_seed(7))
    styles = G.synthesis.styles(w[:, None].expand(-1, G.num_ws, -1))
    # The attribute is a low value of the third channel of the layer 8.conv1.
    layer = [layer.name for layer in G.synthesis.style_layers()].index("8.conv1")
    channel = styles[layer][:, 2]
    samples = Samples(w, ("dark",), (channel.mean() - channel - channel.std())[:, None])
    first, second = stylespace_directions(G, samples, ["dark"], 2)
    assert (first.style_layer, first.vector.tolist()) == (layer, [0, 0, -1, 0, 0, 0, 0, 0])
    assert first.unit_step == pytest.approx(float(channel.std()), rel=1e-4)
    assert first.scores["signal_to_noise"] > second.scores["signal_to_noise"]


def test_samples_without_a_classifier_are_labelled_by_their_classes(G: Generator) -> None:
    samples = draw_samples(G, CLASSES, 60)
    assert samples.names == ("3", "7") and samples.labels("7").tolist() == [False, True] * 30
    z = torch.randn(60, G.z_dim, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(samples.w[1], G.mapping.map(z[1:2], torch.tensor([[0.0, 1.0]]))[0], atol=1e-6)
    assert draw_samples(G, CLASSES, 60, label=3).names == ()
    few = dataclasses.replace(samples, logits=torch.where(torch.arange(60)[:, None] < 59, 1.0, -1.0).repeat(1, 2))
    with pytest.raises(UserError, match="--only names 3, which can't be found: 1 of 60"):
        choose_attributes(few, ["3"], make_console())


def test_an_edit_of_zero_is_the_identity_and_others_move_only_what_they_name(G: Generator) -> None:
    ws = random_ws(G)
    image, features = G.synthesis.with_features(ws, G.synthesis.resolutions, "const")
    in_w = Direction("a", "sefa", unit(*range(1, 9)).float(), 2.0, layers=(3, 4))
    in_styles = Direction("b", "stylespace", torch.eye(8)[1], 3.0, style_layer=5)
    for direction in (in_w, in_styles):
        for step, is_same in ((0.0, True), (1.5, False)):
            styles = direction.styles(G, ws, torch.full((3,), step))
            found, moved = G.synthesis.from_styles(styles, G.synthesis.resolutions, "const")
            assert found.equal(image) is is_same
            # Layer 5 of the styles and codes 3 and 4 are those of 16x16: what is computed before stays to the bit.
            assert moved[8].equal(features[8]) and moved[16].equal(features[16]) is is_same
    # Code 3 is also that of ToRGB at 8x8.
    of_layers = zip(G.synthesis.style_layers(), G.synthesis.styles(ws), in_w.styles(G, ws, torch.ones(3)), strict=True)
    changed = [layer.name for layer, before, after in of_layers if not before.equal(after)]
    assert changed == ["8.torgb", "16.conv0", "16.conv1"]
    expected = ws.clone()
    expected[:, 3:5] += 1.5 * 2 * in_w.vector
    steps = torch.full((3,), 1.5)
    for found, styles in zip(in_w.styles(G, ws, steps), G.synthesis.styles(expected), strict=True):
        assert torch.allclose(found, styles, atol=1e-6)
    assert np.array_equal(render(G, ws, direction=in_w, steps=torch.zeros(3)), render(G, ws))


def test_effects_of_a_linear_attribute_are_those_of_its_slope(G: Generator) -> None:
    class MeanBlue:
        names, network = ("blue", "red"), "means"

        def __call__(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3))[:, [2, 0]]

    # Images are linear in the styles of the last ToRGB, and small enough for nothing to be cut.
    G = copy.deepcopy(G)
    for block in G.synthesis.blocks.values():
        block.torgb.weight.mul_(0.05)
    last = len(G.synthesis.style_layers()) - 1
    direction = Direction("a", "stylespace", torch.eye(8)[0], 0.3, style_layer=last)
    samples = draw_samples(G, CLASSES, 64, classifier=MeanBlue())
    (scored,) = with_effects(G, [direction], samples, ["blue"], MeanBlue())
    ws = samples.w[:16, None].expand(-1, G.num_ws, -1)
    features = G.synthesis.with_features(ws, [16], "const")[1][16]
    # From -3 to 3 steps of 0.3 times what a unit of this channel adds to blue.
    change = 6 * 0.3 * features[:, 0].mean() * G.synthesis.blocks["16"].torgb.weight[2, 0, 0, 0]
    expected = float(change / samples.logits[:, 0].std())
    assert abs(expected) > 0.01 and scored.scores["effect:blue"] == pytest.approx(expected, rel=1e-3)
    assert scored.scores["als"] < 1e-3 * abs(expected)


def test_files_keep_directions_and_are_refused_in_words(G: Generator, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    in_w = Direction("smile, wide", "sefa", unit(*range(8)).float(), 0.5, (0, 2), scores={"eigenvalue": 2.0})
    in_styles = Direction("b", "stylespace", torch.eye(8)[3], 1.5, style_layer=2)
    write_directions(path, [in_w, in_styles], identify(G), {"seed": 3})
    read = read_directions(path, G)
    for direction in (in_w, in_styles):
        found = read.directions[direction.name]
        assert found.vector.equal(direction.vector)
        fields = [field.name for field in dataclasses.fields(direction) if field.name != "vector"]
        assert all(getattr(found, name) == getattr(direction, name) for name in fields)
    assert (read.generator, read.settings) == (identify(G), {"seed": 3})

    other = Generator(8, 0, 12, 16, channel_base=128, channel_max=8, mapping_layers=2)
    with pytest.raises(UserError, match="another generator: w_dim is 8 there and 12 in this network"):
        read_directions(path, other)
    tensors, header = load_tensors(path)
    records = header["directions"]
    damaged = [
        header | {"kind": "weights"},
        header | {"directions": [records[0] | {"layers": [0, 6]}]},
        header | {"directions": [records[0] | {"unit_step": 0}]},
        header | {"directions": [records[0] | {"unit_step": "long"}]},
        header | {"directions": [records[1] | {"style_layer": 8}]},
        header | {"directions": [records[1] | {"style_layer": -1}]},
        header | {"directions": [records[0] | {"name": "absent"}]},
        header | {"generator": {"w_dim": 8}},
        {},
    ]
    for wrong in damaged:
        save_tensors(tensors, path, wrong)
        with pytest.raises(UserError, match=r"cannot be read as a file of directions \("):
            read_directions(path, G)
    save_tensors(tensors | {"b": torch.full((8,), torch.nan)}, path, header)
    with pytest.raises(UserError, match="the vector of b is not 8 finite numbers"):
        read_directions(path, G)


def test_mixed_codes_and_interpolations(G: Generator) -> None:
    ws = random_ws(G, 5)
    mixed = mixed_codes(ws[:2], ws[2:], (1, 4))
    assert mixed.shape == (2, 3, *ws.shape[1:])
    assert mixed[1, 2, [1, 4]].equal(ws[4, [1, 4]]) and mixed[1, 2, [0, 2, 3, 5]].equal(ws[1, [0, 2, 3, 5]])
    strip = interpolate(G, ws[:3], 5)
    assert strip.shape == (2, 5, 16, 16, 3)
    images = render(G, torch.cat([ws[:3], (ws[:1] + ws[1:2]) / 2])).astype(int)
    for found, expected in ((strip[0, 0], 0), (strip[0, 4], 1), (strip[1, 0], 1), (strip[1, 4], 2), (strip[0, 2], 3)):
        assert abs(found.astype(int) - images[expected]).max() <= 1
    loop = interpolate(G, ws[:3], 4, is_loop=True)
    assert loop.shape == (1, 12, 16, 16, 3)
    for frame, expected in ((0, 0), (2, 3), (4, 1), (8, 2)):
        assert abs(loop[0, frame].astype(int) - images[expected]).max() <= 1


def test_codes_of_seeds_are_truncated_towards_the_mean(G: Generator) -> None:
    z = torch.randn(G.z_dim, generator=torch.Generator().manual_seed(5))
    w = G.mapping.map(z[None], torch.tensor([[0.0, 1.0]]))
    for truncation in (1.0, 0.25):
        found = map_seeds(G, CLASSES, [5], label=7, truncation=truncation)
        expected = G.mapping.w_avg + truncation * (w - G.mapping.w_avg)
        assert torch.allclose(found, expected[:, None].expand_as(found), atol=1e-6)


def test_commands(hsr: Command, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--checkpoint", weights, "--device", "cpu"]
    file = "cats & dogs/d.safetensors"
    assert hsr("directions", *common, "--samples", 200, "--number", 2, "--only", 7, "--out", file) == 0
    found = safetensors.torch.load_file(tmp_path / file)
    assert {name.split("-")[0] for name in found} == {"ganspace", "sefa", "interfacegan", "stylespace"}
    out = capsys.readouterr().out
    assert "interfacegan-7  " in out
    # What is printed as an example is a command.
    program, *words = shlex.split(out.split("See one: ")[1])
    assert program == "hsr" and hsr(*words) == 0 and (tmp_path / "edit.png").exists()
    edit = ["edit", *common, "--directions", file, "--direction"]
    assert hsr(*edit, "sefa-1@all", "--seeds", "0,5", "--range", "-2,2", "--frames", 5, "--out", "e.png") == 0
    strip = np.asarray(Image.open(tmp_path / "e.png"))
    assert strip.shape == (2 * 16, 5 * 16, 3)
    loaded, classes = load_generator(weights)
    ws = map_seeds(loaded, classes, [0, 5])
    # The middle is the image itself.
    assert abs(strip[16:, 32:48].astype(int) - render(loaded, ws)[1]).max() <= 1

    safetensors.torch.save_file({"w": ws[1].contiguous()}, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", w=ws[1:].numpy())
    for name in ("w.safetensors", "w.npz"):
        assert hsr(*edit, "sefa-1@all", "--from", name, "--range", "-2,2", "--frames", 5, "--out", "f.png") == 0
        assert abs(np.asarray(Image.open(tmp_path / "f.png")).astype(int) - strip[16:]).max() <= 1

    assert hsr(*edit, "stylespace-1-7", "--seeds", "0-2", "--frames", 4, "--out", "e.gif") == 0
    with Image.open(tmp_path / "e.gif") as animation:
        # Forth and back, four images in a square.
        assert (animation.size, animation.n_frames) == ((32, 32), 6)
    assert hsr("edit", *common, "--interpolate", "--seeds", "0-2", "--frames", 3, "--out", "i.mp4") == 0
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "i.mp4"))[0] == 9

    assert hsr("mix", *common, "--rows", "0,5", "--columns", "1-3", "--layers", "1-2", "--out", "m.png") == 0
    grid = np.asarray(Image.open(tmp_path / "m.png"))
    assert grid.shape == (3 * 16, 4 * 16, 3) and (grid[:16, :16] == 255).all()
    assert abs(grid[32:, :16].astype(int) - render(loaded, ws)[1]).max() <= 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("directions --method pca", "--method pca is not one of ganspace, sefa"),
        ("directions --samples 100 --only 4", "--only names 4, which is not one of 3, 7"),
        (
            "directions --samples 100 --label 3 --method stylespace",
            "needs attributes, but --label leaves a single",
        ),
        ("directions --samples 100 --label 4", "--label 4 is not a class"),
        ("directions --out d.txt", "d.txt must end in .safetensors"),
        ("directions --attributes a.json", "--attributes describes images"),
        ("edit", "--directions is missing"),
        ("edit --directions weights.safetensors", "cannot be read as a file of directions"),
        ("edit --directions nowhere", "cannot be read as a file of directions"),
        ("edit --directions d.safetensors --direction smile", "--direction smile is unknown"),
        ("edit --directions d.safetensors --range 3", "--range 3 is not two different numbers"),
        ("edit --directions d.safetensors --direction b --from weights.safetensors", "cannot be read as latent codes"),
        ("edit --directions d.safetensors --direction b --from d.safetensors", "cannot be read as latent codes"),
        ("edit --interpolate --direction b", "exclude one another"),
        ("edit --interpolate --from w.npz --truncation 0.5", "--from and --truncation exclude one another"),
        ("edit --interpolate --from w.npz --label 3", "--from and --label exclude one another"),
        ("edit --interpolate --from noise.safetensors", "noise of another generator: blocks.4.conv1.noise_const"),
        ("edit --interpolate --seeds 1", "--interpolate needs two seeds or more"),
        ("edit --interpolate --frames 10000 --seeds 0-9999", "such an interpolation has 99990000 images"),
        ("edit --interpolate --out e.mov", ".tiff, .gif, .mp4"),
        ("mix --rows x", "--rows x is not a list of seeds"),
        ("mix --layers 9", "names layer 9, but the layers are 0 to 5"),
    ],
)
def test_mistakes_get_a_sentence(
    words: str, sentence: str, hsr: Command, weights: Path, G: Generator, capfd: pytest.CaptureFixture[str]
) -> None:
    write_directions(
        weights.with_name("d.safetensors"),
        [Direction(name, "stylespace", torch.eye(8)[3], 1.5, style_layer=2) for name in "ab"],
        identify(G),
        {},
    )
    noise = {"noise.blocks.4.conv1.noise_const": torch.zeros(8, 8)}
    safetensors.torch.save_file({"w": torch.zeros(2, 6, 8)} | noise, weights.with_name("noise.safetensors"))
    assert hsr(*words.split(), "--checkpoint", weights, "--device", "cpu") == 2
    error = capfd.readouterr().err
    assert sentence in error and error.startswith("hsr: ") and error.count("\n") == 1


def test_ranges() -> None:
    assert parse_range("-3,3") == (-3.0, 3.0) and parse_range("0, 2.5") == (0.0, 2.5)
    for text in ("3", "1,1", "a,b", "1,2,3", "nan,1", "1e9,2"):
        with pytest.raises(UserError, match="--range"):
            parse_range(text)
