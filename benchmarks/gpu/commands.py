# SPDX-License-Identifier: Apache-2.0
"""The commands for a GPU."""

import signal
import sys
import time
from pathlib import Path

from .. import device
from ..case import select
from ..messages import fail
from ..setting import cores
from . import archive as archives
from . import cache
from . import report as reports
from .cases import GPU_CASES


def report(out: Path, stages: str, case: str, minutes: float, since: float | None, again: bool, quick: bool) -> None:
    """Tests and measures everything on this machine's GPU."""
    # Ended from outside, it ends its workers: they have sessions of their own.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    select(case, GPU_CASES)
    if not 0 < minutes < float("inf"):
        fail(f"--minutes must be above 0, got {minutes:g}")
    elapsed = 0.0 if since is None else time.time() - since
    if not 0 <= elapsed < 60 * minutes:
        fail(f"--since must be less than --minutes ago, and {since:.0f} was {elapsed:.0f} seconds ago")
    try:
        names = reports.parse_stages(stages)
        reports.report(out, names, case, tiny=quick, seconds=60 * minutes - elapsed, again=again, say=_say)
    except reports.NotRun as error:
        fail(str(error))


def make_cache(archive: Path, arch: str, no_tests: bool, processes: int | None) -> None:
    """Compiles and packs the GPU's Triton kernels."""
    if not archive.name.endswith(".tar.xz") or not archive.absolute().parent.is_dir():
        fail(f"OUT must be a file in an existing folder whose name ends in .tar.xz, got {archive}")
    if processes is not None and processes < 1:
        fail(f"--processes must be at least 1, got {processes}")
    faults = archives.make(archive, arch, processes or cores(), not no_tests, _say)
    for fault in faults:
        _say(fault)
    if faults:
        raise SystemExit(1)


def unpack_cache(archive: Path, folder: Path) -> None:
    """Unpacks what `make_cache` packed."""
    try:
        kernels = cache.unpack(archive, folder, device.architecture())
    except (cache.UselessCache, OSError) as error:
        fail(str(error))
    _say(f"{kernels} kernels; now: export TRITON_CACHE_DIR={folder.absolute()}")


def _say(line: str) -> None:
    print(line, flush=True)
