# SPDX-License-Identifier: Apache-2.0
"""Attributes of images: read, carried through a preparation, and learned."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hsr.attributes import AttributeTable, fit_heads, load_classifier, read_attributes
from hsr.attributes.classifier import OwnClassifier
from hsr.data import open_dataset
from hsr.errors import UserError

from .conftest import write_images

COUNT = 80
SAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images with attributes of every kind; every second image has the left half of a dark colour."""
    folder = write_images(tmp_path / "pictures", COUNT, 16, labels=[i % 2 for i in range(COUNT)])
    attributes = {
        f"00000/img{i:04d}.png": {
            "dark": bool(i % 2),
            "kind": ["cat", "dog", "owl"][i % 3] if i > 2 else None,
            "tone": i % 4,
            "weight": i + 0.5,
            "name": f"picture {i}",
            "rare": i == 0,
            "family": f"family {i // 2}",
        }
        for i in range(COUNT)
    }
    (folder / "attributes.json").write_text(json.dumps(attributes))
    return folder


def column(table: AttributeTable, name: str) -> np.ndarray:
    return table.values[:, table.names.index(name)].numpy()


def check(table: AttributeTable, order: np.ndarray) -> None:
    """Checks the attributes of the images at these positions of `folder`."""
    names = ("dark", "kind=cat", "kind=dog", "kind=owl", "tone=0", "tone=1", "tone=2", "tone=3", "weight>40")
    assert table.names == names
    np.testing.assert_array_equal(column(table, "dark"), order % 2)
    np.testing.assert_array_equal(column(table, "kind=dog"), np.where(order > 2, order % 3 == 1, np.nan))
    np.testing.assert_array_equal(column(table, "tone=3"), order % 4 == 3)
    np.testing.assert_array_equal(column(table, "weight>40"), order >= 40)
    np.testing.assert_array_equal(table.groups[:, None] == table.groups, order[:, None] // 2 == order // 2)


def test_attributes_are_matched_with_images_by_their_names(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert "attributes.json has attributes of the images, for hsr evaluate." in dataset.report
    lines: list[str] = []
    check(read_attributes(dataset, log=lines.append), np.arange(COUNT))
    assert "rare is had by 1 images and lacked by 79" in lines[0]
    part = np.random.default_rng(0).permutation(COUNT)
    check(read_attributes(dataset.subset(part), log=lines.append), part)


def test_a_preparation_carries_attributes_to_the_new_names(folder: Path, tmp_path: Path, hsr) -> None:
    # A copy, which is dropped, moves all names behind it.
    (folder / "00000/img0004b.png").write_bytes((folder / "00000/img0001.png").read_bytes())
    labels = json.loads((folder / "dataset.json").read_text())
    labels["labels"].append(["00000/img0004b.png", 1])
    (folder / "dataset.json").write_text(json.dumps(labels))
    assert hsr("dataset", folder, tmp_path / "small.zip", "--resize", "8") == 0
    dataset = open_dataset(tmp_path / "small.zip")
    assert len(dataset) == COUNT
    check(read_attributes(dataset, log=print), np.arange(COUNT))


def test_a_csv_file_in_the_place_of_the_own_one(folder: Path, tmp_path: Path) -> None:
    lines = [f"00000\\img{i:04d}.png,{i % 2},{'' if i == 5 else 'ab'[i < 30]}" for i in range(COUNT)]
    (tmp_path / "table.csv").write_text("\n".join(["file,striped,letter", *lines]))
    table = read_attributes(open_dataset(folder), tmp_path / "table.csv")
    assert table.names == ("striped", "letter=a", "letter=b")
    assert np.isnan(column(table, "letter=a")[5]) and np.nansum(column(table, "letter=b")[:30]) == 29


def test_classes_serve_where_there_are_no_attributes() -> None:
    digits = open_dataset()
    table = read_attributes(digits)
    assert table.names == tuple(f"class {i}" for i in range(10))
    np.testing.assert_array_equal(table.values.argmax(dim=1).numpy(), digits.labels)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "must have the form"),
        ('{"00000/img0000.png": {"a": [1]}}', "but a of 00000/img0000.png is none of these"),
        ('{"other.png": {"a": 1}}', "names none of the images, as with other.png"),
        ("{", "cannot be read as attributes of images"),
    ],
)
def test_unfitting_files(folder: Path, text: str, sentence: str) -> None:
    (folder / "attributes.json").write_text(text)
    dataset = open_dataset(folder)
    with pytest.raises(UserError, match=sentence):
        read_attributes(dataset)


