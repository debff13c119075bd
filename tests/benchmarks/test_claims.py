# SPDX-License-Identifier: Apache-2.0
"""The experiment on HSR's claims: its statistics, its controls, and the whole of it in a tiny size."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.claims import command, measuring, presets, training
from benchmarks.claims.arms import ARMS, CONTROLS, Arm, ShuffledTargets, prepare_teacher
from benchmarks.claims.command import Experiment, plan_seeds, run_seed
from benchmarks.claims.findings import edit_scores, gather
from benchmarks.claims.page import _spell, verdict, write_page
from benchmarks.claims.statistics import Difference, paired_change, paired_difference, power, seeds_needed
from benchmarks.claims.training import WARM_START
from benchmarks.claims.values import restore_seeds
from hsr.console import make_console
from hsr.data import open_dataset
from hsr.errors import UserError
from hsr.evaluation.evaluation import Sizes
from hsr.semantics import Encoder, LabelEncoder
from hsr.weights import find_weights, load_tensors


class TestStatistics:
    def test_differences_are_those_of_students_test(self):
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=9) + 1, rng.normal(size=9)
        found, expected = paired_difference(a.tolist(), b.tolist()), stats.ttest_rel(a, b)
        interval = expected.confidence_interval()
        assert (found.mean, found.low, found.high) == pytest.approx(((a - b).mean(), interval.low, interval.high))
        assert found.is_significant == (expected.pvalue < 0.05) and found.pairs == 9
        alone = paired_difference([1.0], [3.0])
        assert alone.mean == -2 and math.isnan(alone.low) and not alone.is_significant

    def test_changes_are_ratios(self):
        found = paired_change([2.0, 8.0, 4.0], [4.0, 8.0, 16.0])
        assert found.mean == pytest.approx((1 / 2 * 1 / 4) ** (1 / 3) - 1)
        doubled = paired_change([2.0, 4.0], [1.0, 2.0])
        assert (doubled.mean, doubled.low, doubled.high) == pytest.approx((1, 1, 1))

    def test_power_is_the_share_of_experiments_that_see_the_effect(self):
        rng = np.random.default_rng(0)
        differences = rng.normal(0.5, 1, size=(4000, 12))
        seen = (stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05).mean()
        assert power(12, 1.0, 0.5) == pytest.approx(seen, abs=0.03)
        assert power(12, 1.0, 0.0) == pytest.approx(0.05)

    def test_number_of_seeds_reaches_the_power_and_no_smaller_one_does(self):
        effect = math.log(1 - 0.1619)
        n = seeds_needed(0.2)
        assert power(n, 0.2, effect) >= 0.8 > power(n - 1, 0.2, effect)
        assert seeds_needed(0.0) == 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.1, 0.1, "less than the claim"),
        (-0.4, -0.2, "more than the claim"),
        (-0.2, -0.1, "in agreement with the claim"),
        (-0.2, 0.1, "too uncertain to tell the claim from no change"),
    ],
)
def test_verdict_agrees_with_a_claim_only_where_no_change_does_not(low: float, high: float, expected: str) -> None:
    assert verdict(Difference((low + high) / 2, low, high, 4), -0.16) == expected


def make_encoder() -> LabelEncoder:
    encoder = LabelEncoder(10)
    encoder.freeze()
    return encoder


class TestControls:
    def test_shuffled_targets_are_those_of_other_images(self):
        images = torch.rand(4, 3, 32, 32) * 2 - 1
        encoder = make_encoder()
        right = encoder.targets(images, 2)
        wrong = ShuffledTargets(encoder).targets(images, 2)
        for a, b in zip(right, wrong, strict=True):
            torch.testing.assert_close(b, a[[3, 0, 1, 2]])

    def test_the_deepest_layer_teaches_all_scales(self):
        images = torch.rand(2, 3, 32, 32) * 2 - 1
        encoder = make_encoder()
        deepest = prepare_teacher(Arm("", "lite0", has_deepest_targets=True), encoder, open_dataset(), 0)
        targets = deepest.targets(images, 2)
        assert [tuple(target.shape[1:3]) for target in targets] == deepest.target_shapes(2)
        for target in targets:
            torch.testing.assert_close(target, encoder.targets(images, 1)[0])

    @pytest.mark.parametrize("name", presets.NAMES)
    def test_settings_of_arms(self, name: str):
        preset = presets.find_preset(name)
        configs = {arm: dataclasses.replace(preset.config, **command._arm_settings(preset, ARMS[arm])) for arm in ARMS}
        assert {config.kimg for config in configs.values()} == {preset.arm_kimg}
        assert configs["baseline"].hsr_weight == 0 < configs["hsr"].hsr_weight == configs["shuffled"].hsr_weight
        assert configs["weight-10"].hsr_weight == 10 and configs["hsr"].hsr_learning_rate is None
        assert configs["heads-slow"].hsr_learning_rate == pytest.approx(preset.config.learning_rate / 4)

    def test_a_random_teacher_has_other_weights_and_features_of_the_same_spread(self):
        digits = open_dataset().subset(np.arange(300))
        trained = make_encoder()
        arm = Arm("", "lite0", has_random_teacher=True)
        teachers = [prepare_teacher(arm, make_encoder(), digits, seed) for seed in (1, 1, 2)]
        prints = [teacher.fingerprint() for teacher in (trained, *teachers)]
        assert prints[1] == prints[2] and len(set(prints)) == 3
        for features in teachers[0].feature_maps(digits.batch(np.arange(300))):
            spread = features.std(dim=(0, 2, 3))
            assert spread[spread > 1e-3].median() == pytest.approx(1, abs=0.3)


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """The digits in a size that takes seconds, with a small network in the place of teacher and judges."""

    class Named(LabelEncoder):
        def __init__(self, kind: str) -> None:
            super().__init__(10, seed=len(kind))
            self.name = kind
            self.freeze()

    def encoder(experiment: Experiment, kind: str, dataset: object) -> Encoder:
        return Named(kind)

    def tiny() -> presets.Preset:
        full = presets._digits()
        config = dataclasses.replace(full.config, kimg=0.016, tick_kimg=0.008, channel_max=8, hsr_hidden=8)
        sizes = Sizes(images=24, pairs=8, sequences=3, samples=100, r2_images=16, batch=33)
        return dataclasses.replace(full, config=config, arm_kimg=0.016, sizes=sizes, min_seeds=2, max_seeds=2)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    few_digits = open_dataset().subset(np.arange(400))
    monkeypatch.setattr(Experiment, "open_images", lambda self, console: few_digits)
    monkeypatch.setattr(command, "_encoder", encoder)
    metrics = {"squeezenet": ("ppl2_wend", "fd", "prdc", "als", "feature_r2"), "lite0": ("ppl2_wend",)}
    monkeypatch.setattr(measuring, "METRICS", metrics)
    monkeypatch.setitem(presets._PRESETS, "digits", tiny)
    monkeypatch.setitem(command.GROUPS, "claims", ("baseline", "hsr", "nothing"))
    monkeypatch.setitem(CONTROLS, "hsr", ("nothing", "shuffled"))
    monkeypatch.setitem(ARMS, "nothing", Arm("HSR without weight", "lite0", settings={"hsr_weight": 1e-30}))
    return Experiment("digits", "claims", None, Path("unused"), tmp_path / "claims", torch.device("cpu"))


def test_whole_experiment(experiment: Experiment, tmp_path: Path) -> None:
    console = make_console()
    for seed in (0, 1):
        assert run_seed(experiment, seed, console)
    # With the same images, codes and noise only the loss differs.
    folder = experiment.folder(0)
    tensors = {arm: load_tensors(find_weights(folder / arm))[0] for arm in (WARM_START, *experiment.arms)}
    for name, value in tensors["baseline"].items():
        torch.testing.assert_close(tensors["nothing"][name], value, rtol=1e-3, atol=1e-5)
    constants = {arm: of_arm["G.synthesis.const"] for arm, of_arm in tensors.items()}
    assert (constants["baseline"] - constants[WARM_START]).norm() > 1e-3
    assert (constants["baseline"] - constants["hsr"]).norm() > 1e-3
    findings = gather(experiment, None)
    assert findings.seeds == (0, 1) and findings.networks == ["squeezenet", "lite0"]
    values = findings.values["ppl2_wend", "squeezenet"]
    assert set(values) == {WARM_START, "baseline", "hsr", "nothing"} and len(set(values["baseline"])) == 2
    assert findings.change("ppl2_wend", "squeezenet", "nothing").mean == pytest.approx(0, abs=1e-3)
    assert plan_seeds(experiment, None)["seeds"] == 2
    # What is there isn't done again.
    before = {path: path.stat().st_mtime_ns for path in experiment.out.rglob("*") if path.is_file()}
    assert run_seed(experiment, 0, console)
    assert before == {path: path.stat().st_mtime_ns for path in experiment.out.rglob("*") if path.is_file()}
    paths = write_page(experiment, tmp_path / "page", None)
    assert all(path.stat().st_size > 500 for path in paths)
    text = (tmp_path / "page/digits.md").read_text()
    assert "## As squeezenet judges" in text and "(*own teacher*)" in text
    # A control that isn't of the experiment has no column.
    controls = text.split("## Against the controls")[1].split("##")[0]
    assert f"| {ARMS['hsr'].title}, against: HSR without weight |\n" in controls and "shuffled" not in controls
    against = findings.change("ppl2_wend", "squeezenet", "hsr", "nothing")
    assert against == paired_change(values["hsr"], values["nothing"])
    assert f"| path length in w, at path ends | {_spell(against, is_relative=True)} |" in controls
    assert "<table>" in (tmp_path / "page/digits.html").read_text()
    contents = json.loads((tmp_path / "page/digits.json").read_text())
    assert {one["attribute"] for one in contents["attributes"]} >= {"class 0", "class 9"}
    row = next(line for line in text.split("\n") if line.startswith("| class 0 |"))
    assert row.count("|") == 6 and "range" in row
    assert contents["seeds"] == [0, 1] and len(contents["machines"]) == 2 and contents["machines"][1]["commit"]
    check_extension(experiment, tmp_path / "page", tmp_path / "elsewhere")


def check_extension(experiment: Experiment, page: Path, out: Path) -> None:
    """The seeds of a page are taken over where their runs aren't at hand, and the same page comes of them again."""
    elsewhere = dataclasses.replace(experiment, out=out)
    before = {path: path.read_bytes() for path in page.rglob("*") if path.is_file()}
    assert restore_seeds(elsewhere, page / "digits.json") == [0, 1]
    assert run_seed(elsewhere, 1, make_console()) and not (elsewhere.folder(1) / WARM_START).exists()
    assert plan_seeds(elsewhere, None) == plan_seeds(experiment, None)
    write_page(elsewhere, page, None)
    assert before == {path: path.read_bytes() for path in page.rglob("*") if path.is_file()}
    assert restore_seeds(elsewhere, page / "digits.json") == []
    with pytest.raises(UserError, match=r"strips.png isn't there, and can't be drawn without the runs"):
        (page / "digits/strips.png").unlink()
        write_page(elsewhere, page, None)
    contents = json.loads((page / "digits.json").read_text())
    (page / "digits.json").write_text(json.dumps(contents | {"arm_kimg": 77}))
    with pytest.raises(UserError, match="aren't of this experiment: arm_kimg were others"):
        restore_seeds(elsewhere, page / "digits.json")


def test_attributes_of_one_thing_come_with_their_mean() -> None:
    """Semantic and low-level attributes, such as a drawing's category and its tone, can be told apart."""
    found = {"tone=0": (1.0, 2.0), "category=Food": (5.0, 6.0), "tone=3": (3.0, 6.0)}
    scores = edit_scores({name: {"als": als, "range": reach, "sigma": 1.0} for name, (als, reach) in found.items()})
    assert list(scores) == ["tone, mean of 2", "tone=0", "tone=3", "category=Food"]
    assert scores["tone, mean of 2"] == (2.0, 4.0) and scores["category=Food"] == (5.0, 6.0)


def test_training_time_leaves_interruptions_out(tmp_path: Path) -> None:
    """A pause before the third thousand images, and a restart from the second thousand."""
    ticks = [(0, 1.0), (50, 2.0), (3100, 3.0), (9000, 3.0), (9050, 4.0), (9101, 5.0)]
    log = [{"event": "tick", "time": time, "kimg": kimg} for time, kimg in ticks]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in log))
    assert training.seconds_per_kimg(tmp_path) == 50.5
    (tmp_path / "log.jsonl").write_text(json.dumps(log[0]) + "\n")
    assert training.seconds_per_kimg(tmp_path) is None
