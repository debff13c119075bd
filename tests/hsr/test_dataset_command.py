# SPDX-License-Identifier: Apache-2.0
"""`hsr dataset`: images of any kind become square PNGs of one size, in StyleGAN's layout, after any interruption."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hsr.data import open_dataset
from hsr.preparation import picture
from hsr.preparation.journal import Journal

from .conftest import write_images, zip_folder
from .test_data_pixels import SWAPPED

Command = Callable[..., int]


def read_set(path: Path) -> tuple[dict, list[np.ndarray]]:
    """Returns dataset.json and the images, in the order of their names, of a zip or folder."""
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*.*")}
    else:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
            assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    contents = json.loads(files.pop("dataset.json"))
    assert sorted(files) == [f"00000/img{i:08d}.png" for i in range(len(files))]
    return contents, [np.asarray(Image.open(io.BytesIO(files[name]))) for name in sorted(files)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photographs of three sizes, in folders of classes."""
    rng = np.random.default_rng(0)
    for i, (name, size) in enumerate([("cat", (40, 30)), ("dog", (30, 40)), ("owl", (33, 21))] * 4):
        path = tmp_path / f"photos/{name}/{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def sentence(hsr: Command, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail, and returns the one sentence that it prints."""

    def run(*arguments: object) -> str:
        capfd.readouterr()
        assert hsr("dataset", *arguments) == 2
        error = capfd.readouterr().err
        assert error.startswith("hsr: ") and error.endswith(".\n") and error.count("\n") == 1, error
        return error

    return run


@pytest.mark.parametrize("name", ["lanczos", "box"])
def test_images_are_cropped_and_then_resized(hsr: Command, photos: Path, name: str) -> None:
    assert hsr("dataset", photos, "out.zip", "--resize", 16, "--filter", name) == 0
    contents, images = read_set(Path("out.zip"))
    assert contents["labels"] is None and contents["preparation"]["settings"]["filter"] == name
    for path, image in zip(sorted(photos.rglob("*.png")), images, strict=True):
        original = Image.open(path)
        side = min(original.size)
        left, top = (original.width - side) // 2, (original.height - side) // 2
        square = original.crop((left, top, left + side, top + side))
        expected = square.resize((16, 16), Image.Resampling[name.upper()])
        np.testing.assert_array_equal(image, expected)
    dataset = open_dataset("out.zip")
    assert (len(dataset), dataset.resolution, dataset.classes) == (12, 16, ())


def test_padding_has_its_colour_and_nothing_is_cut(hsr: Command, photos: Path, capsys: pytest.CaptureFixture) -> None:
    assert hsr("dataset", photos, "out", "--size", 48, "--fit", "pad", "--padding", "#ff0000") == 0
    for path, image in zip(sorted(photos.rglob("*.png")), read_set(Path("out"))[1], strict=True):
        original = Image.open(path)
        scale = 48 / max(original.size)
        shown = round(original.width * scale), round(original.height * scale)
        expected = Image.new("RGB", (48, 48), "red")
        corner = (48 - shown[0]) // 2, (48 - shown[1]) // 2
        expected.paste(original.resize(shown, Image.Resampling.LANCZOS), corner)
        np.testing.assert_array_equal(image, expected)
    out = capsys.readouterr().out
    assert "12 images were smaller than that and were enlarged (cat/00.png; " in out
    assert "hsr train cannot use images of 48x48 pixels" in out


