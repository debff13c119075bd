# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels are found again where they were carried to, or a sentence says why they can't be."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import hsr_kernels as hk
from benchmarks import device
from benchmarks.gpu import cache, recording, report
from benchmarks.setting import ROOT
from hsr_kernels import _gpu
from hsr_kernels.aot import record, warm
from tests.selection import FULL

SM90 = record.CHIPS["sm_90"]
_COMPILE = """
import pickle, sys
from hsr_kernels.aot import build, record
for launch in pickle.load(open(sys.argv[1], "rb")):
    assert not build.fill_cache(launch, record.CHIPS["sm_90"]).problems
"""


def compile_into(folder: Path, launches: Path) -> dict[Path, int]:
    """Compiles in a process of its own, as Triton remembers; returns when each piece of machine code was written."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", _COMPILE, str(launches)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return written(folder)


def written(folder: Path) -> dict[Path, int]:
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*.cubin")}


@FULL
def test_kernels_are_found_again_in_another_folder(tmp_path):
    x, b = torch.empty(2, 16, 8, 8), torch.empty(16)
    calls = [(act, partial(hk.bias_act, x, b, act=act)) for act in ("lrelu", "relu")]
    launches, _ = warm.recorded(calls, SM90)
    (tmp_path / "launches").write_bytes(pickle.dumps(launches))
    made, carried = tmp_path / "made", tmp_path / "elsewhere" / "carried"
    keys = compile_into(made, tmp_path / "launches").keys()
    assert len(keys) == len(launches) == 2
    cache.declare(made, "sm_90", len(launches))
    archive = tmp_path / "cache.tar.xz"
    assert cache.pack(made, archive) == 2
    shutil.rmtree(made)
    assert cache.unpack(archive, carried, "sm_90") == 2
    assert cache.is_complete(carried) and {path.suffix for path in carried.rglob("*.*")} == {".cubin", ".json"}
    unpacked = written(carried)
    taken, left = unpacked
    shutil.rmtree((carried / taken).parent)
    now = compile_into(carried, tmp_path / "launches")
    assert now.keys() == keys and now[left] == unpacked[left], "what was carried wasn't compiled anew"
    assert now[taken] > unpacked[taken], "and what was taken away was"


@pytest.fixture
def archive(tmp_path):
    made = tmp_path / "made"
    (made / "key").mkdir(parents=True)
    for name in ("kernel.cubin", "kernel.json", "kernel.ttir", "__grp__kernel.json"):
        (made / "key" / name).write_text("{}")
    cache.declare(made, "sm_90", 1)
    cache.pack(made, tmp_path / "x.tar.xz")
    return tmp_path / "x.tar.xz"


def test_only_what_the_loader_needs_travels(archive, tmp_path):
    with tarfile.open(archive) as tar:
        assert sorted(tar.getnames()) == ["key/kernel.cubin", "key/kernel.json", "manifest.json"]
    assert cache.unpack(archive, tmp_path / "new") == 1
    group = json.loads((tmp_path / "new" / "key" / "__grp__kernel.json").read_text())
    assert group == {"child_paths": {n: str(tmp_path / "new" / "key" / n) for n in ("kernel.cubin", "kernel.json")}}


@pytest.mark.parametrize("change, arch, sentence", (
    ({"libtriton": "f00"}, None, "libtriton.so has the SHA-256 f00 here and "),
    ({"kernels": "f00"}, None, "the kernels' sources have changed since the archive was made"),
    ({}, "sm_100", "the kernels were compiled for sm_90, and this GPU is sm_100"),
))  # fmt: skip
def test_a_useless_cache_is_told_in_a_sentence_and_not_unpacked(archive, tmp_path, monkeypatch, change, arch, sentence):
    here = cache.fingerprint()
    monkeypatch.setattr(cache, "fingerprint", lambda: here | change)
    with pytest.raises(cache.UselessCache, match=sentence):
        cache.unpack(archive, tmp_path / "new", arch)
    assert not (tmp_path / "new").exists()


def test_kernels_are_compiled_first_only_where_they_are_missing(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "new"))
    assert report._needs_kernels(["cases"]) and not report._needs_kernels(["tests"])
    cache.unpack(archive, tmp_path / "new")
    assert not report._needs_kernels(["tests", "cases"])
    monkeypatch.setenv("HSR_GPU_REHEARSAL", "1")
    shutil.rmtree(tmp_path / "new")
    assert not report._needs_kernels(["cases"])


def test_what_gpu_tests_launch_is_recorded():
    """Without a GPU, past the place where a test first looks at values."""
    found = recording.launches("sm_90", ("tests/ops/test_gpu.py", "-k", "repeated and styled-triton"))
    assert {"modulated_conv2d_epilogue_kernel", "modulated_conv2d_epilogue_bwd_kernel"} <= {x.kernel for x in found}


@pytest.mark.parametrize("is_amd, chip, name", (
    (False, "9.0", "sm_90"), (False, "12.0", "sm_120"), (True, "gfx942", "gfx942"),
))  # fmt: skip
def test_an_architecture_has_its_makers_name(monkeypatch, is_amd, chip, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_gpu, "is_amd", lambda: is_amd)
    monkeypatch.setattr(_gpu, "chip", lambda index: chip)
    assert device.architecture() == name and name in record.CHIPS
