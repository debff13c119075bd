# SPDX-License-Identifier: Apache-2.0
"""`python -m hsr_kernels.aot` compiles every GPU kernel without a GPU and fails if one would be slow or not run.

With --warm it compiles those of some work into Triton's cache, where the first launch finds them.
"""

import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import tyro
from rich.console import Console

from .._dispatch.native import triton_interprets

console = Console(width=None if sys.stdout.isatty() else 200)
CHECKED_CHIPS = "sm_80,sm_90,sm_100,sm_120"
# Styled layers by themselves, and what `hsr train` runs.
WARMED_WORK = "hsr_kernels.aot.workload:styled_layers,hsr.training.kernels:calls"


def main(
    arch: str = "",
    kernel: str = "",
    sample: bool = False,
    full: str = "",
    dtype: str = "fp32,fp16,bf16",
    csv: Path | None = None,
    cuda: str = "",
    warm: bool = False,
    workload: str = WARMED_WORK,
) -> None:
    """Compiles the Triton kernels in every way that the operators launch them, without a GPU, and checks them.

    The CUDA kernels, which the package's build has compiled, are read from hsr_kernels._cuda into the same table.

    In full, that is every kernel in each combination of compile-time constants, tile sizes, warps, stages and dtypes
    that networks of 4 to 1024 pixels, images of odd sizes and images of more than 2^31 elements launch it in, and for
    everything that Triton then knows of the arguments' values (that 16 divides a size or an address, that a number is
    1, that it fits 32 bits): none of these is always the one that needs the most registers or shared memory.

    Exits with 1 where a kernel doesn't compile, spills registers, needs more shared memory than the chip has, computes
    a tl.dot in tf32, fp16 or bf16 without tensor cores, or is never launched.

    With --warm nothing is checked: what --workload launches is compiled, on all cores, into Triton's cache
    (TRITON_CACHE_DIR), unless it is there. The first launch on such a GPU then finds it, with the same versions of
    this package, Python and Triton. Exits with 1 where a kernel doesn't compile or a call fails.

    Args:
        arch: Chips to compile for, separated by commas: sm_80, sm_86, sm_89, sm_90, sm_100, sm_120, and AMD's
            gfx942, gfx950, gfx1100. The default is sm_80,sm_90,sm_100,sm_120, and with --warm this machine's GPU.
        kernel: Only the kernels whose name contains this.
        sample: Each kernel once per dtype and precision of products, in its largest tile, instead of in full.
        full: Chips of --arch to compile for in full, although there is --sample.
        dtype: Dtypes of the images, separated by commas: fp32, fp16, bf16.
        csv: Also write one line per compiled kernel, with its whole signature, to this file.
        cuda: Chips that hsr_kernels._cuda must have code for, which is checked whether or not --arch names them.
        warm: Fill Triton's cache instead.
        workload: What --warm compiles the kernels of, separated by commas: MODULE:FUNCTION, whose function yields
            names and calls of the package's functions, which are made on tensors without data.
    """
    if importlib.util.find_spec("triton") is None:
        _fail("Triton isn't installed")
    if triton_interprets():
        _fail("TRITON_INTERPRET=1 makes Triton interpret its kernels, which then can't be compiled: unset it")
    if warm:
        return _warm(arch, workload, kernel)
    _check(arch or CHECKED_CHIPS, kernel, sample, full, dtype, csv, cuda)