def test_every_kind_of_image_is_prepared(hsr: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    ramp = Image.fromarray(np.linspace(0, 255, 32 * 32, dtype=np.uint8).reshape(32, 32))
    colours = Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.ROTATE_90), ramp))
    turned = Image.Exif()
    turned[0x0112] = 6
    ramp.save(folder / "gray.png")
    colours.quantize(16).save(folder / "palette.gif")
    colours.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(65535 - np.asarray(ramp).astype(np.uint16) * 257).save(folder / "sixteen.png")
    colours.crop((0, 0, 32, 16)).save(folder / "turned.jpg", exif=turned, quality=100, subsampling=0)
    colours.save(folder / "profile.png", icc_profile=SWAPPED)
    clear = colours.copy()
    clear.putalpha(Image.fromarray(np.where(np.arange(32) < 16, 0, 255).astype(np.uint8)[None].repeat(32, 0)))
    clear.save(folder / "clear.png")
    assert hsr("dataset", folder, "out.zip", "--resize", 16, "--transparency", "blue", "--filter", "box") == 0
    names = sorted(path.name for path in folder.iterdir())
    images = dict(zip(names, read_set(Path("out.zip"))[1], strict=True))
    small = np.asarray(colours.resize((16, 16), Image.Resampling.BOX))
    assert (images["clear.png"][:, :8] == [0, 0, 255]).all()
    np.testing.assert_array_equal(images["clear.png"][:, 8:], small[:, 8:])
    np.testing.assert_allclose(images["sixteen.png"].astype(int), 255 - images["gray.png"].astype(int), atol=1)
    np.testing.assert_allclose(images["cmyk.jpg"].astype(int), small.astype(int), atol=30)
    # Colours are converted once, so what is written has no profile any more.
    np.testing.assert_allclose(images["profile.png"].astype(int), small[..., [1, 0, 2]].astype(int), atol=3)
    with zipfile.ZipFile("out.zip") as archive:
        infos = [Image.open(io.BytesIO(archive.read(f"00000/img{i:08d}.png"))).info for i in range(len(names))]
    assert not any("icc_profile" in info for info in infos)
    upright = colours.crop((8, 0, 24, 16)).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_allclose(images["turned.jpg"].astype(int), np.asarray(upright).astype(int), atol=12)
    out = capsys.readouterr().out
    assert "1 image was turned" in out and "laid over blue" in out and "was reduced to 8" in out


def test_what_cannot_be_used_is_named(
    hsr: Command, sentence: Callable[..., str], photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(photos / "cat/00.png", photos / "owl/copy.png")
    (photos / "cat/bad.jpg").write_bytes(b"junk")
    (photos / "dog/cut.png").write_bytes((photos / "dog/01.png").read_bytes()[:900])
    options = [photos, "out.zip", "--resize", 16, "--labels", "from-folders"]
    assert hsr("dataset", *options) == 0
    out = capfd.readouterr().out
    assert "2 files can't be read and were left out (cat/bad.jpg: " in out and "dog/cut.png: " in out
    assert "1 image equals an earlier one and was left out (owl/copy.png equals cat/00.png)." in out
    assert "1 of them has another label" in out
    contents, images = read_set(Path("out.zip"))
    assert len(images) == 12 and len(contents["labels"]) == 12
    assert [name for name, _ in contents["preparation"]["unreadable"]] == ["cat/bad.jpg", "dog/cut.png"]
    assert contents["preparation"]["duplicates"] == [["owl/copy.png", "cat/00.png"]]

    assert hsr("dataset", *options, "--duplicates", "keep") == 0
    assert len(read_set(Path("out.zip"))[1]) == 13
    assert "cat/bad.jpg in " in sentence(photos, "strict.zip", "--resize", 16, "--strict")
    assert not Path("strict.zip").exists()


def test_what_is_refused_is_one_sentence(sentence: Callable[..., str], photos: Path, tmp_path: Path) -> None:
    assert "choose one size, as in --resize 30" in sentence(photos, "out.zip")
    clear = photos / "cat/clear.png"
    Image.new("RGBA", (20, 20), (255, 0, 0, 9)).save(clear)
    assert "cat/clear.png in " in sentence(photos, "o.zip", "--resize", 8, "--transparency", "refuse")
    assert not list(tmp_path.glob("*.part"))
    assert "--padding mauvish is no colour" in sentence(photos, "out.zip", "--padding", "mauvish")
    assert "not opaque" in sentence(photos, "out.zip", "--transparency", "#ff000080")
    assert "does not exist" in sentence(tmp_path / "none", "out.zip")
    assert "is read: choose a folder outside it" in sentence(photos, photos / "out", "--resize", 8)
    packed = zip_folder(photos, tmp_path / "packed.zip")
    content = packed.read_bytes()
    assert "is the data set that is read" in sentence(packed, packed, "--resize", 8)
    assert "no data set that hsr dataset wrote" in sentence(photos, packed, "--resize", 8)
    assert "holds files" in sentence(packed, photos, "--resize", 8)
    assert packed.read_bytes() == content
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"")
    assert "None of the 1 images" in sentence(bad, "out.zip") and not Path("out.zip").exists()
    (tmp_path / "foreign.zip.part").mkdir()
    (tmp_path / "foreign.zip.part/thesis.tex").touch()
    assert "foreign.zip.part is in the way" in sentence(photos, "foreign.zip", "--resize", 8)
    assert (tmp_path / "foreign.zip.part/thesis.tex").exists()


