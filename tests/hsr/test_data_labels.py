# SPDX-License-Identifier: Apache-2.0
"""Labels find their images, whatever their names went through; what is ambiguous is refused by name."""

import json
import os
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hsr.data import ImageDataset, open_dataset
from hsr.errors import UserError

from .conftest import write_images, zip_folder


def label(folder: Path, pairs: object, file: str = "dataset.json") -> Path:
    """Writes labels beside images."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps({"labels": pairs}))
    return folder


def names(count: int = 24, prefix: str = "00000/") -> list[str]:
    return [f"{prefix}img{i:04d}.png" for i in range(count)]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_dataset(path)
    return str(caught.value)


def zipped(path: Path, members: dict[bytes, bytes], pairs: list, file: str = "dataset.json") -> Path:
    """Packs files into a zip whose names are these bytes, without a word about their encoding."""
    placeholders = {str(i).rjust(len(name), "~").encode(): name for i, name in enumerate(members)}
    with zipfile.ZipFile(path, "w") as archive:
        for placeholder, name in placeholders.items():
            archive.writestr(placeholder.decode(), members[name])
        archive.writestr(file, json.dumps({"labels": pairs}))
    content = path.read_bytes()
    for placeholder, name in placeholders.items():
        assert content.count(placeholder) == 2
        content = content.replace(placeholder, name)
    path.write_bytes(content)
    return path


def values(dataset: ImageDataset) -> list[int]:
    """The data's own class of each image."""
    assert dataset.labels is not None
    return [dataset.classes[i] for i in dataset.labels]


def test_labels_come_from_dataset_json(labelled: Path) -> None:
    dataset = open_dataset(labelled)
    assert (dataset.num_classes, dataset.classes) == (2, (0, 1))
    assert dataset.labels is not None and dataset.labels.dtype == np.int64
    np.testing.assert_array_equal(dataset.labels, np.arange(24) % 2)
    assert "Labels of 2 classes were read from dataset.json." in dataset.report


@pytest.mark.parametrize("text", ['{"labels": null}', "{}"])
def test_dataset_json_may_give_no_labels(images: Path, text: str) -> None:
    (images / "dataset.json").write_text(text)
    dataset = open_dataset(images)
    assert (dataset.labels, dataset.num_classes, dataset.classes) == (None, 0, ())


def test_classes_are_those_that_occur(images: Path) -> None:
    own = [101, 2_000_000_000, 100, 10**30]
    dataset = open_dataset(label(images, [[name, own[i % 4]] for i, name in enumerate(names())]))
    assert dataset.classes == (100, 101, 2_000_000_000, 10**30) and dataset.num_classes == 4
    assert dataset.labels is not None and dataset.labels[:4].tolist() == [1, 2, 0, 3]
    half = dataset.subset(np.arange(24)[::4])
    assert half.classes == dataset.classes and values(half) == [101] * 6


@pytest.mark.parametrize("prefix", ["00000\\", "./00000/", "00000//", "/00000/./", "x/../00000/"])
def test_spellings_of_a_path_are_one_name(images: Path, prefix: str) -> None:
    dataset = open_dataset(label(images, [[name, i] for i, name in enumerate(names(prefix=prefix))]))
    assert values(dataset) == list(range(24))


