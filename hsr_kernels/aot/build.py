# SPDX-License-Identifier: Apache-2.0
"""Compiles a launch for a chip and finds out what it needs of the chip, with the tools that Triton ships alone."""

import contextlib
import io
import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton
from triton.compiler import ASTSource

from .record import Chip, Launch

# Kind -> pattern of the instruction in PTX, or in the assembly of AMD's chips.
_TENSOR_CORE_INSTRUCTIONS = {
    "wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma", "mma": r"\bmma\.sync", "mfma": r"\bv_mfma_",
    "wmma": r"\bv_s?wmmac?_",
}  # fmt: skip
# Columns of tensor memory that a block of sm_100 may have.
_MAX_TENSOR_MEMORY_COLUMNS = 512
# Found in the lines of those tl.dot that tensor cores can multiply.
_TENSOR_CORE_OPERANDS = re.compile(r"xf16|xbf16|xf8|inputPrecision = (?!ieee)")


@dataclass(frozen=True)
class Build:
    """A launch compiled for a chip.

    Attributes:
        registers: Registers of a thread. On AMD's chips these are VGPRs, those for accumulation included.
        spills: Bytes of local memory of a thread, which AMD calls scratch. The kernels have no arrays there, so these
            are spilled registers. SGPRs that are spilled to lanes of VGPRs are none of them: they stay in registers.
        shared: Bytes of shared memory of a block: on AMD's chips the LDS of a work-group.
        tensor_core: Kinds of tensor-core instructions, or "none".
        problems: What is wrong, in sentences.
        seconds: Processor time that compiling took, the assembler's included.
    """

    launch: Launch
    chip: Chip
    registers: int = 0
    spills: int = 0
    shared: int = 0
    tensor_core: str = "none"
    problems: tuple[str, ...] = ()
    seconds: float = 0.0


def build_all(
    jobs: Sequence[tuple[Launch, Chip]], processes: int, work: Callable[[Launch, Chip], Build] | None = None
) -> Iterator[Build]:
    """Compiles in parallel; if the compiler crashes, only the launch that it compiled has failed.

    Args:
        jobs: The launches, and the chips to compile them for.
        processes: Number of jobs at a time.
        work: What to do with each job; None means `build`.
    """
    work = work or build
    # This process can't be forked, as PyTorch and LLVM have threads; a server that imports them once is forked instead.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    crashed: list[tuple[Launch, Chip]] = []
    with ProcessPoolExecutor(processes, context) as pool:
        futures: dict[Future[Build], tuple[Launch, Chip]] = {pool.submit(work, *job): job for job in jobs}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                crashed.append(futures[future])
    for job in crashed:
        with ProcessPoolExecutor(1, context) as single_process:
            try:
                yield single_process.submit(work, *job).result()
            except BrokenProcessPool:
                yield Build(*job, problems=("the compiler crashed",))


def build(launch: Launch, chip: Chip) -> Build:
    """Compiles `launch` and inspects the result."""
    compiled, failure = _compile(launch, chip)
    if compiled is None:
        return Build(launch, chip, problems=(failure,))
    is_amd = chip.target.backend == "hip"
    assembly = compiled.asm.get("amdgcn" if is_amd else "ptx")
    if assembly is None or "ttgir" not in compiled.asm:
        return Build(launch, chip, problems=("Triton's cache has only its machine code, which says too little",))
    registers, spills = amd_resources(assembly) if is_amd else resources(compiled.asm["cubin"])
    result = Build(launch, chip, registers, spills, compiled.metadata.shared, tensor_core(assembly))
    tensor_memory_columns = getattr(compiled.metadata, "tmem_size", None) or 0
    return replace(result, problems=tuple(problems(result, tensor_memory_columns, compiled.asm["ttgir"])))


def fill_cache(launch: Launch, chip: Chip) -> Build:
    """Compiles `launch` into Triton's cache if it isn't there yet; the only problem reported is a failure."""
    began = _processor_seconds()
    _, failure = _compile(launch, chip)
    return Build(launch, chip, problems=(failure,) if failure else (), seconds=_processor_seconds() - began)


def _processor_seconds() -> float:
    """Returns the processor time of this process, and of those that it started and that have ended."""
    return sum(os.times()[:4])


def compile_source(kind: type[ASTSource], launch: Launch, chip: Chip) -> Any:
    """Returns Triton's compiled kernel as a real launch would have it, but not loaded; `kind` is its form in Triton."""
    source = kind(launch.function, launch.signature, launch.constants, launch.attributes)
    with warnings.catch_warnings():
        # A real launch warns once of Triton's default for fused multiply-adds; here the warning is noise.
        warnings.filterwarnings("ignore", message=".*FP_FUSION.*")
        return triton.compile(source, target=chip.target, options=launch.options)


def _compile(launch: Launch, chip: Chip) -> tuple[Any, str]:
    """Returns (Triton's compiled kernel, "") or (None, failure)."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return compile_source(ASTSource, launch, chip), ""
    except Exception as error:
        text = " ".join(f"{error}".split())
        return None, f"{type(error).__name__}: {text[:400]}"


def problems(result: Build, tensor_memory_columns: int, ttgir: str) -> Iterator[str]:
    """Yields what is wrong with a compiled kernel; `ttgir` is Triton's last form in which a tl.dot is still one."""
    chip = result.chip
    if result.spills:
        yield f"spills {result.spills} bytes"
    if result.shared > chip.shared:
        yield f"needs {result.shared} bytes of shared memory, {chip.name} has {chip.shared}"
    if tensor_memory_columns > _MAX_TENSOR_MEMORY_COLUMNS:
        limit = _MAX_TENSOR_MEMORY_COLUMNS
        yield f"needs {tensor_memory_columns} columns of tensor memory, {chip.name} has {limit}"
    dots = [line for line in ttgir.splitlines() if re.search(r"\b(tt\.dot|tt\.dot_scaled)\b", line)]
    slow_dots = [line for line in dots if _TENSOR_CORE_OPERANDS.search(line) and "parent = #blocked" in line]
    if slow_dots:
        yield f"{len(slow_dots)} tl.dot in tf32, fp16 or bf16 without a tensor-core instruction"


def tensor_core(assembly: str) -> str:
    """Returns the kinds of tensor-core instructions in PTX or in the assembly of AMD's chips, or "none"."""
    found = (name for name, pattern in _TENSOR_CORE_INSTRUCTIONS.items() if re.search(pattern, assembly))
    return " ".join(found) or "none"


def amd_resources(assembly: str) -> tuple[int, int]:
    """Returns a thread's vector registers and bytes of scratch, from the metadata below a kernel's assembly."""
    values = {
        key: int(value) for key, value in re.findall(r"\.(vgpr_count|private_segment_fixed_size):\s+(\d+)", assembly)
    }
    return values["vgpr_count"], values["private_segment_fixed_size"]


def resources(cubin: bytes) -> tuple[int, int]:
    """Returns the registers and the bytes of local memory of a compiled kernel's thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [cuobjdump(), "--dump-resource-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return values["REG"], values["STACK"] + values.get("LOCAL", 0)


@cache
def cuobjdump() -> str:
    """Returns the path of the program that reads machine code: Triton's own, unless its settings say otherwise."""
    path: Any = triton.knobs.nvidia.cuobjdump.path
    return str(path)