def test_an_image_too_large_to_decode_is_named(
    hsr: Command, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    Image.new("RGB", (101, 100)).save(photos / "bomb.png")
    Image.new("RGB", (90, 90)).save(photos / "warned.png")
    assert hsr("dataset", photos, "out.zip", "--resize", 16) == 0
    printed = capsys.readouterr()
    assert "(bomb.png: it has more than 10,000 pixels" in printed.out and printed.err == ""
    assert len(read_set(Path("out.zip"))[1]) == 13


def test_large_jpegs_are_decoded_small(hsr: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    image = Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp, ramp[::-1]), axis=-1))
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in/a.jpg", quality=98)
    sizes = []
    render = picture.render
    monkeypatch.setattr(picture, "render", lambda image, colour: sizes.append(image.size) or render(image, colour))
    for limit, name in ((2**25, "full"), (1000, "drafted")):
        monkeypatch.setattr(picture, "MAX_SHARED_PIXELS", limit)
        assert hsr("dataset", tmp_path / "in", f"{name}.zip", "--resize", 32) == 0
    assert sizes == [(512, 512), (128, 128)]
    full, drafted = (read_set(Path(f"{name}.zip"))[1][0].astype(int) for name in ("full", "drafted"))
    np.testing.assert_allclose(full, drafted, atol=3)


