# SPDX-License-Identifier: Apache-2.0
"""What `hsr_kernels.doctor` finds out about the machine, with the standard library and torch alone."""

import glob
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import _gpu
from .._dispatch import native


@dataclass(frozen=True)
class Tool:
    """A compiler.

    Attributes:
        path: Where it is, empty if it is missing.
        version: Its version, as it prints it.
    """

    path: str = ""
    version: str = ""


@dataclass(frozen=True)
class Gpu:
    """GPUs of one kind that PyTorch sees.

    Attributes:
        indices: Their numbers.
        name: Name of the chip.
        capability: Compute capability; (0, 0) of AMD's GPUs, which have none.
        gibibytes: Memory of one GPU.
        problem: Reason why PyTorch can't run anything on them, empty if it can.
        kind: As `_gpu.chip` returns it.
    """

    indices: tuple[int, ...]
    name: str
    capability: tuple[int, int]
    gibibytes: float
    problem: str = ""
    kind: str = ""

    @property
    def label(self) -> str:
        """Such as "cuda:0-3" or "cuda:0,2"."""
        start, end = self.indices[0], self.indices[-1]
        if len(self.indices) > 1 and end - start == len(self.indices) - 1:
            return f"cuda:{start}-{end}"
        return "cuda:" + ",".join(map(str, self.indices))


@dataclass(frozen=True)
class Device:
    """A kind of device, which has a column in the table of operators.

    Attributes:
        label: Its name in the table.
        torch_device: One device of this kind.
        problem: Reason why nothing runs on it, empty if something does.
    """

    label: str
    torch_device: torch.device
    problem: str = ""


@dataclass(frozen=True)
class Machine:
    """What there is on this machine.

    Attributes:
        torch_platform: What torch was built for: "CUDA 13.0", "ROCm 7.0" or "CPUs only".
        triton: Version of Triton, empty if it isn't installed.
        triton_problem: Reason why Triton can't launch its first kernel on a GPU, empty if it can.
        compiler: The C++ compiler that setup.py would use.
        nvcc: The nvcc that setup.py would use.
        driver: Version of the NVIDIA driver, empty if there is none.
        gpus: The GPUs that PyTorch sees.
        unused_gpus: Names of NVIDIA GPUs that are there although PyTorch sees none.
        torch_problem: Reason why PyTorch sees none of `unused_gpus`.
        isa: The instruction set of hsr_kernels._cpu, empty if it can't be used.
        isa_problem: Reason why the extension, which is there, runs nothing, empty if it runs.
    """

    torch_platform: str
    triton: str
    triton_problem: str
    compiler: Tool
    nvcc: Tool
    driver: str
    gpus: tuple[Gpu, ...]
    unused_gpus: tuple[str, ...]
    torch_problem: str
    isa: str
    isa_problem: str

    @property
    def devices(self) -> list[Device]:
        """The kinds of devices that PyTorch can be asked to compute on."""
        gpus = [Device(gpu.label, torch.device("cuda", gpu.indices[0]), gpu.problem) for gpu in self.gpus]
        return [Device("cpu", torch.device("cpu")), *gpus]

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU, usable or not."""
        return bool(self.gpus or self.unused_gpus)


def inspect_machine() -> Machine:
    """Looks at everything once; runs other programs to get their versions."""
    driver, names = nvidia()
    gpus = torch_gpus()
    unused_gpus = () if gpus else names
    return Machine(
        torch_platform(), triton_version(), triton_problem(), compiler(), nvcc(), driver, gpus, unused_gpus,
        torch_problem() if unused_gpus else "", *instruction_set(),
    )  # fmt: skip


def output_of(*command: str) -> str:
    """Returns what a program prints, or "" if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def first_sentence(text: object) -> str:
    """Returns the first sentence of an error message, without its full stop."""
    lines = str(text).strip().splitlines() or [""]
    return lines[0].partition(". ")[0].rstrip(".")


def torch_platform() -> str:
    """Returns what torch was built for."""
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    hip = getattr(torch.version, "hip", None)
    return f"ROCm {hip}" if hip else "CPUs only"


def triton_version() -> str:
    """Returns the version of Triton, or "" if it isn't installed."""
    if importlib.util.find_spec("triton") is None:
        return ""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def triton_problem() -> str:
    """Returns the reason why Triton can't launch its first kernel on this machine, or "".

    Before that launch it compiles a module in C, which it keeps in its cache.
    """
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")
    cache = os.environ.get("TRITON_CACHE_DIR") or os.path.join(home, ".triton", "cache")
    if glob.glob(os.path.join(glob.escape(cache), "*", "cuda_utils*")):
        return ""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton finds no C compiler (gcc, clang or what CC names), which its first launch needs"
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        return "Triton finds no Python.h, which its first launch needs"
    return ""


