# SPDX-License-Identifier: Apache-2.0
"""Drives CMake on csrc/; everything else about the package stands in pyproject.toml."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
# Compute capabilities, times 10, that CUDA code is compiled for where HSR_BUILD_CUDA=1 demands it.
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
# The oldest one that it can be compiled for.
MIN_ARCHITECTURE = 80
# Attributes of a device in CUDA's driver.
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76


class CMakeBuild(build_ext):
    """Builds hsr_kernels._cpu and ._cuda; without a compiler the package installs all the same and says so."""

    def build_extension(self, ext: Extension) -> None:
        name = ext.name.rpartition(".")[2]
        variable = f"HSR_BUILD{name.upper()}"
        mode = os.environ.get(variable, "auto")
        if mode not in ("0", "1", "auto"):
            raise SystemExit(f"{variable} is {mode!r}; expected 0 (never), 1 (or fail) or auto")
        try:
            if mode == "0":
                raise RuntimeError(f"{variable}=0 was set when the package was installed")
            options = cuda_options(mode) if name == "_cuda" else []
            self._run_cmake(name, Path(self.get_ext_fullpath(ext.name)).resolve(), options)
        except (RuntimeError, OSError) as error:
            if mode == "1":
                raise
            self._report(name, f"the extension hsr_kernels.{name} was not built: {error}")
            instead = "its reference backend" if name == "_cpu" else "Triton's kernels on GPUs"
            print(f"\nhsr-kernels: {error}; the library will run on {instead}.\n", file=sys.stderr)
        else:
            self._report(name, "")

    def _run_cmake(self, name: str, target: Path, options: list[str]) -> None:
        import pybind11

        compiler = os.environ.get("CXX") or next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
        if compiler is None or shutil.which(compiler.split()[0]) is None:
            raise RuntimeError("no C++ compiler was found (install g++ or clang++, then reinstall)")
        build = Path(self.build_temp).resolve() / f"cmake{name}"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake", "-S", str(ROOT / "csrc"), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_CXX_COMPILER={compiler}", f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DHSR_EXTENSION={name}", f"-DHSR_OUTPUT={target}", *options,
        ]  # fmt: skip
        for command in (configure, ["cmake", "--build", str(build)]):
            status = subprocess.run(command, check=False).returncode
            if status:
                raise RuntimeError(f"CMake failed with exit status {status}; reinstall with pip -v to see its messages")

    def _report(self, name: str, text: str) -> None:
        """Leaves the reason beside the package, where hsr_kernels.backends() reads it."""
        folder = ROOT if self.inplace or self.editable_mode else Path(self.build_lib)
        path = folder / "hsr_kernels" / f"{name}_build.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def cuda_options(mode: str) -> list[str]:
    """How CMake is to compile CUDA code, given HSR_BUILD_CUDA: "1" or "auto".

    Raises:
        RuntimeError: There is nothing to compile it with or for; the message says what helps.
        SystemExit: HSR_CUDA_ARCHS makes no sense.
    """
    asked = asked_architectures()
    homes = [Path(os.environ[name]) / "bin" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders = os.pathsep.join(map(str, (*homes, os.environ.get("PATH", ""), "/usr/local/cuda/bin")))
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc", path=folders)
    if nvcc is None:
        raise RuntimeError("no nvcc was found (install the CUDA toolkit, 12.8 or newer, then reinstall)")
    known = [int(number) for number in re.findall(r"^sm_(\d+)$", printed_by(nvcc, "--list-gpu-code"), re.MULTILINE)]
    archs = asked or (list(ARCHITECTURES) if mode == "1" else architectures_here(known))
    if unknown := [f"sm_{arch}" for arch in archs if arch not in known]:
        raise RuntimeError(f"{nvcc} doesn't compile for {', '.join(unknown)} (HSR_CUDA_ARCHS=80,90 names others)")
    strict = "ON" if os.environ.get("HSR_CUDA_STRICT") == "1" else "OFF"
    listed = ",".join(map(str, archs))
    return [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DHSR_CUDA_ARCHS={listed}", f"-DHSR_CUDA_STRICT={strict}"]


def asked_architectures() -> list[int]:
    """What HSR_CUDA_ARCHS names, in its order; empty where it isn't set."""
    given = os.environ.get("HSR_CUDA_ARCHS", "")
    if not given:
        return []
    parts = [part.strip() for part in given.split(",")]
    if not all(re.fullmatch("[1-9][0-9]{1,2}", part) and int(part) >= MIN_ARCHITECTURE for part in parts):
        expected = f"numbers from {MIN_ARCHITECTURE} on, separated by commas, such as 80,90"
        raise SystemExit(f"HSR_CUDA_ARCHS is {given!r}; expected {expected}")
    return list(dict.fromkeys(map(int, parts)))


def architectures_here(known: list[int]) -> list[int]:
    """For each GPU of this machine the newest of the architectures that nvcc knows whose code it runs.

    Raises:
        RuntimeError: There is no GPU that CUDA code can be compiled for.
    """
    capabilities = gpu_capabilities()
    if not capabilities:
        raise RuntimeError("no NVIDIA GPU was found to build it for (HSR_BUILD_CUDA=1 builds it without one)")
    able = [capability for capability in capabilities if capability >= MIN_ARCHITECTURE]
    if not able:
        newest = f"{capabilities[-1] // 10}.{capabilities[-1] % 10}"
        raise RuntimeError(f"it needs a GPU of compute capability 8.0 or newer, and this machine's is {newest}")
    found = {max((arch for arch in known if MIN_ARCHITECTURE <= arch <= gpu), default=gpu) for gpu in able}
    return sorted(found)


def gpu_capabilities() -> list[int]:
    """Compute capabilities, times 10, of the GPUs that are here: as nvidia-smi or else CUDA's driver tells them."""
    program = shutil.which("nvidia-smi")
    said = printed_by(program, "--query-gpu=compute_cap", "--format=csv,noheader") if program else ""
    found = [int(major + minor) for major, minor in re.findall(r"^\s*(\d+)\.(\d)\s*$", said, re.MULTILINE)]
    return sorted({*(found or driver_capabilities())})


def driver_capabilities() -> list[int]:
    """The same from CUDA's driver alone, as in a container without NVIDIA's programs."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, device, major, minor = (ctypes.c_int() for _ in range(4))
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = []
    for index in range(count.value):
        failed = driver.cuDeviceGet(ctypes.byref(device), index)
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device)
        found += [] if failed else [10 * major.value + minor.value]
    return found


def printed_by(program: str, *arguments: str) -> str:
    """What a program prints, "" where it can't be run or doesn't end."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


setup(
    ext_modules=[Extension(f"hsr_kernels.{name}", sources=[], optional=True) for name in ("_cpu", "_cuda")],
    cmdclass={"build_ext": CMakeBuild},
)