def test_labels_come_from_folders_or_a_table(
    hsr: Command, sentence: Callable[..., str], photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    words = [name.partition("/")[0] for name in files]
    expected = [{"cat": 0, "dog": 1, "owl": 2}[word] for word in words]
    table = tmp_path / "labels.csv"

    def labels(*options: object, source: Path = photos) -> tuple[list[int], object]:
        assert hsr("dataset", source, "out.zip", "--resize", 8, "--labels", *options) == 0
        contents = read_set(Path("out.zip"))[0]
        return [label for _, label in contents["labels"]], contents.get("class_names")

    # The folder that all images of a zip lie in is no class.
    shutil.copytree(photos, tmp_path / "outer/photos")
    zipped = zip_folder(tmp_path / "outer", tmp_path / "outer.zip")
    for source in (photos, zipped):
        assert labels("from-folders", source=source) == (expected, ["cat", "dog", "owl"])

    # They stay when what was prepared is prepared again.
    assert hsr("dataset", "out.zip", "again.zip", "--resize", 4) == 0
    assert read_set(Path("again.zip"))[0]["class_names"] == ["cat", "dog", "owl"]

    lines = [f'"{name}","{word}"' for name, word in zip(files, words, strict=True)]
    for text in (
        "\ufeff" + "\n".join(lines),
        "\ufefffile,label\r\n" + "\r\n".join(lines) + "\r\n\r\n",
        "index;Label;Filename\n" + "\n".join(f"7;{w};{n}" for n, w in zip(files, words, strict=True)),
    ):
        table.write_bytes(text.encode())
        assert labels(table) == (expected, ["cat", "dog", "owl"])
    assert labels(table, source=zipped) == (expected, ["cat", "dog", "owl"])
    numbers = [f"{name},{10 + label}" for name, label in zip(files, expected, strict=True)]
    table.write_text("\n".join([*numbers, "gone.png,10"]))
    assert labels(table) == ([10 + label for label in expected], None)
    assert "1 of its lines is for an image that is not there (gone.png)." in capfd.readouterr().out
    assert open_dataset("out.zip").classes == (10, 11, 12)

    options = [photos, "new.zip", "--resize", 8, "--labels"]
    table.write_text("\n".join(lines[1:]))
    assert "has no label for cat/00.png" in sentence(*options, table)
    table.write_text("\n".join([*lines, f"{files[0]},owl"]))
    assert "two labels, cat and owl" in sentence(*options, table)
    table.write_text("file,label\na.png,\n")
    assert "Entry 1 of" in sentence(*options, table)
    assert "cannot be read as a table" in sentence(*options, tmp_path / "none.csv")
    shutil.copy(photos / "cat/00.png", photos / "top.png")
    assert "top.png in " in sentence(*options, "from-folders")


def test_labels_of_a_set_stay_with_their_images(hsr: Command, labelled: Path, images: Path) -> None:
    assert hsr("dataset", labelled, "out.zip", "--max-images", 10, "--workers", 0) == 0
    whole, part = open_dataset(labelled), open_dataset("out.zip")
    assert whole.labels is not None and part.labels is not None and len(part) == 10
    by_image = {whole[i].tobytes(): whole.labels[i] for i in range(len(whole))}
    assert [by_image[part[i].tobytes()] for i in range(10)] == part.labels.tolist()
    assert hsr("dataset", labelled, "none.zip", "--labels", "none") == 0
    assert open_dataset("none.zip").labels is None


def test_the_same_bytes_come_from_any_number_of_workers_and_from_a_resumed_run(
    hsr: Command, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "cat/bad.jpg").write_bytes(b"junk")
    options = ["--resize", 16, "--labels", "from-folders"]
    for workers in (0, 1, 2):
        assert hsr("dataset", photos, f"{workers}.zip", *options, "--workers", workers) == 0
    expected = Path("0.zip").read_bytes()
    assert Path("1.zip").read_bytes() == Path("2.zip").read_bytes() == expected

    append = Journal.append
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", lambda *a: append(*a) if len(a[0].records) < 6 else signal.raise_signal(2))
        assert hsr("dataset", photos, "again.zip", *options) == 130
    assert "Stopped after 6 of 13 images" in capsys.readouterr().out and not Path("again.zip").exists()
    # A machine that lost its power may have kept records without their images, or with damaged ones.
    records = [json.loads(line) for line in Path("again.zip.part/records.jsonl").read_bytes().splitlines()]
    content = bytearray(Path("again.zip.part/images").read_bytes()[:-9])
    content[sum(record["bytes"] for record in records[:2])] ^= 1
    Path("again.zip.part/images").write_bytes(content)
    assert hsr("dataset", photos, "again.zip", *options) == 0
    assert "Going on after 2 of 13 images" in capsys.readouterr().out
    assert Path("again.zip").read_bytes() == expected and not Path("again.zip.part").exists()

    # Other settings have no use for what is there.
    Path("again.zip").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", lambda *a: append(*a) if len(a[0].records) < 6 else signal.raise_signal(2))
        assert hsr("dataset", photos, "again.zip", "--resize", 8) == 130
    assert hsr("dataset", photos, "again.zip", *options) == 0
    assert "Going on" not in capsys.readouterr().out and Path("again.zip").read_bytes() == expected

    # What is ready is left as it is.
    time_before = Path("again.zip").stat().st_mtime_ns
    assert hsr("dataset", photos, "again.zip", *options) == 0
    assert Path("again.zip").stat().st_mtime_ns == time_before


def test_a_killed_preparation_goes_on(hsr: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_images(tmp_path / "many", count=200, size=64)
    command = [sys.executable, "-m", "hsr", "dataset", str(source), "killed.zip", "--resize", "32", "--workers", "1"]
    process = subprocess.Popen(command, cwd=tmp_path)
    records = tmp_path / "killed.zip.part/records.jsonl"
    while process.poll() is None and not (records.exists() and records.stat().st_size > 1000):
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not Path("killed.zip").exists()
    assert hsr("dataset", source, "killed.zip", "--resize", 32) == 0
    assert "Going on after " in capsys.readouterr().out
    assert hsr("dataset", source, "whole.zip", "--resize", 32) == 0
    assert Path("killed.zip").read_bytes() == Path("whole.zip").read_bytes()


def test_a_full_disk_leaves_nothing_half_written(
    sentence: Callable[..., str], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    for target in ("full.zip", "full"):
        with monkeypatch.context() as patch:
            patch.setattr("hsr.preparation.packing._write_files", fail)
            assert "No space left on device" in sentence(photos, target, "--resize", 8)
        assert sorted(Path().glob("full*")) == [Path(f"{target}.part")]
        shutil.rmtree(f"{target}.part")


def test_sets_of_libraries_are_prepared(
    hsr: Command, sentence: Callable[..., str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("torchvision.datasets")
    datasets.disable_progress_bars()
    files = sorted(photos.rglob("*.png"))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(files[0]).save(tmp_path / "turned.png", exif=turned)
    columns = {"picture": [str(tmp_path / "turned.png"), *map(str, files[1:])], "label": [i % 2 for i in range(12)]}
    kinds = {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])}
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    splits = datasets.DatasetDict({"train": rows, "test": rows.select(range(4))})
    rows.save_to_disk(str(tmp_path / "saved"))
    splits.save_to_disk(str(tmp_path / "splits"))
    for source, count in (("saved", 12), ("splits", 12), ("hf:splits:test", 4)):
        assert hsr("dataset", source, f"{count}.zip", "--resize", 16) == 0
        contents, pictures = read_set(Path(f"{count}.zip"))
        assert [label for _, label in contents["labels"]] == [i % 2 for i in range(count)]
        assert contents["class_names"] == ["even", "odd"]
        upright = Image.open(files[0]).transpose(Image.Transpose.ROTATE_270).crop((5, 0, 35, 30))
        np.testing.assert_array_equal(pictures[0], upright.resize((16, 16), Image.Resampling.LANCZOS))
        Path(f"{count}.zip").unlink()
    assert "has no split dev, but train, test" in sentence("hf:splits:dev", "x.zip")
    rows.remove_columns("picture").save_to_disk(str(tmp_path / "bare"))
    assert "has no column of images, but label" in sentence("bare", "x.zip")

    assert hsr("dataset", f"torchvision:ImageFolder:{photos}", "tv.zip", "--resize", 16) == 0
    assert hsr("dataset", photos, "own.zip", "--resize", 16, "--labels", "from-folders") == 0
    (contents, pictures), (expected, own) = read_set(Path("tv.zip")), read_set(Path("own.zip"))
    np.testing.assert_array_equal(pictures, own)
    assert [contents[key] for key in ("labels", "class_names")] == [expected[key] for key in ("labels", "class_names")]
    assert "no data set Nothing" in sentence("torchvision:Nothing:x", "x.zip")
    assert "name its folder" in sentence("torchvision:CIFAR10", "x.zip")
    assert "is for folders and zips" in sentence("saved", "x.zip", "--labels", "from-folders")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in sentence("saved", "x.zip")