@pytest.mark.parametrize(("stored", "named"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_forms_of_unicode_are_one_name(tmp_path: Path, stored: str, named: str) -> None:
    folder = write_images(tmp_path / "a", count=8)
    pairs = []
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        name = f"Ä{i}한.png"
        path.rename(folder / unicodedata.normalize(stored, name))
        pairs.append([unicodedata.normalize(named, name), i])
    assert values(open_dataset(label(folder, pairs))) == list(range(8))


@pytest.mark.parametrize(
    ("encoding", "word"),
    [
        ("utf-8", "größe"),
        ("cp437", "größe"),
        ("gbk", "图片"),
        # Half of each of these characters is a backslash.
        ("shift_jis", "ソ表"),
        ("euc_kr", "사진"),
        ("cp1251", "Фото"),
        ("cp866", "Фото"),
        ("latin-1", "größe"),
    ],
)
def test_names_of_an_unknown_encoding_are_found_by_their_labels(tmp_path: Path, encoding: str, word: str) -> None:
    folder = write_images(tmp_path / "a", count=9)
    paths = sorted(folder.rglob("*.png"))
    members = {f"{word}/{word}{i}.png".encode(encoding): paths[i].read_bytes() for i in range(8)}
    members[f"{word}.png".encode(encoding)] = paths[8].read_bytes()
    pairs = [[f"{word}/{word}{i}.png", i] for i in range(8)] + [[f"{word}.png", 8]]
    dataset = open_dataset(zipped(tmp_path / "b.zip", members, pairs))
    by_pixels = {image.tobytes(): i for i, image in enumerate(open_dataset(folder))}
    assert [by_pixels[dataset[i].tobytes()] for i in range(9)] == values(dataset)
    assert sorted(values(dataset)) == list(range(9))


def test_unknown_names_without_labels_hide_nothing(tmp_path: Path) -> None:
    paths = sorted(write_images(tmp_path / "a", count=9).rglob("*.png"))
    members = {f"{'ソ' * (i + 1)}.png".encode("shift_jis"): path.read_bytes() for i, path in enumerate(paths)}
    assert len(open_dataset(zipped(tmp_path / "b.zip", members, [], file="other.json"))) == 9


def test_names_of_files_may_be_of_an_unknown_encoding(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", count=8)
    pairs = []
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        os.rename(path, os.fsencode(folder) + f"/图{i}.png".encode("gbk"))
        pairs.append([f"图{i}.png", i])
    assert values(open_dataset(label(folder, pairs))) == list(range(8))


@pytest.mark.parametrize("prefix", ["00000/", "photos/00000/"])
def test_a_zipped_folder_keeps_its_labels(tmp_path: Path, prefix: str) -> None:
    photos = write_images(tmp_path / "outer/photos", count=12)
    label(photos, [[name, i % 3] for i, name in enumerate(names(12, prefix))])
    whole = zip_folder(tmp_path / "outer", tmp_path / "whole.zip")
    assert values(open_dataset(whole)) == [0, 1, 2] * 4


def test_names_that_repeat_their_folder_are_distinguished(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "outer/a/a", count=12)
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        path.rename(tmp_path / "outer/a" / ("a" if i % 2 else ".") / f"{i // 2}.png")
    label(tmp_path / "outer/a", [[f"a/{i}.png", 1] for i in range(6)] + [[f"{i}.png", 0] for i in range(6)])
    assert values(open_dataset(tmp_path / "outer")) == [0] * 6 + [1] * 6


def test_several_files_of_labels_are_refused(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", labels=[0, 1] * 12)
    label(folder, [[name, 1] for name in names(prefix="")], "00000/dataset.json")
    assert "keep one of" in refusal(folder)
    assert "00000/dataset.json" in refusal(folder) and " dataset.json" in refusal(folder)
    assert "keep one of" in refusal(zip_folder(folder, tmp_path / "a.zip"))
    (folder / "dataset.json").unlink()
    assert values(open_dataset(folder)) == [1] * 24


def test_labels_away_from_images_are_reported(images: Path) -> None:
    label(images, [[name, 1] for name in names()], "notes/dataset.json")
    dataset = open_dataset(images)
    assert dataset.labels is None
    assert any("as there are no images in its folder (notes/dataset.json)" in s for s in dataset.report)


def test_repeated_and_absent_entries_are_reported(images: Path) -> None:
    pairs = [[name, i % 2] for i, name in enumerate(names())]
    dataset = open_dataset(label(images, [*pairs, ["./00000/img0003.png", 1], ["b.png", 7], ["c.png", 8]]))
    assert dataset.classes == (0, 1)
    assert "1 of its entries repeats what another one says." in dataset.report
    assert "2 of its entries are for images that are not there (first: b.png)." in dataset.report


def test_two_labels_for_one_image_are_refused(images: Path) -> None:
    pairs = [[name, 0] for name in names()]
    message = refusal(label(images, [*pairs, [".\\00000\\img0003.png", 5]]))
    assert "gives 00000/img0003.png two labels, 0 and 5" in message
    (images / "dataset.json").write_text('{"labels": [["a", 1]], "labels": null}')
    assert '"labels" occurs twice' in refusal(images)


def test_both_forms_of_a_name_are_for_one_image(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "outer/photos", count=12)
    pairs = [[name, 1] for name in names(12)]
    dataset = open_dataset(label(photos, [*pairs, ["photos/00000/img0003.png", 1]]).parent)
    assert "1 of its entries repeats what another one says." in dataset.report
    message = refusal(label(photos, [*pairs, ["photos/00000/img0003.png", 5]]).parent)
    assert "gives photos/00000/img0003.png two labels, 1 and 5" in message


def test_names_that_can_be_read_in_two_ways_are_refused(tmp_path: Path) -> None:
    content = next(write_images(tmp_path / "a").rglob("*.png")).read_bytes()
    members = {bytes([letter]) + b".png": content for letter in range(0xC0, 0x100)}
    pairs = [[name.decode("koi8_r"), i] for i, name in enumerate(members)]
    assert "fits the names of the images in two ways" in refusal(zipped(tmp_path / "b.zip", members, pairs))


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a")
    path = folder / "00000/img0000.png"
    for form in ("NFC", "NFD"):
        (folder / unicodedata.normalize(form, "ü.png")).write_bytes(path.read_bytes())
    assert "holds two images named ü.png" in refusal(folder)
    archive = zip_folder(write_images(tmp_path / "b"), tmp_path / "b.zip")
    with zipfile.ZipFile(archive, "a") as z:
        z.write(path, ".//00000\\img0000.png")
    assert "holds two images named 00000/img0000.png" in refusal(archive)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([["00000/img0000.png", 1]], r"no label for 00000/img0001.png \(23 of 24"),
        *(
            ([[name, value] for name in names()], f"00000/img0000.png the label {found}, but labels must be integers")
            for value, found in (
                (0.5, "0.5"),
                (-1, "-1"),
                (True, "True"),
                (None, "None"),
                ("1", "'1'"),
                ([1], r"\[1\]"),
            )
        ),
        ("abc", "is not of the form"),
        ([1, 2], "is not of the form"),
        ([[1, 2]], "1 is not a file name"),
        ([["a.png", 1, 2]], "is not of the form"),
        ({"a.png": 1}, "is not of the form"),
    ],
)
def test_wrong_labels_are_reported(images: Path, labels: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_dataset(label(images, labels))


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\0\xff", '{"labels": [["a", 1' + "0" * 5000 + "]]}"])
def test_broken_json_is_reported(images: Path, text: str) -> None:
    (images / "dataset.json").write_bytes(text.encode("latin-1"))
    assert "is not of the form" in refusal(images)


def test_a_file_of_labels_that_is_no_file_is_refused(images: Path) -> None:
    (images / "dataset.json").symlink_to("nowhere")
    assert "dataset.json in" in refusal(images) and "not a file" in refusal(images)
