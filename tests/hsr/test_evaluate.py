# SPDX-License-Identifier: Apache-2.0
"""`hsr evaluate`: its results, what they are called, and what bad input gets."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from hsr.console import make_console
from hsr.data import open_dataset
from hsr.evaluation import command
from hsr.evaluation.evaluation import METRICS, Evaluation, Sizes
from hsr.evaluation.features import real_features
from hsr.evaluation.results import Result, results_table, write_results
from hsr.evaluation.subjects import load_subjects
from hsr.options import EvaluateOptions
from hsr.ranks import Ranks
from hsr.semantics import Encoder, LabelEncoder, downloads, inception_encoder
from hsr.training.checkpoint import CheckpointFolder
from hsr.training.trainer import Trainer
from hsr.weights import find_weights, load_tensors, save_tensors

from .conftest import SMALL, write_images

SIZES = ("--images", 16, "--pairs", 8, "--sequences", 4, "--samples", 100, "--r2-images", 12, "--batch", 16)
NETWORKS = ("--features", "labels", "--distance", "labels")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes that even a small network tells apart."""
    return write_images(tmp_path_factory.mktemp("data") / "pictures", 96, 16, labels=[i % 2 for i in range(96)])


@pytest.fixture(scope="module")
def checkpoints(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of untrained networks, which no images were held out of."""
    dataset = open_dataset(folder)
    runs = [tmp_path_factory.mktemp("runs") / name for name in ("first", "second")]
    for seed, run in enumerate(runs):
        config = dataclasses.replace(SMALL, hsr_weight=0.0, held_out=0.0, data=str(folder), seed=seed)
        torch.manual_seed(seed)
        run.mkdir()
        CheckpointFolder(run).save(Trainer(config, dataset, None, torch.device("cpu")), {}, 1)
    return runs


def results_of(path: Path) -> dict[tuple[str, str], dict]:
    contents = json.loads(path.read_text())
    return {(result["subject"], result["metric"]): result for result in contents["results"]}


def test_every_metric_of_two_runs(checkpoints: list[Path], hsr, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = "ppl2_wend,ppl_zfull,path_relative,fd,kid,prdc,als,linear_separability,feature_r2"
    command = ("evaluate", "--checkpoint", *checkpoints, "--metrics", metrics, *NETWORKS, *SIZES)
    assert hsr(*command, "--out", "first.json") == 0
    text = capsys.readouterr().out
    assert "ppl2_wend" in text and "labels" in text
    assert hsr(*command, "--out", "second.json", "--batch", 5) == 0
    first, second = results_of(Path("first.json")), results_of(Path("second.json"))
    names = [path.name for path in checkpoints]
    assert {subject for subject, _ in first} == set(names)
    expected = {"ppl2_wend", "ppl_zfull", "path_relative", "fd", "kid", "precision", "recall", "density", "coverage"}
    expected |= {f"als{kind}{sigma}" for kind in ("", "_squared", "_range") for sigma in ("", "_shared")}
    expected |= {"linear_separability", "linear_separability_z", "feature_r2@8", "feature_r2@16"}
    assert {metric for _, metric in first} == expected
    for key, result in first.items():
        assert result["network"] == "labels" and result["note"]
        assert result["value"] == pytest.approx(second[key]["value"], rel=1e-3, abs=1e-4), key
        if "ppl" in key[1] or "path" in key[1]:
            assert result["low"] <= result["value"] <= result["high"]
    assert first[names[0], "ppl2_wend"]["value"] != first[names[1], "ppl2_wend"]["value"]
    details = first[names[0], "als"]["details"]
    assert set(details) == {"class 0", "class 1"} and set(details["class 0"]) == {"als", "range", "sigma"}
    settings = json.loads(Path("first.json").read_text())["settings"]
    assert settings["precision"] == "float32" and settings["images"]["name"] == "pictures"


def test_help_names_every_metric(hsr, capsys: pytest.CaptureFixture[str]) -> None:
    assert hsr("evaluate", "--help") == 0
    words = set(re.findall(r"\w+", capsys.readouterr().out))
    assert words >= set(METRICS)


def test_generators_of_another_size_than_the_images_are_refused(
    checkpoints: list[Path], hsr, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Whichever of them it is: a distance from images of another size would say something else than the others."""
    folder = write_images(tmp_path / "larger", 24, 32, labels=[i % 2 for i in range(24)])
    config = dataclasses.replace(SMALL, hsr_weight=0.0, held_out=0.0, data=str(folder))
    larger = tmp_path / "third"
    larger.mkdir()
    CheckpointFolder(larger).save(Trainer(config, open_dataset(folder), None, torch.device("cpu")), {}, 1)
    assert hsr("evaluate", "--metrics", "fd", *NETWORKS, *SIZES, "--checkpoint", checkpoints[0], larger) == 2
    assert "The images of first are 16 pixels wide, but those of third 32" in capsys.readouterr().err
    # Path lengths take no more than the classes of the images.
    subjects = load_subjects([checkpoints[0], larger], torch.device("cpu"))
    options = EvaluateOptions((checkpoints[0], larger))
    assert subjects[0].G.c_dim and command._open_images(options, ["ppl2_wend"], subjects, make_console())


def test_weights_that_are_not_finite_are_refused(
    checkpoints: list[Path], hsr, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tensors, header = load_tensors(find_weights(checkpoints[0]))
    tensors["G_ema.mapping.w_avg"][3] = torch.inf
    save_tensors(tensors, tmp_path / "diverged.safetensors", header)
    assert hsr("evaluate", "--checkpoint", tmp_path / "diverged.safetensors", *NETWORKS, *SIZES) == 2
    assert "diverged.safetensors holds values that are not finite, in G_ema.mapping.w_avg." in capsys.readouterr().err


def test_als_along_directions(checkpoints: list[Path], hsr) -> None:
    run = checkpoints[0]
    assert hsr("directions", "--checkpoint", run, "--method", "sefa", "--number", 1, "--out", "d.safetensors") == 0
    command = ("evaluate", "--metrics", "als", *NETWORKS, *SIZES, "--directions", "d.safetensors", "--out", "als.json")
    assert hsr(*command, "--checkpoint", run) == 0
    metrics = {metric for _, metric in results_of(Path("als.json"))}
    assert any(metric.startswith("als@sefa-1@") for metric in metrics)
    assert hsr(*command, "--checkpoint", *checkpoints) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--metrics", "fid"), "--metrics names 'fid', but must name some of ppl2_wend"),
        (("--metrics", ","), "--metrics names none"),
        (("--out", "table.csv"), "does not end in .json"),
        (("--reals", "held-out"), "so none are held out"),
        (("--distance", "owl"), "Unknown encoder owl"),
        (("--data", "other"), "bring them to one size with --resize 16"),
        (("--metrics", "als", "--classifier", "math:pi"), "math:pi is no function"),
        (("--metrics", "als", "--classifier", "math:cos", "--attributes", "a.json"), "leave out --attributes"),
        (("--attributes", "a.json"), "--attributes is for als and linear_separability, which --metrics doesn't name"),
        (("--metrics", "linear_separability", "--directions", "d"), "--directions is for als, which --metrics"),
    ],
)
def test_bad_input_gets_one_sentence(
    options: tuple,
    sentence: str,
    checkpoints: list[Path],
    hsr,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    write_images(tmp_path / "other", 24, 32)
    defaults = {"--metrics": "ppl2_wend,fd", "--features": "labels", "--distance": "labels"}
    words = [word for pair in (defaults | dict(zip(options[::2], options[1::2], strict=True))).items() for word in pair]
    assert hsr("evaluate", "--checkpoint", checkpoints[0], *SIZES, *words) == 2
    assert sentence in capsys.readouterr().err


def test_auto_is_the_published_network_only_where_its_weights_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    specs: list[str] = []
    monkeypatch.setattr(command, "build_encoder", lambda spec, **_: specs.append(spec))
    instruments = command._Instruments(EvaluateOptions((tmp_path,)), None, Ranks(torch.device("cpu")), make_console())
    instruments.network("auto", standard="inception", purpose="Features")
    assert "Features are those of lite0, as inception is not on this machine" in capsys.readouterr().out
    file = downloads.hub_file(inception_encoder.URL)
    file.parent.mkdir()
    file.touch()
    instruments.network("auto", standard="inception", purpose="Features")
    assert specs == ["lite0", "inception"] and not capsys.readouterr().out


@pytest.mark.parametrize(("metric", "option"), [("feature_r2", "--features"), ("ppl2_wend", "--distance")])
def test_networks_without_feature_maps_are_refused_where_these_are_needed(
    metric: str,
    option: str,
    checkpoints: list[Path],
    hsr,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = Encoder()
    whole.name, whole.shapes = "whole", ()
    monkeypatch.setattr(command, "build_encoder", lambda spec, **_: whole)
    assert hsr("evaluate", "--checkpoint", checkpoints[0], *SIZES, "--metrics", metric, option, "inception") == 2
    assert f"{option} whole has features of whole images alone" in capsys.readouterr().err


class Counting(LabelEncoder):
    """Counts the images that it reads."""

    count = 0

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        self.count += len(images)
        return super().embed(images)


def test_features_of_reals_are_cached_by_images_and_network(folder: Path) -> None:
    dataset = open_dataset(folder)
    encoders = [Counting(2, seed) for seed in (0, 0, 1)]
    for encoder in encoders:
        encoder.freeze()
    device = torch.device("cpu")
    features = [real_features(dataset, encoder, device) for encoder in encoders]
    assert [encoder.count for encoder in encoders] == [96, 0, 96]
    assert torch.equal(features[0], features[1]) and not torch.equal(features[0], features[2])
    real_features(dataset.subset(torch.arange(50).numpy()), encoders[1], device)
    assert encoders[1].count == 50


def test_a_missing_value_is_no_number_in_json(tmp_path: Path) -> None:
    results = [Result("a", "fd", float("nan"), "labels"), Result("b", "fd", 1.0, "labels", 0.5, 1.5)]
    write_results(results, {}, tmp_path / "r.json")
    values = [result["value"] for result in json.loads((tmp_path / "r.json").read_text())["results"]]
    assert values == [None, 1.0]
    assert len(results_table(results).rows) == 1


def test_own_classifier_needs_no_images(checkpoints: list[Path]) -> None:
    class Brightness:
        names, network = ("bright",), "mine"

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(1, 2, 3))[:, None]

    subjects = load_subjects(checkpoints[:1], torch.device("cpu"))
    evaluation = Evaluation(subjects, Sizes(sequences=3, batch=11), torch.device("cpu"), classifier=Brightness())
    results = {result.metric: result for result in evaluation.measure(["als"])}
    assert set(results) == {"als", "als_squared", "als_range"} and results["als"].network == "mine"
