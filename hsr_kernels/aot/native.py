# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the compiled extension: what each needs of each chip, as rows of the Triton kernels' table."""

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
# C++ type -> dtype, as Triton writes it.
_DTYPES = {"float": "fp32", "hsr::half": "fp16", "hsr::bfloat16": "bf16", "int": "i32", "long": "i64"}
# No operator launches it: it only shows whether there is code for a chip.
_PROBE = "probe_kernel"


@dataclass(frozen=True)
class CudaBuild:
    """A kernel of the extension, compiled for one chip.

    Attributes:
        kernel: Its name.
        configuration: Its template arguments.
        arch: The chip, such as sm_90.
        registers, spills, shared: See `build.Build`.
    """

    kernel: str
    configuration: str
    arch: str
    registers: int
    spills: int
    shared: int

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in sentences. No kernel has arrays in local memory, so what is there was spilled."""
        return (f"spills {self.spills} bytes",) if self.spills else ()

    @property
    def row(self) -> tuple[str, ...]:
        """Cells of the table."""
        resources = (self.registers, self.spills, self.shared)
        return self.kernel, self.configuration, self.arch, *map(str, resources), "none"


def extension() -> Path | None:
    """Returns the file of hsr_kernels._cuda if it was built; it needn't be loadable."""
    spec = PathFinder.find_spec("hsr_kernels._cuda", list(hsr_kernels.__path__))
    return Path(spec.origin) if spec is not None and spec.origin else None


def why_none() -> str:
    """Returns the reason why the extension has no code for a chip."""
    if extension() is not None:
        return "HSR_CUDA_ARCHS left it out when the package was built"
    return native.load("_cuda")[1]


def builds(archs: Sequence[str], substring: str = "", library: Path | None = None) -> Iterator[CudaBuild]:
    """Yields the kernels in a library whose name contains `substring`, for each of `archs`.

    Args:
        library: None means the extension; without it there are no kernels.
    """
    library = library or extension()
    if library is None:
        return
    command = [cuobjdump(), "--dump-resource-usage", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    arch = ""
    # (arch, mangled name, line of resources).
    functions: list[tuple[str, str, str]] = []
    for line in text.splitlines():
        if heading := re.match(r"arch = (sm_\d+)", line):
            arch = heading[1]
        elif function := re.match(r"\s*Function (\S+):", line):
            functions.append((arch, function[1], ""))
        elif functions and "REG:" in line:
            functions[-1] = (*functions[-1][:2], line)
    names = _demangle([name for _, name, _ in functions])
    for (arch, _, resources), name in zip(functions, names, strict=True):
        match = _KERNEL.search(name)
        if match is None or arch not in archs or match[1] == _PROBE or substring not in match[1]:
            continue
        values = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", resources)}
        spills = values["STACK"] + values.get("LOCAL", 0)
        yield CudaBuild(match[1], _configuration(match[2] or ""), arch, values["REG"], spills, values["SHARED"])


def _configuration(arguments: str) -> str:
    """Returns human-readable template arguments."""
    parts = re.findall(r"[\w:]+(?:<[^>]*>)?", re.sub(r"\((?:bool|int|[\w:]+)\)", "", arguments))
    return " ".join(_DTYPES.get(part, part.rpartition("::")[2]) for part in parts)


def _demangle(names: Sequence[str]) -> list[str]:
    """Returns C++ names as they are written in source code; without binutils, the mangled names themselves."""
    program = shutil.which("c++filt")
    if program is None or not names:
        return list(names)
    done = subprocess.run([program], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[: len(names)]
