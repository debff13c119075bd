# SPDX-License-Identifier: Apache-2.0
"""Data sets and the stream of batches."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hsr.data import ImageDataset, one_hot, open_dataset, to_float
from hsr.errors import UserError

from .conftest import write_images, zip_folder


def pixels(dataset: ImageDataset) -> np.ndarray:
    return np.stack([dataset[i] for i in range(len(dataset))])


def test_digits_cover_the_value_range() -> None:
    digits = open_dataset()
    values = pixels(digits)
    assert values.shape == (1797, 3, 32, 32) and values.dtype == np.uint8
    assert (values.min(), values.max()) == (0, 255)
    assert (values[:, 0] == values[:, 1]).all() and (values[:, 0] == values[:, 2]).all()
    assert digits.labels is not None and set(digits.labels) == set(range(10))
    assert (digits.name, digits.resolution, digits.channels, digits.num_classes) == ("digits", 32, 3, 10)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".PNG"])
def test_folder_and_zip_hold_the_same_images(tmp_path: Path, suffix: str) -> None:
    folder = write_images(tmp_path / "a", suffix=suffix)
    from_folder, from_zip = open_dataset(folder), open_dataset(zip_folder(folder, tmp_path / "b.zip"))
    assert len(from_folder) == 24 and from_folder.resolution == 16
    assert (from_folder.name, from_zip.name) == ("a", "b")
    np.testing.assert_array_equal(pixels(from_folder), pixels(from_zip))
    expected = np.asarray(Image.open(folder / f"00000/img0003{suffix}").convert("RGB"))
    np.testing.assert_array_equal(from_folder[3], expected.transpose(2, 0, 1))


def test_streaming_gives_the_same_pixels_as_memory(images: Path) -> None:
    held, streamed = open_dataset(images, in_memory=True), open_dataset(images, in_memory=False)
    np.testing.assert_array_equal(pixels(held), pixels(streamed))
    assert held.fingerprint() == streamed.fingerprint()


def test_gray_alpha_palette_and_16_bit_become_rgb(images: Path) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(gray).save(images / "00000/img0000.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(images / "00000/img0001.png")
    Image.fromarray(np.stack([gray] * 3 + [255 - gray], -1)).save(images / "00000/img0002.png")
    Image.fromarray(gray).convert("P").save(images / "00000/img0003.png")
    dataset = open_dataset(images)
    for i in range(4):
        np.testing.assert_array_equal(dataset[i], np.repeat(gray[None], 3, axis=0))


def test_hidden_files_and_other_files_are_ignored(images: Path) -> None:
    (images / "__MACOSX").mkdir()
    (images / "__MACOSX" / "img.png").write_bytes(b"junk")
    (images / "._img.png").write_bytes(b"junk")
    (images / "notes.txt").write_text("hello")
    assert len(open_dataset(images)) == 24


def test_labels_come_from_dataset_json(labelled: Path) -> None:
    dataset = open_dataset(labelled)
    assert dataset.num_classes == 2
    np.testing.assert_array_equal(dataset.labels, np.arange(24) % 2)


@pytest.mark.parametrize("text", ['{"labels": null}', "{}"])
def test_dataset_json_may_give_no_labels(images: Path, text: str) -> None:
    (images / "dataset.json").write_text(text)
    dataset = open_dataset(images)
    assert dataset.labels is None and dataset.num_classes == 0


def test_wrong_data_is_told_in_a_sentence(tmp_path: Path, images: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(UserError) as caught:
            open_dataset(path)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    assert "does not exist" in message(tmp_path / "nowhere")
    assert "holds no PNG, JPEG or WebP images" in message(tmp_path / "empty")
    assert "neither a folder nor a readable zip" in message(tmp_path / "text.zip")
    assert "at least 8" in message(write_images(tmp_path / "few", count=3))
    assert "24x24" in message(write_images(tmp_path / "odd", size=24))
    assert "power of two" in message(write_images(tmp_path / "tiny", size=4))

    Image.new("RGB", (16, 8)).save(images / "00000/aaa.png")
    assert "aaa.png" in message(images) and "16x8" in message(images) and "square" in message(images)
    Image.new("RGB", (32, 32)).save(images / "00000/aaa.png")
    assert "differ in size" in message(images) and "img0000.png is 16x16" in message(images)


@pytest.mark.parametrize("in_memory", [True, False])
def test_sizes_are_compared_however_images_are_held(images: Path, in_memory: bool) -> None:
    Image.new("RGB", (32, 32)).save(images / "00000/img0007.png")
    with pytest.raises(UserError, match=r"img0000\.png is 16x16, 00000/img0007\.png is 32x32"):
        open_dataset(images, in_memory=in_memory)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([["00000/img0000.png", 1]], "no label for 00000/img0001.png"),
        ([[f"00000/img{i:04d}.png", 0.5] for i in range(24)], "integers"),
        ([[f"00000/img{i:04d}.png", -1] for i in range(24)], "integers"),
        ("abc", "is not of the form"),
        ([1, 2], "is not of the form"),
    ],
)
def test_wrong_labels_are_told(images: Path, labels: object, words: str) -> None:
    (images / "dataset.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(UserError, match=words):
        open_dataset(images)


def test_broken_json_is_told(images: Path) -> None:
    (images / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="is not of the form"):
        open_dataset(images)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def test_an_unreadable_image_is_named_when_opened(images: Path) -> None:
    truncate(images / "00000/img0005.png")
    with pytest.raises(UserError, match=r"00000/img0005\.png in .* cannot be read as an image"):
        open_dataset(images)
    (images / "00000/img0005.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"00000/img0005\.png in .* cannot be read as an image"):
        open_dataset(images, in_memory=False)


def test_split_is_disjoint_complete_and_reproducible() -> None:
    digits = open_dataset()
    train, held_out = digits.split(0.2, 1000)
    assert (len(train), len(held_out)) == (1438, 359)
    assert sorted([*train.indices, *held_out.indices]) == list(range(1797))
    assert digits.labels is not None and held_out.labels is not None
    np.testing.assert_array_equal(held_out.labels, digits.labels[held_out.indices])
    assert digits.split(0.2, 1000)[0].fingerprint() == train.fingerprint()
    assert len(digits.split(0.2, 100)[1]) == 100
    assert len(digits.split(0.0, 100)[1]) == 2


def test_fingerprint_tells_content_labels_and_subsets_apart(tmp_path: Path) -> None:
    prints = []
    for name, labels in (("a", None), ("b", [0] * 24), ("c", [1] * 24)):
        dataset = open_dataset(write_images(tmp_path / name, labels=labels))
        prints += [dataset.fingerprint(), dataset.split(0.5, 12)[0].fingerprint()]
    assert len(set(prints)) == len(prints)
    copy = open_dataset(write_images(tmp_path / "copy"))
    assert copy.fingerprint() == prints[0]
    Image.new("RGB", (16, 16)).save(tmp_path / "copy/00000/img0000.png")
    assert open_dataset(tmp_path / "copy").fingerprint() != prints[0]


def test_a_zip_is_read_from_spawned_and_forked_processes(images: Path, tmp_path: Path) -> None:
    dataset = open_dataset(zip_folder(images, tmp_path / "images.zip"), in_memory=False)
    expected = pixels(dataset)
    np.testing.assert_array_equal(pixels(pickle.loads(pickle.dumps(dataset))), expected)

    pid = os.fork()
    if pid == 0:  # The child reads at the same time as its parent, whose file is open already.
        os._exit(0 if all((pixels(dataset) == expected).all() for _ in range(20)) else 1)
    assert all((pixels(dataset) == expected).all() for _ in range(20))
    assert os.waitpid(pid, 0)[1] == 0


def test_pixels_and_classes_become_network_inputs() -> None:
    values = to_float(torch.tensor([0, 255], dtype=torch.uint8))
    assert values.tolist() == [-1, 1] and values.dtype == torch.float32
    assert one_hot(torch.tensor([1]), 3).tolist() == [[0, 1, 0]]  # type: ignore[union-attr]
    assert one_hot(torch.tensor([1]), 0) is None
