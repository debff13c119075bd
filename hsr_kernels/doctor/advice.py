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
        command: What helps; "" where nothing does.
        backends: Those that it helps.
    """

    sentence: str
    command: str
    backends: tuple[str, ...] = ()


def named(names: Iterable[str]) -> str:
    """Names in a sentence: "a, b and c"."""
    *most, last = dict.fromkeys(names)
    return f"{', '.join(most)} and {last}" if most else last


def install(apt: str, dnf: str) -> str:
    sudo = "" if getattr(os, "geteuid", lambda: 1)() == 0 else "sudo "
    return f"{sudo}dnf install {dnf}" if shutil.which("dnf") else f"{sudo}apt install {apt}"


def build(what: str, archs: str = "") -> str:
    """The command that builds an extension, "CPU" or "CUDA"; into the source folder if this package lies in it."""
    root = Path(_package).resolve().parents[1]
    setting = f"HSR_BUILD_{what}=1 " + (f"HSR_CUDA_ARCHS={archs} " if archs else "")
    if (root / "setup.py").exists() and (root / "csrc").exists():
        return f"{setting}pip install --no-deps -e {root}"
    return f"{setting}pip install --force-reinstall --no-deps .  # in the source folder"


def advice(machine: Machine) -> Iterator[Advice]:
    """What would make the library faster here, the most basic first; nothing on GPUs where there is none."""
    yield from extension("CPU", bool(machine.compiler.path))
    if machine.unused:
        yield unused_gpu(machine)
    archs = architectures(machine)
    if machine.unused or archs:
        if not machine.triton:
            yield Advice("Triton isn't installed, so its kernels don't run.", "pip install triton", ("triton",))
        elif machine.triton_lacks and not native.triton_interprets():
            header = "Python.h" in machine.triton_lacks
            command = install("python3-dev", "python3-devel") if header else install("gcc", "gcc")
            yield Advice(f"{machine.triton_lacks}.", command, ("triton",))
        yield from extension("CUDA", bool(machine.nvcc.path), archs)
    if not native.missing("_cuda"):
        yield from other_architectures(machine)


def other_architectures(machine: Machine) -> Iterator[Advice]:
    """On GPUs that the CUDA extension, which is there, wasn't compiled for."""
    lacking = [g for g in machine.gpus if not g.problem and "compiled for" in native.cuda_lacks(g.indices[0])]
    able = [g for g in lacking if g.capability >= native.MIN_CAPABILITY]
    if able:
        sentence = f"hsr_kernels._cuda wasn't compiled for {named(g.label for g in able)}."
        yield Advice(sentence, build("CUDA", architectures(machine)), ("cuda",))


def architectures(machine: Machine) -> str:
    """Those of this machine's GPUs that CUDA code can be compiled for, as HSR_CUDA_ARCHS takes them; "": unknown."""
    able = {gpu.capability for gpu in machine.gpus if gpu.capability >= native.MIN_CAPABILITY}
    return ",".join("{}{}".format(*capability) for capability in sorted(able))


def extension(what: str, has_compiler: bool, archs: str = "") -> Iterator[Advice]:
    """On an extension, "CPU" or "CUDA", that isn't there; `archs`: what CUDA code is to be compiled for."""
    name, backends = f"_{what.lower()}", (what.lower(),)
    if native.load(name)[0] is not None:
        return
    cost = "CPU tensors run on the slow reference" if what == "CPU" else "the cuda backend doesn't run"
    if hidden := installed_beside(name):
        sentence = f"The copy in {Path(_package).parent} has no {name} and hides the one in {hidden}, which has it."
        yield Advice(sentence, "cd / && python -m hsr_kernels.doctor", backends)
    elif has_compiler:
        yield Advice(f"hsr_kernels.{name} can't be loaded, so {cost}.", build(what, archs), backends)
    elif what == "CPU":
        command = f"{install('g++', 'gcc-c++')} && {build(what)}"
        yield Advice(f"There is no C++ compiler to build hsr_kernels._cpu with, so {cost}.", command, backends)
    else:
        sentence = f"There is no nvcc to build hsr_kernels._cuda with, so {cost}. "
        source = "It comes from NVIDIA's repository: https://developer.nvidia.com/cuda-downloads"
        command = f"{install('cuda-toolkit', 'cuda-toolkit')} && {build(what, archs)}"
        yield Advice(sentence + source, command, backends)


def unused_gpu(machine: Machine) -> Advice:
    """On an NVIDIA GPU that PyTorch doesn't see."""
    contained = any(os.path.exists(sign) for sign in ("/.dockerenv", "/run/.containerenv"))
    driver = install("nvidia-driver", "nvidia-open")
    driver = "sudo ubuntu-drivers install" if shutil.which("ubuntu-drivers") else driver
    if not machine.driver:
        command = "docker run --gpus all ...  # the driver comes from outside the container" if contained else driver
        return Advice("There is an NVIDIA GPU, but no driver for it.", command, GPU_BACKENDS)
    if not torch.version.cuda:
        sentence = f"This PyTorch is built for {machine.torch_for}, so the NVIDIA GPU isn't used."
        return Advice(sentence, "pip install --force-reinstall --index-url https://pypi.org/simple torch", GPU_BACKENDS)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and "No CUDA GPUs" in machine.torch_says:
        sentence = f"CUDA_VISIBLE_DEVICES={visible!r} hides the GPU from PyTorch."
        return Advice(sentence, "unset CUDA_VISIBLE_DEVICES", GPU_BACKENDS)
    if "driver" in machine.torch_says and "too old" in machine.torch_says:
        outside = "  # outside the container" if contained else ""
        return Advice(f"PyTorch can't use the GPU: {machine.torch_says}.", driver + outside, GPU_BACKENDS)
    command = f'{sys.executable} -c "import torch; torch.cuda.init()"  # shows the whole error'
    return Advice(f"PyTorch can't use the GPU: {machine.torch_says}.", command, GPU_BACKENDS)
