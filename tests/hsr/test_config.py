# SPDX-License-Identifier: Apache-2.0
"""Settings and presets."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest
import torch

from hsr.config import PRESETS, Config, load_config, preset
from hsr.errors import UserError
from hsr.models.build import build_generator


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("resolution", [8, 32, 256, 1024])
def test_presets_survive_json(tmp_path: Path, name: str, device: str, resolution: int) -> None:
    config = preset(name, resolution, device)
    assert config.preset == name
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert load_config(path) == config


def test_paper256_is_the_published_schedule() -> None:
    config = preset("paper256", 256, "cuda")
    assert (config.batch, config.minibatch_std_group, config.channel_base) == (16, 4, 16384)
    assert (config.learning_rate, config.beta1, config.beta2, config.gamma) == (0.002, 0, 0.99, 1)
    assert (config.ema_kimg, config.ema_rampup, config.mapping_layers, config.kimg) == (10, None, 8, 500)
    assert (config.style_mixing, config.path_length_weight, config.path_length_interval) == (0.9, 2, 4)
    assert (config.r1_interval, config.mixed_precision_resolutions, config.conv_clamp) == (16, 4, 256)
    assert config.label_mapping_layers == preset("auto", 64, "cuda").label_mapping_layers == 8
    assert (config.mirror, config.hsr_weight, config.hsr_hidden) == (True, 1, 4096)


@pytest.mark.parametrize("seed", range(3))
def test_codes_of_the_digits_vary_more_within_a_class_than_between_classes(seed: int) -> None:
    torch.manual_seed(seed)
    mapping = build_generator(preset("digits", 32, "cpu"), 32, 10).mapping
    classes = torch.eye(10).repeat_interleave(200, dim=0)
    with torch.no_grad():
        w = mapping.map(torch.randn(2000, mapping.z_dim), classes).unflatten(0, (10, 200))
    within, between = w.var(dim=1).mean(), w.mean(dim=1).var(dim=0).mean()
    assert within > 2 * between


def test_auto_scales_with_resolution() -> None:
    small, large = preset("auto", 64, "cuda"), preset("auto", 512, "cuda")
    assert small.batch > large.batch
    assert small.gamma < large.gamma


def test_an_unknown_preset_is_reported() -> None:
    with pytest.raises(UserError, match="--cfg best is neither a preset"):
        preset("best", 32, "cpu")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 6}, "multiple of 4"),
        ({"batch": 0}, "batch is 0"),
        ({"kimg": -1.0}, "kimg is -1.0"),
        ({"kimg": float("nan")}, "kimg is nan"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"hsr_weight": float("inf")}, "hsr_weight is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"threads": 0}, "threads is 0"),
        ({"hsr_precision": "fp16"}, 'hsr_precision is "fp16", but must be auto, float32 or bfloat16'),
    ],
)
def test_impossible_settings_are_reported(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        dataclasses.replace(Config(preset="x"), **changes)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Config)])
def test_every_setting_knows_its_type_and_bounds(name: str) -> None:
    """No value is taken for what it isn't: nothing is truthy, cut off, or as large as anybody likes."""
    kind = str(typing.get_type_hints(Config)[name])
    wrong: list[object] = [[], {}, 10**400, float("inf"), float("nan")]
    wrong += [] if "str" in kind else ["yes", ""]
    wrong += [] if "bool" in kind else [True]
    wrong += [] if "float" in kind or "int" in kind else [1]
    wrong += [] if "float" in kind else [1.0]
    wrong += [-1, -0.5, 10**100] if "float" in kind or "int" in kind else []
    wrong += [] if "None" in kind or "Optional" in kind else [None]
    for value in wrong:
        with pytest.raises(UserError, match=rf"^{name} is .*, but must be "):
            Config(**({"preset": "x"} | {name: value}))


def test_whole_numbers_do_for_others() -> None:
    config = Config(preset="x", kimg=3, gamma=0)
    assert type(config.kimg) is type(config.gamma) is float


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"preset": "x", "colour": 1}', '{"preset": "x", "batch": "many"}', "[" * 10**5]
)
def test_a_wrong_file_is_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"x\.json"):
        load_config(path)
    with pytest.raises(UserError, match=r"y\.json"):
        load_config(tmp_path / "y.json")


def test_json_is_plain() -> None:
    assert json.loads(Config(preset="x").to_json())["data"] is None
