# SPDX-License-Identifier: Apache-2.0
"""Loads what the backends need, the compiled extensions and Triton, once, and remembers why one could not be loaded."""

import functools
import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import torch

_EMULATED = "HSR_CUDA_EMULATED"  # names a _cuda extension whose kernels run on the CPU, for tests

# While hsr_kernels.aot records launches, the Triton implementations take CPU tensors (that have no data).
triton_recorded = False


@functools.cache
def load(name: str) -> tuple[ModuleType | None, str]:
    """Returns (module, "") for `hsr_kernels.<name>`, or (None, reason) where it can't be loaded."""
    try:
        if name == "_cuda" and cuda_is_emulated():
            return _emulated(os.environ[_EMULATED]), ""
        return importlib.import_module(f"hsr_kernels.{name}"), ""
    except ImportError as error:
        report = Path(__file__).with_name(f"{name}_build.txt")
        built = report.read_text().strip() if report.exists() else ""
        return None, built or f"the extension hsr_kernels.{name} can't be imported: {error}"


def _emulated(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("hsr_kernels._cuda", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{_EMULATED} names {path}, which is no extension")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def cuda_is_emulated() -> bool:
    """Whether the CUDA kernels run in the tests' emulator: on CPU tensors, slowly."""
    return bool(os.environ.get(_EMULATED))


def missing(name: str) -> str:
    """Why an extension, or "triton", can't be used, "" where it can; torch.compile takes it for granted."""
    if name == "triton":
        return _without_triton()
    return _without_cuda() if name == "_cuda" else load(name)[1]


@functools.cache
def _without_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton isn't installed"
    if triton_interprets():
        return ""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return ""


@functools.cache
def _without_cuda() -> str:
    module, reason = load("_cuda")
    if module is None:
        return reason
    reason = module.problem()
    if not reason and not cuda_is_emulated() and not torch.cuda.is_available():
        return "PyTorch sees no CUDA device (is it a build without CUDA?)"
    return reason


@functools.cache
def cuda_lacks(device: int) -> str:
    """Why the CUDA kernels, which are there, can't run on one of the devices; "" where they can."""
    return cuda().problem_of(device)


@functools.cache
def triton_interprets() -> bool:
    """Whether Triton was told to interpret its kernels: they then run on CPU tensors, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


# What torch.compiler.assume_constant_result does, less its import of the whole compiler (Triton included).
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]
cuda_lacks._dynamo_marked_constant = True  # type: ignore[attr-defined]
cuda_is_emulated._dynamo_marked_constant = True  # type: ignore[attr-defined]
triton_interprets._dynamo_marked_constant = True  # type: ignore[attr-defined]


def cpu() -> ModuleType:
    """The CPU extension; only called once a backend that needs it has been chosen."""
    return _loaded("_cpu")


def cuda() -> ModuleType:
    """The CUDA extension; only called once a backend that needs it has been chosen."""
    return _loaded("_cuda")


def _loaded(name: str) -> ModuleType:
    module, reason = load(name)
    if module is None:
        raise RuntimeError(reason)
    return module
