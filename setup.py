# SPDX-License-Identifier: Apache-2.0
"""Drives CMake on csrc/; everything else about the package stands in pyproject.toml."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
ARCHITECTURES = ("80", "86", "89", "90", "100", "120")  # that CUDA code is compiled for, unless HSR_CUDA_ARCHS says


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
            options = cuda_options() if name == "_cuda" else []
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


def cuda_options() -> list[str]:
    """How CMake is to compile CUDA code.

    Raises:
        RuntimeError: There is no nvcc; the message says what to install.
    """
    homes = [Path(os.environ[name]) / "bin" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders = os.pathsep.join(map(str, (*homes, os.environ.get("PATH", ""), "/usr/local/cuda/bin")))
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc", path=folders)
    if nvcc is None:
        raise RuntimeError("no nvcc was found (install the CUDA toolkit, 12.8 or newer, then reinstall)")
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=False).stdout
    numbers = re.findall(r"^sm_(\d+)$", known, re.MULTILINE)
    archs = os.environ.get("HSR_CUDA_ARCHS") or ",".join(n for n in ARCHITECTURES if n in numbers)
    if not archs:
        raise RuntimeError(f"{nvcc} compiles for none of sm_{', sm_'.join(ARCHITECTURES)}")
    strict = "ON" if os.environ.get("HSR_CUDA_STRICT") == "1" else "OFF"
    return [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DHSR_CUDA_ARCHS={archs}", f"-DHSR_CUDA_STRICT={strict}"]


setup(
    ext_modules=[Extension(f"hsr_kernels.{name}", sources=[], optional=True) for name in ("_cpu", "_cuda")],
    cmdclass={"build_ext": CMakeBuild},
)
