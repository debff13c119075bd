# SPDX-License-Identifier: Apache-2.0
"""The instructions that each native CPU kernel takes, as valgrind's callgrind counts them: the same in every run.

The kernels are compiled by themselves, without Python, PyTorch and threads, with AVX2, as valgrind knows no AVX-512. A
compiler's version changes the numbers, so they are compared with those of the same compiler, or with another commit's
kernels that are built here too.
"""

import csv
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from ..messages import last_line
from ..setting import ROOT
from .recorded import MAX_GROWTH

FILE = Path(__file__).with_name("instructions.csv")
COMMAND = "python -m benchmarks instructions --write"
DRIVER = Path(__file__).with_name("driver.cpp")
# As csrc/CMakeLists.txt and csrc/cpu/extension.cmake compile them for AVX2; the namespace is the one that is always
# there.
FLAGS = (
    "-std=c++17", "-O3", "-DNDEBUG", "-fno-math-errno", "-fno-trapping-math", "-mavx2", "-mfma", "-mf16c",
    "-DHSR_ISA=base", "-pthread",
)  # fmt: skip
_NOT_KERNELS = ("bindings.cpp",)


def missing() -> str:
    """The reason why nothing can be counted here, empty if it can be."""
    if shutil.which("valgrind") is None:
        return "instructions aren't counted: there is no valgrind here (apt-get install valgrind)"
    if _compiler_command() is None:
        return "instructions aren't counted: there is no C++ compiler here"
    return ""


def _compiler_command() -> str | None:
    return shutil.which(os.environ.get("CXX") or "c++")


@cache
def compiler() -> str:
    """The compiler's first line about itself."""
    command = _compiler_command()
    assert command is not None
    return subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def kernels() -> tuple[str, ...]:
    """The names of the kernels that the driver can run, as it lists them."""
    return tuple(re.findall(r"^  HSR_RUN\((\w+)\)", DRIVER.read_text(), re.MULTILINE))


def select(text: str) -> list[str]:
    """Returns the kernels whose name contains a text.

    Raises:
        ValueError: There is none.
    """
    found = [name for name in kernels() if text in name]
    if not found:
        raise ValueError(f"no kernel is called {text!r}; there are {', '.join(kernels())}")
    return found


def count(names: Sequence[str], gitref: str = "") -> dict[str, int]:
    """Builds the kernels and counts the instructions of one call of each.

    Args:
        names: Of `kernels()`.
        gitref: The commit whose kernels are built; empty for those of this checkout.

    Raises:
        RuntimeError: There is no such commit, or its kernels can't be built or run.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources = _exported(gitref, Path(folder)) if gitref else ROOT / "csrc"
        program = Path(folder) / "driver"
        files = [str(file) for file in sorted((sources / "cpu").glob("*.cpp")) if file.name not in _NOT_KERNELS]
        include = [f"-I{sources / 'include'}", f"-I{sources / 'cpu'}"]
        _run(str(_compiler_command()), *FLAGS, *include, str(DRIVER), *files, "-ldl", "-o", str(program))
        return {name: _count(program, name, Path(folder)) for name in names}


def _exported(gitref: str, folder: Path) -> Path:
    archive = folder / "csrc.tar"
    _run("git", "-C", str(ROOT), "archive", "--output", str(archive), gitref, "csrc")
    shutil.unpack_archive(archive, folder, filter="data")
    return folder / "csrc"


def _count(program: Path, kernel: str, folder: Path) -> int:
    options = ("--tool=callgrind", "--toggle-collect=hsr_measured_*", f"--callgrind-out-file={folder / kernel}")
    printed = _run("valgrind", *options, str(program), kernel)
    found = re.search(r"Collected : (\d+)", printed)
    if found is None or found[1] == "0":
        raise RuntimeError(f"valgrind counted nothing of {kernel}: {last_line(printed)}")
    return int(found[1])


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed: {last_line(done.stderr, done.stdout)}")
    return done.stdout + done.stderr


def write(counts: Mapping[str, int]) -> None:
    """Records counts with the compiler; those of other kernels stay if they are the same compiler's."""
    before: Mapping[str, int] = {}
    if FILE.exists():
        read_before, recorded_with = read()
        before = read_before if recorded_with == compiler() else {}
    with FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("kernel", "instructions", "compiler"))
        writer.writerows((name, number, compiler()) for name, number in {**before, **counts}.items())


def read() -> tuple[dict[str, int], str]:
    """Returns what was recorded, by kernel, and with which compiler."""
    with FILE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["kernel"]: int(row["instructions"]) for row in rows}, rows[0]["compiler"]


def faults(now: Mapping[str, int], before: Mapping[str, int]) -> Iterator[str]:
    """Yields a sentence for each kernel that takes more instructions than before, or has nothing before it."""
    for name, number in now.items():
        if name not in before:
            yield f"{name} isn't recorded: {COMMAND}"
        elif number > MAX_GROWTH * before[name]:
            yield f"{name}: instructions grew from {before[name]} to {number} ({number / before[name]:.2f}x)"