def compiler() -> Tool:
    """Returns the C++ compiler that setup.py would use."""
    name = os.environ.get("CXX") or next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), "")
    path = shutil.which(name.split()[0]) if name.split() else None
    if path is None:
        return Tool()
    return Tool(path if " " not in name else name, (output_of(path, "--version").splitlines() or [""])[0])


def nvcc() -> Tool:
    """Returns the nvcc that setup.py would use."""
    homes = [os.path.join(os.environ[n], "bin") for n in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(n)]
    folders = os.pathsep.join((*homes, os.environ.get("PATH", ""), "/usr/local/cuda/bin"))
    path = shutil.which(os.environ.get("CUDACXX") or "nvcc", path=folders)
    if path is None:
        return Tool()
    release = re.search(r"release (\S+), V(\S+)", output_of(path, "--version"))
    return Tool(path, f"CUDA {release[1]} (V{release[2]})" if release else "of unknown version")


def nvidia() -> tuple[str, tuple[str, ...]]:
    """Returns (version of the driver or "", names of the NVIDIA GPUs, of those that nothing can use too)."""
    lines = output_of("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader").splitlines()
    rows = [line.partition(", ") for line in lines if ", " in line]
    if rows:
        return rows[0][0], tuple(name for _, _, name in rows)
    proc = Path("/proc/driver/nvidia/version")
    version = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", proc.read_text()) if proc.exists() else None
    return version[1] if version else "", pci_gpus()


def pci_gpus(folder: str = "/sys/bus/pci/devices") -> tuple[str, ...]:
    """Returns NVIDIA's display controllers on the PCI bus, which shows them even without a driver."""
    gpus = []
    for device in sorted(Path(folder).glob("*")):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            gpus.append(f"NVIDIA GPU at PCI address {device.name}")
    return tuple(gpus)


def torch_gpus() -> tuple[Gpu, ...]:
    """Returns the GPUs that PyTorch sees, equal ones as one entry."""
    with warnings.catch_warnings():
        # torch_problem returns what the warnings would say.
        warnings.simplefilter("ignore")
        if not torch.cuda.is_available():
            return ()
        groups: dict[tuple[str, tuple[int, int], float, str, str], list[int]] = {}
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            capability = (0, 0) if _gpu.is_amd() else torch.cuda.get_device_capability(index)
            gibibytes = round(properties.total_memory / 2**30, 1)
            key = (properties.name, capability, gibibytes, gpu_problem(index), _gpu.chip(index))
            groups.setdefault(key, []).append(index)
    return tuple(Gpu(tuple(indices), *key) for key, indices in groups.items())


def gpu_problem(index: int) -> str:
    """Returns the reason why PyTorch can't run a kernel of its own on a GPU that it sees, or ""."""
    try:
        torch.zeros(1, device=torch.device("cuda", index)).add(1).item()
    except RuntimeError as error:
        return f"PyTorch can't run on it: {first_sentence(error)}"
    return ""


def torch_problem() -> str:
    """Returns the reason why PyTorch sees no GPU."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_sentence(error)
    return "PyTorch sees no CUDA device"


def instruction_set() -> tuple[str, str]:
    """Returns (instruction set of hsr_kernels._cpu, problem), of which at least one is empty.

    HSR_CPU_ISA may request a set that the processor lacks.
    """
    module, _ = native.load("_cpu")
    if module is None:
        return "", ""
    try:
        return module.isa(), ""
    except RuntimeError as error:
        return "", str(error).removeprefix("hsr_kernels: ")


def system() -> str:
    """Returns the versions of Python and the operating system, and the processor's architecture."""
    return f"{platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}"


def processor() -> str:
    """Returns the processor's name, its cores and the number of threads that PyTorch uses."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    counts = f"{cores} core{'s' * (cores > 1)}, PyTorch uses {torch.get_num_threads()}"
    return f"{name[1].strip()}: {counts}" if name else counts


def installed_beside(extension: str) -> str:
    """Returns the folder of an installed copy of hsr_kernels that has an extension which this one lacks, or ""."""
    own_folder = Path(__file__).parents[1].resolve()
    for distribution in importlib.metadata.distributions(name="hsr-kernels"):
        folder = Path(str(distribution.locate_file("hsr_kernels"))).resolve()
        if folder != own_folder and any(folder.glob(f"{extension}.*")):
            return str(folder)
    return ""
