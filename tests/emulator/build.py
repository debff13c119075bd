# SPDX-License-Identifier: Apache-2.0
"""Builds the emulated extensions in build/emulator, once for all processes."""

import fcntl
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent.resolve()
BUILD = FOLDER.parents[1] / "build" / "emulator"


@functools.cache
def build(target: str) -> Path:
    """Brings one target up to date: `_cuda_emulated` or `_emulator_kernels`.

    Args:
        target: The CMake target.

    Returns:
        The extension's file.

    Raises:
        RuntimeError: CMake or the compiler failed; the message holds what they printed.
    """
    import pybind11

    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run(
            "cmake", "-S", str(FOLDER), "-B", str(BUILD), "-G", "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        )  # fmt: skip
        _run("cmake", "--build", str(BUILD), "--target", target)
    return BUILD / f"{target}.so"


def load(target: str, name: str) -> ModuleType:
    """Builds a target and imports it.

    Args:
        target: The CMake target.
        name: The name that the extension gives itself: `_cuda` for `_cuda_emulated`.
    """
    spec = importlib.util.spec_from_file_location(name, build(target))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(*command: str) -> None:
    # CMake and ninja may lie beside the interpreter of an environment that isn't activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which(command[0], path=path)
    if program is None:
        raise RuntimeError(f"there is no {command[0]}; the [test] extra installs it")
    environment = {**os.environ, "PATH": path}
    done = subprocess.run([program, *command[1:]], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
