# SPDX-License-Identifier: Apache-2.0
"""Compiles a launch for a chip and tells what the chip would need for it; with what Triton ships, no CUDA toolkit."""

import contextlib
import io
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton
from triton.compiler import ASTSource

from .record import Chip, Launch

_TENSOR_CORE = {"wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma", "mma": r"\bmma\.sync"}
_TENSOR_MEMORY = 512  # columns that a block of sm_100 may have
_NARROW = re.compile(r"xf16|xbf16|xf8|inputPrecision = (?!ieee)")  # of a tl.dot that tensor cores can multiply


@dataclass(frozen=True)
class Build:
    """What became of a launch on a chip.

    Attributes:
        registers: Of a thread.
        spills: Bytes of local memory of a thread. The kernels have no arrays there, so this is spilled registers.
        shared: Bytes of shared memory of a block.
        tensor_core: Instructions used, "none" without.
        problems: Sentences; none when all is well.
    """

    launch: Launch
    chip: Chip
    registers: int = 0
    spills: int = 0
    shared: int = 0
    tensor_core: str = "none"
    problems: tuple[str, ...] = ()


def build_all(
    jobs: Sequence[tuple[Launch, Chip]], processes: int, work: Callable[[Launch, Chip], Build] | None = None
) -> Iterator[Build]:
    """Compiles in parallel; a compiler that crashes is the failure of what it compiled, and of nothing else.

    Args:
        work: What to do with each; None: `build`.
    """
    work = work or build
    # Not forked: PyTorch and LLVM have threads. The server that is forked instead imports them only once.
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
        with ProcessPoolExecutor(1, context) as alone:
            try:
                yield alone.submit(work, *job).result()
            except BrokenProcessPool:
                yield Build(*job, problems=("the compiler crashed",))


def build(launch: Launch, chip: Chip) -> Build:
    """Compiles `launch` and looks at what came out."""
    compiled, failure = _compiled(launch, chip)
    if compiled is None:
        return Build(launch, chip, problems=(failure,))
    if "ptx" not in compiled.asm or "ttgir" not in compiled.asm:
        return Build(launch, chip, problems=("Triton's cache has its machine code alone, which says too little",))
    registers, spills = resources(compiled.asm["cubin"])
    found = Build(launch, chip, registers, spills, compiled.metadata.shared, tensor_core(compiled.asm["ptx"]))
    memory = getattr(compiled.metadata, "tmem_size", None) or 0
    return Build(**{**vars(found), "problems": tuple(problems(found, memory, compiled.asm["ttgir"]))})


def fill_cache(launch: Launch, chip: Chip) -> Build:
    """Compiles `launch` into Triton's cache, where it isn't there yet; no problem but a failure is told."""
    _, failure = _compiled(launch, chip)
    return Build(launch, chip, problems=(failure,) if failure else ())


def _compiled(launch: Launch, chip: Chip) -> tuple[Any, str]:
    """(Triton's compiled kernel, ""), as a real launch would have it, except that nothing is loaded; or (None, why)."""
    source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", message=".*FP_FUSION.*")
            return triton.compile(source, target=chip.target, options=launch.options), ""
    except Exception as error:
        text = " ".join(f"{error}".split())
        return None, f"{type(error).__name__}: {text[:400]}"


def problems(found: Build, tensor_memory: int, ttgir: str) -> Iterator[str]:
    """What is wrong with a compiled kernel; `ttgir` is Triton's last form in which a tl.dot is still one."""
    if found.spills:
        yield f"spills {found.spills} bytes"
    if found.shared > found.chip.shared:
        yield f"needs {found.shared} bytes of shared memory, {found.chip.name} has {found.chip.shared}"
    if tensor_memory > _TENSOR_MEMORY:
        yield f"needs {tensor_memory} columns of tensor memory, {found.chip.name} has {_TENSOR_MEMORY}"
    narrow = [line for line in ttgir.splitlines() if re.search(r"\b(tt\.dot|tt\.dot_scaled)\b", line)]
    narrow = [line for line in narrow if _NARROW.search(line) and "parent = #blocked" in line]
    if narrow:
        yield f"{len(narrow)} tl.dot in tf32, fp16 or bf16 without a tensor-core instruction"


def tensor_core(ptx: str) -> str:
    """The kinds of tensor-core instructions in PTX, "none" where there are none."""
    return " ".join(name for name, pattern in _TENSOR_CORE.items() if re.search(pattern, ptx)) or "none"


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory of a compiled kernel's thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [cuobjdump(), "--dump-resource-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return values["REG"], values["STACK"] + values.get("LOCAL", 0)


@cache
def cuobjdump() -> str:
    """The program that reads machine code."""
    path: Any = triton.knobs.nvidia.cuobjdump.path  # the one that Triton ships, unless its settings say otherwise
    return str(path)
