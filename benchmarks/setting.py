# SPDX-License-Identifier: Apache-2.0
"""Where a measurement is made: the checkout, its commit, the processor and its cores."""

import os
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """The processor's name."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def commit() -> str:
    """HSR_COMMIT, for copies without .git; else the short hash of the checkout, + if it has changes; else "unknown"."""
    if given := os.environ.get("HSR_COMMIT"):
        return given
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
