# SPDX-License-Identifier: Apache-2.0
"""Large sets are decoded once, into a file of the cache."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import hsr.data.scan
from hsr.data import open_dataset

from .test_data import pixels


def test_a_large_set_is_decoded_into_the_cache(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    held = open_dataset(images)
    monkeypatch.setattr("hsr.data.opening.MEMORY_LIMIT", 0)
    decoded: list[int] = []
    decode = hsr.data.scan._decode
    monkeypatch.setattr("hsr.data.scan._decode", lambda files, i: decoded.append(i) or decode(files, i))

    def count() -> int:
        decoded.clear()
        opened = open_dataset(images)
        assert (opened.identity, opened.report) == (held.identity, held.report)
        for store in (opened, pickle.loads(pickle.dumps(opened))):
            np.testing.assert_array_equal(pixels(store), pixels(held))
        return len(decoded)

    assert [count(), count()] == [24, 0]
    (file,) = (cache / "hsr/datasets").glob("*.npy")
    os.utime(file, (0, 0))
    assert len(pickle.dumps(open_dataset(images).store)) < 1000
    assert file.stat().st_mtime > 0
    # A file that is cut off is written anew, and so is one whose set has changed; an old one makes room for it.
    os.truncate(file, 2000)
    assert [count(), count()] == [24, 0]
    monkeypatch.setattr("hsr.data.decoded.MAX_BYTES", 30_000)
    os.utime(images / "00000/img0000.png", ns=(0, 0))
    assert [count(), count()] == [24, 0] and not file.exists()

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # Without room on the disk, images are decoded at each access.
    for change in (("hsr.data.decoded.MAX_BYTES", 1000), ("hsr.data.decoded.MAX_FREE_SHARE", 0), ("os.replace", fail)):
        for file in (cache / "hsr/datasets").glob("*.npy"):
            file.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(*change)
            count()
        assert not list((cache / "hsr/datasets").glob("*.npy")) + list((cache / "hsr/datasets").glob(".hsr*"))