def _check(arch: str, kernel: str, sample: bool, full: str, dtype: str, csv: Path | None, cuda: str) -> None:
    """Compiles and checks kernels; the arguments are those of `main`."""
    # These import Triton, which needn't be installed.
    from . import native, record, report, workload
    from .build import build_all

    names = _parse_names("arch", arch, list(record.CHIPS))
    full_names = _parse_names("full", full, names) if full else [] if sample else names
    required = _parse_names("cuda", cuda, list(record.CHIPS)) if cuda else []
    dtypes = [workload.DTYPES[name] for name in _parse_names("dtype", dtype, list(workload.DTYPES))]
    if csv is not None and (csv.is_dir() or not csv.absolute().parent.is_dir()):
        _fail(f"--csv must be a file in an existing folder, got {csv}")
    compiled = list(native.builds([*dict.fromkeys([*names, *required])], kernel))
    kernels = sorted({name.rpartition(".")[2] for name in record.library_kernels()} | {b.kernel for b in compiled})
    if not any(kernel in name for name in kernels):
        _fail(f"no kernel is called {kernel!r}; there are {', '.join(kernels)}")

    with console.status("Recording launches"):
        recordings = record.record(workload.calls(dtypes), [record.CHIPS[name] for name in names])
    jobs = []
    for chip, recording in recordings.items():
        launches = [launch for launch in recording.launches.values() if kernel in launch.kernel]
        jobs += [(launch, chip) for launch in (launches if chip.name in full_names else report.sampled(launches))]
    with console.status(f"Compiling {len(jobs)} kernels"):
        # The largest come first, so that no core waits at the end for one that takes long.
        jobs.sort(key=lambda job: job[0].size, reverse=True)
        builds = list(build_all(jobs, len(os.sched_getaffinity(0))))
    console.print(report.table(builds, compiled))
    if csv is not None:
        report.write_csv(csv, builds, compiled)
    faults = [f"{b.launch.kernel} ({report.configuration(b.launch)}) on {b.chip.name}: {p}"
              for b in builds for p in b.problems]  # fmt: skip
    faults += [f"{b.kernel} ({b.configuration}) on {b.arch}: {p}" for b in compiled for p in b.problems]
    missing = [name for name in required if name not in {b.arch for b in compiled}]
    faults += [f"there are no CUDA kernels for {name}: {native.why_none()}" for name in missing]
    unseen = record.forgotten(recordings.values())
    others = [dtype for dtype in workload.DTYPES.values() if dtype not in dtypes]
    if unseen and others:
        # A kernel of 16 bits isn't launched in float32, but isn't forgotten either.
        with console.status("Recording launches in other dtypes"):
            rest = record.record(workload.calls(others), list(recordings))
        unseen = record.forgotten([*recordings.values(), *rest.values()])
    faults += [f"{name} is never launched" for name in unseen if kernel in name]
    for fault in faults:
        console.print(fault, highlight=False, markup=False, soft_wrap=True)
    counts = f"{len(builds)} Triton and {len(compiled)} CUDA kernels" if compiled else f"{len(builds)} Triton kernels"
    console.print(f"{counts} compiled for {', '.join(names)}: {len(faults) or 'no'} problems", highlight=False)
    if faults:
        raise SystemExit(1)


def _warm(arch: str, workload: str, kernel: str) -> None:
    """Fills Triton's cache for chips, or for this machine's GPU if there is none among the arguments."""
    import torch

    from . import record, warm

    if not arch and not torch.cuda.is_available():
        _fail("there is no GPU here whose kernels could be compiled: name one by --arch, such as --arch sm_90")
    names = _parse_names("arch", arch, list(record.CHIPS)) if arch else []
    chips = [record.CHIPS[name] for name in names] or [record.chip_at_hand()]
    sources = [_function(name.strip()) for name in workload.split(",")]
    processes, faults = len(os.sched_getaffinity(0)), []
    for chip in chips:
        began = time.perf_counter()
        calls: Iterator[warm.NamedCall] = (call for source in sources for call in source())
        with console.status(f"Finding the kernels for {chip.name}") as status:
            outcome = warm.warm(
                calls, chip, processes, lambda done, total: status.update(f"Compiled {done} of {total} kernels"), kernel
            )
        console.print(outcome.described(chip, processes, time.perf_counter() - began), highlight=False)
        faults += [f"{fault} ({chip.name})" for fault in outcome.faults]
    for fault in faults:
        console.print(fault, highlight=False, markup=False, soft_wrap=True)
    if faults:
        raise SystemExit(1)


def _function(name: str) -> Callable[[], Iterator[tuple[str, Callable[[], None]]]]:
    """Returns the function MODULE:FUNCTION; exits where there is none."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        _fail(f"--workload must name functions as MODULE:FUNCTION, got {name!r} ({error})")
    return found


def _parse_names(option: str, value: str, choices: list[str]) -> list[str]:
    """Returns the distinct names in a comma-separated list; exits if one is none of the choices."""
    names = list(dict.fromkeys(name.strip() for name in value.split(",")))
    if not set(names) <= set(choices):
        _fail(f"--{option} must be a comma-separated list out of {', '.join(choices)}, got {value!r}")
    return names


def _fail(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m hsr_kernels.aot", config=(tyro.conf.FlagCreatePairsOff,))
