# SPDX-License-Identifier: Apache-2.0
"""What `hsr_kernels.doctor` finds missing: what that costs, and the command that helps."""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import __file__ as _package
from .._dispatch import native
from .machine import Machine, installed_beside

GPU_BACKENDS = ("triton", "cuda")


@dataclass(frozen=True)
class Advice:
    """Something missing or wrong.

    Attributes:
        sentence: What it is and what it costs.
        command: The command that helps, empty if none does.
        backends: The backends that it helps.
    """

    sentence: str
    command: str
    backends: tuple[str, ...] = ()


def enumerate_names(names: Iterable[str]) -> str:
    """Returns the distinct names as part of a sentence: "a, b and c"."""
    *names, final = dict.fromkeys(names)
    return f"{', '.join(names)} and {final}" if names else final


def install(apt: str, dnf: str) -> str:
    """Returns the command that installs a system package, whose name depends on the package manager."""
    sudo = "" if getattr(os, "geteuid", lambda: 1)() == 0 else "sudo "
    return f"{sudo}dnf install {dnf}" if shutil.which("dnf") else f"{sudo}apt install {apt}"


def build(platform: str, archs: str = "") -> str:
    """Returns the command that builds an extension, into the source folder if this package lies in it.

    Args:
        platform: "CPU" or "CUDA".
        archs: HSR_CUDA_ARCHS, empty for its default.
    """
    root = Path(_package).resolve().parents[1]
    setting = f"HSR_BUILD_{platform}=1 " + (f"HSR_CUDA_ARCHS={archs} " if archs else "")
    if (root / "setup.py").exists() and (root / "csrc").exists():
        return f"{setting}pip install --no-deps -e {root}"
    return f"{setting}pip install --force-reinstall --no-deps .  # in the source folder"


def advice(machine: Machine) -> Iterator[Advice]:
    """Yields what would make the library faster on this machine, the most basic first."""
    yield from extension("CPU", bool(machine.compiler.path))
    if machine.unused_gpus:
        yield unused_gpu(machine)
    archs = architectures(machine)
    if machine.unused_gpus or archs:
        if not machine.triton:
            yield Advice("Triton isn't installed, so its kernels don't run.", "pip install triton", ("triton",))
        elif machine.triton_problem and not native.triton_interprets():
            header = "Python.h" in machine.triton_problem
            command = install("python3-dev", "python3-devel") if header else install("gcc", "gcc")
            yield Advice(f"{machine.triton_problem}.", command, ("triton",))
        yield from extension("CUDA", bool(machine.nvcc.path), archs)
    if not native.missing("_cuda"):
        yield from other_architectures(machine)


def other_architectures(machine: Machine) -> Iterator[Advice]:
    """Yields advice on GPUs that the CUDA extension, which is there, wasn't compiled for."""
    gpus = [g for g in machine.gpus if not g.problem and "compiled for" in native.cuda_lacks(g.indices[0])]
    gpus = [g for g in gpus if g.capability >= native.MIN_CAPABILITY]
    if gpus:
        sentence = f"hsr_kernels._cuda wasn't compiled for {enumerate_names(g.label for g in gpus)}."
        yield Advice(sentence, build("CUDA", architectures(machine)), ("cuda",))


def architectures(machine: Machine) -> str:
    """Returns this machine's GPUs that CUDA code can be compiled for, as HSR_CUDA_ARCHS takes them; "" if unknown."""
    capabilities = {gpu.capability for gpu in machine.gpus if gpu.capability >= native.MIN_CAPABILITY}
    return ",".join("{}{}".format(*capability) for capability in sorted(capabilities))


def extension(platform: str, has_compiler: bool, archs: str = "") -> Iterator[Advice]:
    """Yields advice on an extension that isn't there.

    Args:
        platform: "CPU" or "CUDA".
        has_compiler: Whether the compiler for it is there.
        archs: HSR_CUDA_ARCHS, empty for its default.
    """
    name, backends = f"_{platform.lower()}", (platform.lower(),)
    if native.load(name)[0] is not None:
        return
    cost = "CPU tensors run on the slow reference" if platform == "CPU" else "the cuda backend doesn't run"
    if folder := installed_beside(name):
        sentence = f"The copy in {Path(_package).parent} has no {name} and hides the one in {folder}, which has it."
        yield Advice(sentence, "cd / && python -m hsr_kernels.doctor", backends)
    elif has_compiler:
        yield Advice(f"hsr_kernels.{name} can't be loaded, so {cost}.", build(platform, archs), backends)
    elif platform == "CPU":
        command = f"{install('g++', 'gcc-c++')} && {build(platform)}"
        yield Advice(f"There is no C++ compiler to build hsr_kernels._cpu with, so {cost}.", command, backends)
    else:
        sentence = f"There is no nvcc to build hsr_kernels._cuda with, so {cost}. "
        source = "It comes from NVIDIA's repository: https://developer.nvidia.com/cuda-downloads"
        command = f"{install('cuda-toolkit', 'cuda-toolkit')} && {build(platform, archs)}"
        yield Advice(sentence + source, command, backends)


def unused_gpu(machine: Machine) -> Advice:
    """Returns advice on an NVIDIA GPU that PyTorch doesn't see."""
    in_container = any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv"))
    driver = install("nvidia-driver", "nvidia-open")
    driver = "sudo ubuntu-drivers install" if shutil.which("ubuntu-drivers") else driver
    if not machine.driver:
        command = "docker run --gpus all ...  # the driver comes from outside the container" if in_container else driver
        return Advice("There is an NVIDIA GPU, but no driver for it.", command, GPU_BACKENDS)
    if not torch.version.cuda:
        sentence = f"This PyTorch is built for {machine.torch_platform}, so the NVIDIA GPU isn't used."
        return Advice(sentence, "pip install --force-reinstall --index-url https://pypi.org/simple torch", GPU_BACKENDS)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and "No CUDA GPUs" in machine.torch_problem:
        sentence = f"CUDA_VISIBLE_DEVICES={visible!r} hides the GPU from PyTorch."
        return Advice(sentence, "unset CUDA_VISIBLE_DEVICES", GPU_BACKENDS)
    if "driver" in machine.torch_problem and "too old" in machine.torch_problem:
        comment = "  # outside the container" if in_container else ""
        return Advice(f"PyTorch can't use the GPU: {machine.torch_problem}.", driver + comment, GPU_BACKENDS)
    command = f'{sys.executable} -c "import torch; torch.cuda.init()"  # shows the whole error'
    return Advice(f"PyTorch can't use the GPU: {machine.torch_problem}.", command, GPU_BACKENDS)
