# SPDX-License-Identifier: Apache-2.0
"""Loads the compiled extension once and remembers why it could not be loaded."""

import functools
import importlib
from pathlib import Path
from types import ModuleType

_REPORT = Path(__file__).with_name("_build_report.txt")


@functools.cache
def load(name: str) -> tuple[ModuleType | None, str]:
    """Returns (module, "") for `hsr_kernels.<name>`, or (None, reason) where it can't be loaded."""
    try:
        return importlib.import_module(f"hsr_kernels.{name}"), ""
    except ImportError as error:
        built = _REPORT.read_text().strip() if _REPORT.exists() else ""
        return None, built or f"the extension hsr_kernels.{name} can't be imported: {error}"


def cpu() -> ModuleType:
    """The CPU extension; only called once a backend that needs it has been chosen."""
    module, reason = load("_cpu")
    if module is None:
        raise RuntimeError(reason)
    return module
