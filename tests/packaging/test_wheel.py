# SPDX-License-Identifier: Apache-2.0
"""The wheel holds everything, links against nothing of PyTorch and runs on any x86-64 processor."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.native import PRODUCT_ISAS, REQUIRED_FLAGS, requires_native
from tests.selection import FULL, kept

from .conftest import ROOT, copy_sources, environment

# Compiling takes most of a minute on two idle cores.
pytestmark = [requires_native, pytest.mark.timeout(900)]

# The C library in its parts; everything else a machine may lack, or have in another version.
SYSTEM_LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2"}


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def extension(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if re.fullmatch(r"hsr_kernels/_cpu\..*so", n)]
        return Path(archive.extract(name, tmp_path_factory.mktemp("extension")))


def test_wheel_holds_both_packages_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(p.relative_to(ROOT)) for folder in ("hsr", "hsr_kernels") for p in (ROOT / folder).rglob("*.py")}
    assert sources <= names
    rest = {name for name in names - sources if ".dist-info/" not in name}
    reports = {"hsr_kernels/_cpu_build.txt", "hsr_kernels/_cuda_build.txt"}
    assert len(rest) == 4
    assert {"hsr_kernels/_dispatch/measured.csv", *reports} <= rest
    assert any(re.fullmatch(r"hsr_kernels/_cpu\..*so", name) for name in rest)
    assert zipfile.ZipFile(wheel).read("hsr_kernels/_cpu_build.txt") == b""
    assert b"HSR_BUILD_CUDA=0" in zipfile.ZipFile(wheel).read("hsr_kernels/_cuda_build.txt")
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_declares_its_interpreter_and_requirements(wheel):
    assert f"-cp{sys.version_info.major}{sys.version_info.minor}-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/METADATA")]
        metadata = archive.read(name).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert re.search(r"^Requires-Dist: torch>=2\.9$", metadata, re.MULTILINE)


def test_source_distribution_holds_the_native_code(tmp_path):
    source = copy_sources(tmp_path / "source")
    build = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, env=environment(), check=True, capture_output=True)
    (archive,) = (source / "dist").glob("*.tar.gz")
    listed = {name.partition("/")[2] for name in run("tar", "-tf", str(archive)).splitlines()}
    native = {str(p.relative_to(source)) for p in (source / "csrc").rglob("*") if p.is_file()}
    assert native and native <= listed


def test_extension_links_against_the_c_library_alone(extension):
    needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", str(extension))))
    assert needed <= SYSTEM_LIBRARIES
    assert not re.search(r"\((RPATH|RUNPATH)\)", run("readelf", "-d", str(extension)))


def test_extension_names_nothing_of_pytorch_or_openmp(extension):
    missing = run("nm", "--dynamic", "--demangle", "--undefined-only", str(extension))
    assert not re.search(r"\b(c10|at|torch|caffe2)::|\bGOMP_|\b__kmpc_|\bomp_", missing)


def test_extension_exports_its_entry_alone(extension):
    """Another library's C++ runtime must not mix with the one that is linked in."""
    exported = run("nm", "--dynamic", "--defined-only", "--format=just-symbols", str(extension))
    assert exported.split() == ["PyInit__cpu"]


def test_native_code_includes_no_torch_header():
    files = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".cpp", ".h", ".cu")]
    assert files
    for path in files:
        assert not re.search(r'#\s*include\s*[<"](torch|ATen|c10)/', path.read_text()), path


@pytest.fixture(scope="module")
def compilation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which CMake is ready to compile the extension."""
    import pybind11

    folder = tmp_path_factory.mktemp("compilation")
    options = {"CMAKE_BUILD_TYPE": "Release", "HSR_EXTENSION": "_cpu", "HSR_OUTPUT": folder / "_cpu.so"}
    options |= {"Python_EXECUTABLE": sys.executable, "pybind11_DIR": pybind11.get_cmake_dir()}
    command = ["cmake", "-S", ROOT / "csrc", "-B", folder, "-G", "Ninja", *(f"-D{k}={v}" for k, v in options.items())]
    subprocess.run(command, env=environment(), capture_output=True, check=True)
    return folder


def test_instruction_sets_are_asked_for_by_name(compilation):
    statement = re.compile(r"^build CMakeFiles/(\w+)\.dir/.*\.o:.*\n(?:  .*\n)*?  FLAGS = (.*)$", re.MULTILINE)
    machine: dict[str, set[str]] = {}
    for target, flags in statement.findall((compilation / "build.ninja").read_text()):
        machine.setdefault(target, set()).update(re.findall(r"(?<=\s)-m\S+", flags))
    assert machine.keys() == {"_cpu", *(f"hsr_cpu_{isa}" for isa in REQUIRED_FLAGS)}
    assert machine["_cpu"] == machine["hsr_cpu_base"] == set()
    assert machine["hsr_cpu_avx2"] == {"-mavx2", "-mfma", "-mf16c"}
    assert machine["hsr_cpu_avx512"] > {"-mavx512f", "-mavx2"}
    added = {isa: machine[f"hsr_cpu_{isa}"] - machine["hsr_cpu_avx512"] for isa in PRODUCT_ISAS}
    assert added == {"amx": {"-mamx-tile", "-mamx-bf16"}, "avx512_bf16": {"-mavx512bf16"}}
    assert not any("arch" in flag or "tune" in flag for flags in machine.values() for flag in flags)


@pytest.mark.parametrize("isa", kept([pytest.param("avx2", marks=FULL), "avx512", *PRODUCT_ISAS]))
def test_no_function_is_shared_between_instruction_sets(compilation, isa):
    """The linker keeps one copy of an inline function; if for AVX-512, it would crash lesser processors."""
    # Fewer functions are inlined at this level than at the wheel's, and it compiles in a third of the time.
    statements = compilation / "build.ninja"
    statements.write_text(statements.read_text().replace(" -O3 ", " -O1 "))
    command = ["cmake", "--build", compilation, "--target", f"hsr_cpu_{isa}"]
    subprocess.run(command, env=environment(), capture_output=True, check=True)
    objects = [*compilation.glob(f"CMakeFiles/hsr_cpu_{isa}.dir/**/*.o")]
    expected = {"matmul.cpp.o"} if isa in PRODUCT_ISAS else {"bias_act.cpp.o", "matmul.cpp.o"}
    assert expected <= {path.name for path in objects}
    for path in objects:
        symbols = run("nm", "--demangle", "--defined-only", str(path)).splitlines()
        shared = [line for line in symbols if re.match(r"\S+ [WVu] ", line) and f"hsr::{isa}::" not in line]
        assert not shared, f"{path.name}: {shared}"
