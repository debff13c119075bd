# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels that the cases and the GPU's tests launch into an archive, on a machine without a GPU."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hsr_kernels.aot import record, warm

from . import cache, kernels, recording

CACHE_VARIABLE = "TRITON_CACHE_DIR"
# Between two lines that say how far it is.
KERNELS_PER_LINE = 100


def make(archive: Path, arch: str, processes: int, tests: bool, say: Callable[[str], None]) -> list[str]:
    """Compiles what the cases (and the GPU's tests) launch, and packs it; returns what failed, as sentences."""
    chip = record.CHIPS[arch]
    launches, faults = warm.recorded(kernels.calls(), chip)
    say(f"{len(launches)} kernels of the cases")
    if tests:
        keys = {launch.key for launch in launches}
        added = [launch for launch in recording.launches(arch) if launch.key not in keys]
        say(f"{len(added)} kernels more of the tests")
        launches = warm.largest_first([*launches, *added])

    def tell(count: int, total: int) -> None:
        if count and count % KERNELS_PER_LINE == 0:
            say(f"{count} of {total} compiled")

    with tempfile.TemporaryDirectory() as folder:
        with _caching_in(folder):
            faults += warm.failures(warm.compile_missing(launches, chip, processes, tell))
        cache.declare(Path(folder), arch, len(launches))
        count = cache.pack(Path(folder), archive)
    say(f"{archive}: {count} kernels, {archive.stat().st_size / 1e6:.1f} MB")
    return faults


@contextmanager
def _caching_in(folder: str) -> Iterator[None]:
    """Lets Triton cache in a folder, also in the compiling processes: so it is the variable that is set."""
    before = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = folder
    try:
        yield
    finally:
        os.environ.pop(CACHE_VARIABLE)
        if before is not None:
            os.environ[CACHE_VARIABLE] = before