def make_table(values: torch.Tensor, groups: np.ndarray | None = None) -> AttributeTable:
    names = tuple(f"a{i}" for i in range(values.shape[1]))
    return AttributeTable(names, values.float(), np.arange(len(values)) if groups is None else groups)


class TestHeads:
    def test_learn_what_features_tell_and_refuse_what_they_do_not(self) -> None:
        rng = torch.Generator().manual_seed(0)
        # Features of unequal scales, off centre.
        features = torch.randn(600, 6, generator=rng) * torch.tensor([1, 100, 0.01, 1, 1, 1]) + 5
        tells, noise = features[:, 1] > 55, torch.rand(600, generator=rng) > 0.5
        values = torch.stack([tells, noise], dim=1).float()
        values[::7] = torch.nan
        lines: list[str] = []
        heads = fit_heads(features, make_table(values), log=lines.append)
        assert heads.names == ("a0",) and heads.accuracies[0] > 0.9
        assert lines[0].startswith("1 of 2 attributes are left out") and "a1 (" in lines[0]
        assert ((heads.scores(features)[:, 0] > 0) == tells).float().mean() > 0.9
        with pytest.raises(UserError, match="No attribute can be told from these features"):
            fit_heads(features, make_table(values[:, 1:]), log=lines.append)

    def test_images_of_a_group_are_on_one_side_of_the_split(self) -> None:
        """Features that tell the group alone tell nothing of images of other groups."""
        rng = torch.Generator().manual_seed(0)
        groups = torch.arange(200).repeat_interleave(6)
        features = torch.randn(200, 400, generator=rng)[groups]
        values = (torch.rand(200, generator=rng) > 0.5)[groups, None]
        lines: list[str] = []
        alone = fit_heads(features, make_table(values), log=lines.append)
        assert alone.accuracies[0] > 0.95
        with pytest.raises(UserError):
            fit_heads(features, make_table(values, groups.numpy()), log=lines.append)

    def test_rare_attributes_weigh_as_much_as_their_absence(self) -> None:
        rng = torch.Generator().manual_seed(0)
        rare = torch.rand(2000, generator=rng) < 0.05
        features = torch.randn(2000, 1, generator=rng) + 2 * rare[:, None]
        heads = fit_heads(features, make_table(rare[:, None]), log=print)
        has = heads.scores(features)[:, 0] > 0
        shares = has[rare].float().mean().item(), 1 - has[~rare].float().mean().item()
        assert shares[0] == pytest.approx(shares[1], abs=0.08)


class TestOwnClassifier:
    def test_is_found_and_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("brightness_of_mine.py").write_text(
            "def score(images):\n    return images.mean(dim=(2, 3))\n\nscore.names = ('red', 'green', 'blue')\n"
        )
        classifier = load_classifier("brightness_of_mine:score", SAMPLE)
        assert (classifier.names, classifier.network) == (("red", "green", "blue"), "brightness_of_mine:score")
        assert classifier(torch.ones(2, 3, 8, 8)).tolist() == [[1.0] * 3] * 2

    @pytest.mark.parametrize(
        ("spec", "sentence"),
        [
            ("json", "doesn't name a classifier as MODULE:FUNCTION"),
            ("no_such_module:f", "cannot be imported"),
            ("math:pi", "is no function"),
            ("math:sqrt", "fails"),
        ],
    )
    def test_unusable(self, spec: str, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            load_classifier(spec, SAMPLE)

    def test_of_another_shape(self) -> None:
        with pytest.raises(UserError, match=r"must return a tensor of scores \[N, A\], and returns \(1, 3, 8, 8\)"):
            OwnClassifier(lambda images: images, "mine", SAMPLE)
        with pytest.raises(UserError, match=r"and returns \(1, 0\) for 1 images"):
            OwnClassifier(lambda images: images.new_zeros(len(images), 0), "mine", SAMPLE)

    def test_of_no_finite_score(self) -> None:
        with pytest.raises(UserError, match="The classifier mine returns scores that are not finite"):
            OwnClassifier(lambda images: images.new_full((len(images), 2), math.nan), "mine", SAMPLE)


def test_nothing_to_learn(images: Path) -> None:
    dataset = open_dataset(images)
    with pytest.raises(UserError, match="neither attributes nor classes"):
        read_attributes(dataset)
