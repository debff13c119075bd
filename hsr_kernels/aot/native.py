# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the compiled extension, in the table of the Triton kernels: what each needs of each chip."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

import hsr_kernels

from .._dispatch import native
from .build import cuobjdump

_KERNEL = re.compile(r"hsr::cuda::(?:\(anonymous namespace\)::)?(\w+_kernel)(?:<(.*)>)?\(")
_STORAGE = {"float": "fp32", "hsr::half": "fp16", "hsr::bfloat16": "bf16", "int": "i32", "long": "i64"}
_PROBE = "probe_kernel"  # launched by nobody: it tells whether there is code for a chip


@dataclass(frozen=True)
class CudaBuild:
    """A kernel of the extension as one chip runs it; the attributes are those of `build.Build`."""

    kernel: str
    configuration: str
    arch: str
    registers: int
    spills: int
    shared: int

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences; none when all is well. No kernel has arrays in local memory, so what is there was spilled."""
        return (f"spills {self.spills} bytes",) if self.spills else ()

    @property
    def row(self) -> tuple[str, ...]:
        """A line of the table."""
        numbers = (self.registers, self.spills, self.shared)
        return self.kernel, self.configuration, self.arch, *map(str, numbers), "none"


def extension() -> Path | None:
    """The file of hsr_kernels._cuda, if it was built; it needn't be loadable."""
    spec = PathFinder.find_spec("hsr_kernels._cuda", list(hsr_kernels.__path__))
    return Path(spec.origin) if spec is not None and spec.origin else None


def why_none() -> str:
    """Why the extension has no code for a chip."""
    if extension() is not None:
        return "HSR_CUDA_ARCHS left it out when the package was built"
    return native.load("_cuda")[1]


def builds(archs: Sequence[str], named: str = "", library: Path | None = None) -> Iterator[CudaBuild]:
    """The kernels in a library (the extension's, if it was built) whose name contains `named`, for each of `archs`."""
    library = library or extension()
    if library is None:
        return
    command = [cuobjdump(), "--dump-resource-usage", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    arch = ""
    found: list[tuple[str, str, str]] = []
    for line in text.splitlines():
        if heading := re.match(r"arch = (sm_\d+)", line):
            arch = heading[1]
        elif function := re.match(r"\s*Function (\S+):", line):
            found.append((arch, function[1], ""))
        elif found and "REG:" in line:
            found[-1] = (*found[-1][:2], line)
    names = _demangled([name for _, name, _ in found])
    for (arch, _, usage), name in zip(found, names, strict=True):
        match = _KERNEL.search(name)
        if match is None or arch not in archs or match[1] == _PROBE or named not in match[1]:
            continue
        numbers = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
        local = numbers["STACK"] + numbers.get("LOCAL", 0)
        yield CudaBuild(match[1], _configuration(match[2] or ""), arch, numbers["REG"], local, numbers["SHARED"])


def _configuration(arguments: str) -> str:
    """Template arguments, as far as people care."""
    parts = re.findall(r"[\w:]+(?:<[^>]*>)?", re.sub(r"\((?:bool|int|[\w:]+)\)", "", arguments))
    return " ".join(_STORAGE.get(part, part.rpartition("::")[2]) for part in parts)


def _demangled(names: Sequence[str]) -> list[str]:
    """C++ names as people write them; where binutils are missing, as the compiler does."""
    program = shutil.which("c++filt")
    if program is None or not names:
        return list(names)
    done = subprocess.run([program], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[: len(names)]
