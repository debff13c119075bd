# SPDX-License-Identifier: Apache-2.0
"""A copy of the source tree, and wheels built from it."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.selection import FULL, kept

ROOT = Path(__file__).resolve().parents[2]


def environment(**changes: str) -> dict[str, str]:
    """The environment without this project's settings, the interpreter's own tools first on the path.

    CUDA code, whose compilation takes minutes, is built where a test asks for it.
    """
    changes = {"HSR_BUILD_CUDA": "0"} | changes
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HSR_") and k != "PYTHONPATH"}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return kept | changes


def pip(*arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs pip, offline: what a build needs is in the test extra."""
    command = [sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-build-isolation", "--no-index"]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def copy_sources(target: Path) -> Path:
    """What a build reads, without what earlier builds left: setuptools builds in its source folder."""
    leftovers = shutil.ignore_patterns("*.so", "__pycache__", "_*_build.txt")
    target.mkdir()
    for folder in ("csrc", "hsr", "hsr_kernels"):
        shutil.copytree(ROOT / folder, target / folder, ignore=leftovers)
    for path in (
        *ROOT.glob("*.py"),
        *ROOT.glob("*.toml"),
        *ROOT.glob("*.md"),
        *ROOT.glob("*.in"),
        ROOT / "LICENSE",
    ):
        shutil.copy(path, target)
    return target


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel in `dist` and what compiling took, in `build`; it takes most of a minute."""
    return _build(copy_sources(tmp_path_factory.mktemp("built") / "source"))


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel in `dist`; in place of CMake, a script takes the extension that is installed."""
    folder = tmp_path_factory.mktemp("packed")
    spec = importlib.util.find_spec("hsr_kernels._cpu")
    assert spec is not None and spec.origin is not None
    (folder / "tools").mkdir()
    cmake = folder / "tools" / "cmake"
    take = f'case $word in -DHSR_OUTPUT=*) cp "{spec.origin}" "${{word#*=}}" ;; esac'
    cmake.write_text(f"#!/bin/sh\nfor word; do {take}; done\n")
    cmake.chmod(0o755)
    return _build(copy_sources(folder / "source"), cmake.parent)


def _build(source: Path, *tools: Path) -> Path:
    env = environment(HSR_BUILD_CPU="1")
    env["PATH"] = os.pathsep.join([*map(str, tools), env["PATH"]])
    done = pip("wheel", ".", "--wheel-dir", "dist", cwd=source, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return source


@pytest.fixture(scope="session", params=kept(["packed", pytest.param("built", marks=FULL)]))
def wheel(request: pytest.FixtureRequest) -> Path:
    (path,) = (request.getfixturevalue(request.param) / "dist").glob("*.whl")
    return path
