# SPDX-License-Identifier: Apache-2.0
"""Loads what the backends need, the compiled extension and Triton, once, and remembers why it could not be loaded."""

import functools
import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import torch

_REPORT = Path(__file__).with_name("_build_report.txt")

# While hsr_kernels.aot records launches, the Triton implementations take CPU tensors (that have no data).
triton_recorded = False


@functools.cache
def load(name: str) -> tuple[ModuleType | None, str]:
    """Returns (module, "") for `hsr_kernels.<name>`, or (None, reason) where it can't be loaded."""
    try:
        return importlib.import_module(f"hsr_kernels.{name}"), ""
    except ImportError as error:
        built = _REPORT.read_text().strip() if _REPORT.exists() else ""
        return None, built or f"the extension hsr_kernels.{name} can't be imported: {error}"


def missing(name: str) -> str:
    """Why `hsr_kernels.<name>`, or "triton", can't be used, "" where it can; torch.compile takes it for granted."""
    return _without_triton() if name == "triton" else load(name)[1]


@functools.cache
def _without_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton isn't installed"
    if triton_interprets():
        return ""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return ""


def triton_interprets() -> bool:
    """Whether Triton was told to interpret its kernels: they then run on CPU tensors, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


# What torch.compiler.assume_constant_result does, less its import of the whole compiler (Triton included).
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def cpu() -> ModuleType:
    """The CPU extension; only called once a backend that needs it has been chosen."""
    module, reason = load("_cpu")
    if module is None:
        raise RuntimeError(reason)
    return module
