# SPDX-License-Identifier: Apache-2.0
"""What the backends need, the compiled extensions, Triton and a GPU, and the reason why one of them is unavailable."""

import functools
import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import torch

from .. import _gpu

# Names a _cuda extension whose kernels run on the CPU, for tests.
EMULATED = "HSR_CUDA_EMULATED"
_PACKAGE = Path(__file__).parents[1]
MIN_CAPABILITY = (8, 0)

# While hsr_kernels.aot records launches, the Triton implementations take CPU tensors, which have no data.
triton_recorded = False


def load(name: str) -> tuple[ModuleType | None, str]:
    """Returns (module, "") for `hsr_kernels.<name>`, or (None, reason) where it can't be loaded."""
    return _load(name)


@functools.cache
def _load(name: str) -> tuple[ModuleType | None, str]:
    try:
        if name == "_cuda" and cuda_is_emulated():
            return _emulated(os.environ[EMULATED]), ""
        return importlib.import_module(f"hsr_kernels.{name}"), ""
    except ImportError as error:
        report = _PACKAGE / f"{name}_build.txt"
        built = report.read_text().strip() if report.exists() else ""
        return None, built or f"the extension hsr_kernels.{name} can't be imported: {error}"


# Never forgotten: an extension can't be loaded twice.
@functools.cache
def _emulated(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("hsr_kernels._cuda", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{EMULATED} names {path}, which is no extension")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def cuda_is_emulated() -> bool:
    """Whether the CUDA kernels run in the tests' emulator: on CPU tensors, slowly."""
    return bool(os.environ.get(EMULATED))


@functools.cache
def triton_interprets() -> bool:
    """Whether Triton was told to interpret its kernels: they then run on CPU tensors, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def simulated() -> tuple[str, ...]:
    """What runs on CPU tensors in place of a GPU's: "_cuda" emulated, "triton" interpreted."""
    runs = {"_cuda": cuda_is_emulated(), "triton": triton_interprets()}
    return tuple(name for name, is_simulated in runs.items() if is_simulated)


def missing(name: str) -> str:
    """The reason why an extension, or "triton", is unavailable; empty where it is available."""
    if name == "triton":
        return _why_no_triton()
    return _why_no_cuda() if name == "_cuda" else load(name)[1]


@functools.cache
def _why_no_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton isn't installed"
    if triton_interprets():
        return ""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return ""


@functools.cache
def _why_no_cuda() -> str:
    if _gpu.is_amd() and not cuda_is_emulated():
        return "its kernels are NVIDIA's alone, and this PyTorch is built for AMD's GPUs"
    module, reason = load("_cuda")
    if module is None:
        return reason
    reason = module.problem()
    if not reason and not cuda_is_emulated() and not torch.cuda.is_available():
        return "PyTorch sees no CUDA device (is it a build without CUDA?)"
    return reason


def unsuitable(name: str | None, device: torch.device | None) -> str:
    """The reason why a GPU (None: the current one) can't run what needs `name`, which is there; empty where it can."""
    index = None if device is None else device.index
    if name == "triton" and not triton_interprets():
        return _unknown_to_triton(index)
    if name == "_cuda" and not cuda_is_emulated():
        return cuda_lacks(torch.cuda.current_device() if index is None else index)
    return ""


@functools.cache
def chip(index: int | None) -> str:
    """The kind of a GPU (None: the current one), which must be there: see `_gpu.chip`."""
    return _gpu.chip(index)


@functools.cache
def capability(index: int | None) -> tuple[int, int]:
    """The compute capability of a CUDA device (None: the current one), which must be there."""
    return torch.cuda.get_device_capability(index)


def _unknown_to_triton(index: int | None) -> str:
    if _gpu.is_amd():
        name = chip(index)
        known = name.startswith(_gpu.AMD_CHIPS)
        return "" if known else f"of AMD's GPUs it knows gfx942, gfx950 and gfx110x, this one is {name}"
    found = capability(index)
    if found >= MIN_CAPABILITY:
        return ""
    needed, has = (".".join(map(str, version)) for version in (MIN_CAPABILITY, found))
    return f"it needs a GPU of compute capability {needed} or newer, this one is {has}"


@functools.cache
def cuda_lacks(device: int) -> str:
    """The reason why the CUDA kernels, which are there, can't run on one of the devices; empty where they can."""
    return cuda().problem_of(device)


@functools.cache
def _loaded(name: str) -> ModuleType:
    module, reason = _load(name)
    if module is None:
        raise RuntimeError(reason)
    return module


# The CPU and the CUDA extension; only called once a backend that needs them has been chosen.
cpu = functools.partial(_loaded, "_cpu")
cuda = functools.partial(_loaded, "_cuda")


def reset() -> None:
    """Forgets what was found missing or unsuitable; an extension that was loaded stays loaded."""
    for function in (
        _load, _loaded, cuda_is_emulated, triton_interprets, simulated, _why_no_triton, _why_no_cuda, chip, capability,
        cuda_lacks,
    ):  # fmt: skip
        function.cache_clear()
    _gpu.reset()
