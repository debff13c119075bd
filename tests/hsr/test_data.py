# SPDX-License-Identifier: Apache-2.0
"""Data sets are opened whole: what is read, ignored, refused, identified and kept for the next time."""

import errno
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hsr.data.scan
from hsr.data import ImageDataset, one_hot, open_dataset, to_float
from hsr.errors import UserError

from .conftest import write_images, zip_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; what is found in data sets lies in its hsr/datasets."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels(dataset: ImageDataset) -> np.ndarray:
    return np.stack([dataset[i] for i in range(len(dataset))])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def refusal(path: str | Path, **options: bool) -> str:
    with pytest.raises(UserError) as caught:
        open_dataset(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_digits_cover_the_value_range() -> None:
    digits = open_dataset()
    values = pixels(digits)
    assert values.shape == (1797, 3, 32, 32) and values.dtype == np.uint8
    assert (values.min(), values.max()) == (0, 255)
    assert (values[:, 0] == values[:, 1]).all() and (values[:, 0] == values[:, 2]).all()
    assert digits.labels is not None and set(digits.labels) == set(range(10))
    assert (digits.name, digits.resolution, digits.channels, digits.num_classes) == ("digits", 32, 3, 10)
    assert digits.classes == tuple(range(10))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jfif", ".webp", ".bmp", ".tiff", ".gif", ".ppm", ".tga", ".PNG"])
def test_folder_and_zip_hold_the_same_images(tmp_path: Path, suffix: str) -> None:
    folder = write_images(tmp_path / "a", suffix=suffix)
    from_folder, from_zip = open_dataset(folder), open_dataset(zip_folder(folder, tmp_path / "b.zip"))
    assert len(from_folder) == 24 and from_folder.resolution == 16
    assert (from_folder.name, from_zip.name) == ("a", "b")
    np.testing.assert_array_equal(pixels(from_folder), pixels(from_zip))
    expected = np.asarray(Image.open(folder / f"00000/img0003{suffix}").convert("RGB"))
    np.testing.assert_array_equal(from_folder[3], expected.transpose(2, 0, 1))


def test_the_report_says_what_was_read(images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(images / "a.jpg")
    assert open_dataset(images).report == (f"25 images of 16x16 pixels (24 PNG, 1 JPEG) were read from {images}.",)
    archive = zip_folder(images, tmp_path / "a.zip")
    assert open_dataset(archive).report == (f"25 images of 16x16 pixels (24 PNG, 1 JPEG) were read from {archive}.",)


def test_the_report_says_what_is_ignored_and_why(images: Path, tmp_path: Path) -> None:
    (images / "__MACOSX/.deep").mkdir(parents=True)
    for name in ("__MACOSX/img.png", "__MACOSX/.deep/a.png", "._img.png", "a.HEIC", "b.heic", "notes.txt", "README"):
        (images / name).write_bytes(b"junk")
    sentences = {
        "2 hidden or system files or folders were ignored (first: ._img.png).",
        "4 other files (2 .heic, 1 .txt, 1 without a suffix) were ignored.",
    }
    archive = open_dataset(zip_folder(images, tmp_path / "a.zip"))
    assert sentences == set(archive.report[1:])

    os.mkfifo(images / "pipe.png")
    (images / "gone.png").symlink_to("nowhere")
    (images / "round").symlink_to(images)
    dataset = open_dataset(images)
    sentences |= {
        "1 link that leads nowhere was ignored (gone.png).",
        "1 link to a folder around it was ignored (round).",
        "1 device, pipe or socket was ignored (pipe.png).",
    }
    assert sentences == set(dataset.report[1:]) and len(dataset) == 24


def test_links_are_followed(tmp_path: Path) -> None:
    elsewhere = write_images(tmp_path / "elsewhere")
    (elsewhere / "back").symlink_to(tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a").symlink_to(elsewhere)
    (tmp_path / "set/b.png").symlink_to(elsewhere / "00000/img0000.png")
    assert len(open_dataset(tmp_path / "set")) >= 25
    (elsewhere / "back").unlink()
    assert len(open_dataset(tmp_path / "set")) == 25


def test_links_in_a_zip_are_reported(images: Path, tmp_path: Path) -> None:
    archive = zip_folder(images, tmp_path / "a.zip")
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as z:
        z.writestr(link, "00000/img0000.png")
    assert "1 link inside the zip was ignored (link.png)." in open_dataset(archive).report


def test_names_are_shown_on_one_line(images: Path) -> None:
    (images / "00000/img0000.png").rename(os.fsdecode(bytes(images) + b"/a\n\xff.png"))
    truncate(Path(os.fsdecode(bytes(images) + b"/a\n\xff.png")))
    assert refusal(images).startswith(r"a\n\udcff.png in ")


def test_a_path_that_is_no_data_set_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "data.json").write_text("{}")
    Image.new("RGB", (16, 16)).save(tmp_path / "one.png")
    os.mkfifo(tmp_path / "pipe")
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "holds no images that can be read" in refusal(tmp_path / "empty")
    assert "neither a folder nor a readable zip" in refusal(tmp_path / "text.zip")
    assert "neither a folder nor a readable zip" in refusal(tmp_path / "data.json")
    assert "is a single image" in refusal(tmp_path / "one.png")
    for path in (tmp_path / "pipe", "/dev/null", "/dev/zero"):
        assert "neither a folder nor a file" in refusal(path)
    for path in ("x" * 5000, "a\0b", tmp_path / "one.png/inside"):
        assert "cannot be opened" in refusal(path)
    (tmp_path / "empty/a.heic").touch()
    assert "1 other file (1 .heic) was found" in refusal(tmp_path / "empty")

    def denied(path: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "scandir", denied)
    assert "empty cannot be read as a folder (Permission denied)" in refusal(tmp_path / "empty")


def test_images_of_no_use_are_reported(tmp_path: Path, images: Path) -> None:
    assert "holds 3 images, but training needs at least 8" in refusal(write_images(tmp_path / "few", count=3))
    assert "24x24" in refusal(write_images(tmp_path / "odd", size=24))
    assert "power of two" in refusal(write_images(tmp_path / "tiny", size=4))
    Image.new("RGB", (16, 8)).save(images / "00000/aaa.png")
    assert "aaa.png" in refusal(images) and "16x8" in refusal(images) and "square" in refusal(images)
    Image.new("RGB", (32, 32)).save(images / "00000/aaa.png")
    assert "differ in size" in refusal(images) and "img0000.png is 16x16" in refusal(images)


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_first_image_of_another_size_is_named(images: Path, in_memory: bool) -> None:
    for i in (7, 8, 20):
        Image.new("RGB", (32, 32)).save(images / f"00000/img{i:04}.png")
    expected = r"img0000.png is 16x16, 00000/img0007.png is 32x32"
    assert expected in refusal(images, in_memory=in_memory)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_damaged_image_is_named_when_opened(images: Path, in_memory: bool) -> None:
    path = images / "00000/img0005.png"
    # Any bytes may look like a TGA, so it's none under this name.
    Image.open(path).save(images / "image.tga")
    tga = (images / "image.tga").read_bytes()
    for content in (path.read_bytes()[:-200], b"nothing", b"", path.read_bytes()[:40], tga):
        path.write_bytes(content)
        message = refusal(images, in_memory=in_memory)
        assert message.startswith("00000/img0005.png in ") and "cannot be read as an image" in message


def test_huge_files_are_refused_before_they_fill_the_memory(images: Path, tmp_path: Path) -> None:
    with (images / "00000/img0005.png").open("r+b") as file:
        file.truncate(2**40)
    assert "00000/img0005.png" in refusal(images) and "1024.0 GiB" in refusal(images)
    header = b"P6 16384 16384 255\n"
    archive = zip_folder(write_images(tmp_path / "a"), tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as z:
        z.writestr("00000/aaa.ppm", header)
    assert "00000/aaa.ppm" in refusal(archive) and "exceeds limit" in refusal(archive)


def damaged_zips(tmp_path: Path) -> dict[str, Path]:
    """Zips in which 00000/img0005.png can't be read, one for each way."""
    folder = write_images(tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder).as_posix())
    zips = {"deflated": tmp_path / "deflated.zip", "stored": zip_folder(folder, tmp_path / "stored.zip")}
    for name, path in list(zips.items()):
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("00000/img0005.png")
        start = info.header_offset + 30 + len(info.filename)
        directory = path.read_bytes().rindex(b"00000/img0005.png") - 46
        for change, place, value in (
            ("bits", start + info.compress_size // 2, None),
            ("encrypted", directory + 8, 1),
            ("unknown compression", directory + 10, 97),
            ("wrong offset", directory + 42, 99),
        ):
            content = bytearray(path.read_bytes())
            content[place] = content[place] ^ 0xFF if value is None else value
            zips[f"{name}, {change}"] = tmp_path / f"{name} {change}.zip"
            zips[f"{name}, {change}"].write_bytes(content)
    return zips


def test_damage_in_a_zip_is_named_when_opened(tmp_path: Path) -> None:
    zips = damaged_zips(tmp_path)
    assert len(open_dataset(zips.pop("stored"))) == len(open_dataset(zips.pop("deflated"))) == 24
    for change, path in zips.items():
        message = refusal(path)
        assert message.startswith("00000/img0005.png in ") and "cannot be read as an image" in message, change
        path.write_bytes(path.read_bytes()[:-30])
        assert "nor a readable zip file" in refusal(path)


def test_an_image_that_changes_later_is_named(images: Path) -> None:
    dataset = open_dataset(images, in_memory=False)
    Image.new("RGB", (32, 32)).save(images / "00000/img0005.png")
    with pytest.raises(UserError, match=r"00000/img0005\.png is 32x32"):
        dataset[5]


def test_long_reading_shows_its_progress(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_dataset(images)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("hsr.console.SECONDS_PER_LINE", 0.0)
    open_dataset(images)
    assert "Reading images: 23 of 24" in capsys.readouterr().out


def test_an_interruption_passes(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(image: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hsr.data.store.decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_dataset(images)


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_split_is_disjoint_and_complete_for_every_size(fraction: float) -> None:
    digits = open_dataset()
    for count in range(1, 12):
        train, held_out = digits.subset(np.arange(count)).split(fraction, 1000)
        assert len(train) >= 1 and len(held_out) >= min(2, count - 1)
        assert sorted([*train.indices, *held_out.indices]) == list(range(count))


def test_split_is_reproducible() -> None:
    digits = open_dataset()
    train, held_out = digits.split(0.2, 1000)
    assert (len(train), len(held_out)) == (1438, 359)
    assert digits.labels is not None and held_out.labels is not None
    np.testing.assert_array_equal(held_out.labels, digits.labels[held_out.indices])
    assert digits.split(0.2, 1000)[0].fingerprint() == train.fingerprint()
    assert len(digits.split(0.2, 100)[1]) == 100
    assert len(digits.split(0.0, 100)[1]) == 2


def test_identity_follows_pixels_and_classes_alone(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "outer/a", labels=[i % 2 for i in range(24)])
    fingerprint = open_dataset(folder).fingerprint()
    with zipfile.ZipFile(tmp_path / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, "./" + path.relative_to(folder).as_posix())
    stored, whole = zip_folder(folder, tmp_path / "b.zip"), zip_folder(tmp_path / "outer", tmp_path / "whole.zip")
    for path in (tmp_path / "deflated.zip", stored, whole):
        assert open_dataset(path).fingerprint() == open_dataset(path, in_memory=False).fingerprint() == fingerprint

    # The same pixels under other names and in another format.
    for path in (folder / "00000").iterdir():
        Image.open(path).save(path.with_name(f"new-{path.stem}.tif"))
        path.unlink()
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    renamed = [[f"00000/new-{Path(name).stem}.tif", label] for name, label in labels]
    (folder / "dataset.json").write_text(json.dumps({"labels": renamed}))
    assert open_dataset(folder).fingerprint() == fingerprint

    others = [[[name, label + 1] for name, label in renamed], [*renamed[:-1], [renamed[-1][0], 0]], None]
    prints = {fingerprint, open_dataset(folder).split(0.5, 12)[0].fingerprint()}
    for labels in others:
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
        prints.add(open_dataset(folder).fingerprint())
    image = np.array(Image.open(folder / "00000/new-img0007.tif"))
    image[3, 3, 1] ^= 1
    Image.fromarray(image).save(folder / "00000/new-img0007.tif")
    prints.add(open_dataset(folder).fingerprint())
    assert len(prints) == 6


@pytest.mark.parametrize("container", ["folder", "zip"])
def test_an_unchanged_set_is_decoded_once(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, cache: Path
) -> None:
    path = labelled if container == "folder" else zip_folder(labelled, tmp_path / "a.zip")
    decoded: list[int] = []
    decode = hsr.data.scan._decode
    monkeypatch.setattr("hsr.data.scan._decode", lambda files, i: decoded.append(i) or decode(files, i))

    def count() -> int:
        decoded.clear()
        opened = open_dataset(path, in_memory=False)
        assert (opened.identity, opened.report[1:]) == (expected.identity, expected.report[1:])
        return len(decoded)

    expected = open_dataset(path)
    assert not (cache / "hsr").exists()
    assert [count(), count()] == [24, 0]
    found = next((cache / "hsr/datasets").iterdir())
    whole = json.loads(found.read_bytes())
    short = json.dumps(whole | {"digests": whole["digests"][1:]}).encode()
    for content in (b"", b"{}", b"[]", b"\xff", found.read_bytes()[:-40], short):
        found.write_bytes(content)
        assert count() == 24
    touched = path if path.is_file() else path / "00000/img0000.png"
    os.utime(touched, ns=(0, touched.stat().st_mtime_ns + 1))
    assert [count(), count()] == [24, 0]


def test_a_set_opens_without_a_cache(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", "/dev/null", "/proc/none"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        assert len(open_dataset(images, in_memory=False)) == 24
        with monkeypatch.context() as patch:
            patch.setattr("hsr.data.opening.MEMORY_LIMIT", 0)
            assert len(open_dataset(images)) == 24


def test_streaming_gives_the_same_pixels_as_memory(images: Path) -> None:
    held, streamed = open_dataset(images, in_memory=True), open_dataset(images, in_memory=False)
    np.testing.assert_array_equal(pixels(held), pixels(streamed))
    assert held.fingerprint() == streamed.fingerprint()


def test_a_zip_is_read_from_spawned_and_forked_processes(images: Path, tmp_path: Path) -> None:
    dataset = open_dataset(zip_folder(images, tmp_path / "images.zip"), in_memory=False)
    expected = pixels(dataset)
    np.testing.assert_array_equal(pixels(pickle.loads(pickle.dumps(dataset))), expected)

    pid = os.fork()
    # The child reads at the same time as its parent, whose file is open already.
    if pid == 0:
        os._exit(0 if all((pixels(dataset) == expected).all() for _ in range(20)) else 1)
    assert all((pixels(dataset) == expected).all() for _ in range(20))
    assert os.waitpid(pid, 0)[1] == 0


def test_pixels_and_classes_become_network_inputs() -> None:
    values = to_float(torch.tensor([0, 255], dtype=torch.uint8))
    assert values.tolist() == [-1, 1] and values.dtype == torch.float32
    assert one_hot(torch.tensor([1]), 3).tolist() == [[0, 1, 0]]  # type: ignore[union-attr]
    assert one_hot(torch.tensor([1]), 0) is None
