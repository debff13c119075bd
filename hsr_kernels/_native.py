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


def missing(name: str) -> str:
    """Why `hsr_kernels.<name>` can't be loaded, "" where it can; torch.compile takes the answer for granted."""
    return load(name)[1]


# What torch.compiler.assume_constant_result does, less its import of the whole compiler (Triton included).
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def cpu() -> ModuleType:
    """The CPU extension; only called once a backend that needs it has been chosen."""
    module, reason = load("_cpu")
    if module is None:
        raise RuntimeError(reason)
    return module
