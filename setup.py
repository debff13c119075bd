# SPDX-License-Identifier: Apache-2.0
"""Drives CMake on csrc/; everything else about the package stands in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Builds hsr_kernels._cpu; without a C++ compiler the package installs all the same and says so."""

    def build_extension(self, ext: Extension) -> None:
        mode = os.environ.get("HSR_BUILD_CPU", "auto")
        if mode not in ("0", "1", "auto"):
            raise SystemExit(f"HSR_BUILD_CPU is {mode!r}; expected 0 (never), 1 (or fail) or auto")
        try:
            if mode == "0":
                raise RuntimeError("HSR_BUILD_CPU=0 was set when the package was installed")
            self._run_cmake(Path(self.get_ext_fullpath(ext.name)).resolve())
        except (RuntimeError, OSError) as error:
            if mode == "1":
                raise
            self._report(f"the native CPU extension was not built: {error}")
            print(f"\nhsr-kernels: {error}; the library will run on its reference backend.\n", file=sys.stderr)
        else:
            self._report("")

    def _run_cmake(self, target: Path) -> None:
        import pybind11

        compiler = os.environ.get("CXX") or next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
        if compiler is None or shutil.which(compiler.split()[0]) is None:
            raise RuntimeError("no C++ compiler was found (install g++ or clang++, then reinstall)")
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake", "-S", str(ROOT / "csrc"), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_CXX_COMPILER={compiler}", f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DHSR_OUTPUT={target}",
        ]  # fmt: skip
        for command in (configure, ["cmake", "--build", str(build)]):
            status = subprocess.run(command, check=False).returncode
            if status:
                raise RuntimeError(f"CMake failed with exit status {status}; reinstall with pip -v to see its messages")

    def _report(self, text: str) -> None:
        """Leaves the reason beside the package, where hsr_kernels.backends() reads it."""
        folder = ROOT if self.inplace or self.editable_mode else Path(self.build_lib)
        path = folder / "hsr_kernels" / "_build_report.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


setup(ext_modules=[Extension("hsr_kernels._cpu", sources=[], optional=True)], cmdclass={"build_ext": CMakeBuild})
