# SPDX-License-Identifier: Apache-2.0
"""What `hsr_kernels.doctor` finds out about the machine, with nothing but the standard library and torch."""

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

from .._dispatch import native


@dataclass(frozen=True)
class Tool:
    """A compiler: where it is ("" if nowhere) and which version."""

    path: str = ""
    version: str = ""


@dataclass(frozen=True)
class Gpu:
    """GPUs of one kind that PyTorch sees.

    Attributes:
        indices: Their numbers.
        name: The chip's.
        capability: Compute capability.
        gibibytes: Memory of one.
        problem: Why PyTorch can't run anything on them, or "".
    """

    indices: tuple[int, ...]
    name: str
    capability: tuple[int, int]
    gibibytes: float
    problem: str = ""

    @property
    def label(self) -> str:
        """Such as "cuda:0-3" or "cuda:0,2"."""
        first, last = self.indices[0], self.indices[-1]
        if len(self.indices) > 1 and last - first == len(self.indices) - 1:
            return f"cuda:{first}-{last}"
        return "cuda:" + ",".join(map(str, self.indices))


@dataclass(frozen=True)
class Device:
    """What the table of operators has a column for; `problem`: why nothing runs on it."""

    label: str
    device: torch.device
    problem: str = ""


@dataclass(frozen=True)
class Machine:
    """What there is.

    Attributes:
        torch_for: What torch was built for: "CUDA 13.0", "ROCm 7.0" or "CPUs only".
        triton: Its version, "" where it isn't installed.
        triton_lacks: What Triton needs to launch its first kernel on a GPU and doesn't find, or "".
        compiler: For C++, as setup.py looks for it.
        nvcc: As setup.py looks for it.
        driver: Version of the NVIDIA driver, or "".
        gpus: Those that PyTorch sees.
        unused: Names of NVIDIA GPUs that are there although PyTorch sees none.
        torch_says: Why PyTorch sees none of `unused`.
        isa: The instruction set of hsr_kernels._cpu, or "".
        isa_problem: Why the extension, which is there, runs nothing, or "".
    """

    torch_for: str
    triton: str
    triton_lacks: str
    compiler: Tool
    nvcc: Tool
    driver: str
    gpus: tuple[Gpu, ...]
    unused: tuple[str, ...]
    torch_says: str
    isa: str
    isa_problem: str

    @property
    def devices(self) -> list[Device]:
        """Those that PyTorch can be asked to compute on."""
        gpus = [Device(gpu.label, torch.device("cuda", gpu.indices[0]), gpu.problem) for gpu in self.gpus]
        return [Device("cpu", torch.device("cpu")), *gpus]

    @property
    def has_gpu(self) -> bool:
        """Whether there is one, be it usable or not."""
        return bool(self.gpus or self.unused)


def look() -> Machine:
    """Looks at everything once; asks other programs for their versions."""
    driver, names = nvidia()
    gpus = torch_gpus()
    unused = () if gpus else names
    return Machine(
        torch_built_for(), triton_version(), triton_lacks(), compiler(), nvcc(), driver, gpus, unused,
        torch_refuses() if unused else "", *instruction_set(),
    )  # fmt: skip


def said(*command: str) -> str:
    """What a program prints, "" where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def first_sentence(text: object) -> str:
    """Of an error message, without its full stop."""
    lines = str(text).strip().splitlines() or [""]
    return lines[0].partition(". ")[0].rstrip(".")


def torch_built_for() -> str:
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    hip = getattr(torch.version, "hip", None)
    return f"ROCm {hip}" if hip else "CPUs only"


def triton_version() -> str:
    if importlib.util.find_spec("triton") is None:
        return ""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def triton_lacks() -> str:
    """Triton compiles a module in C before its first launch on a machine and keeps it in its cache."""
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
    name = os.environ.get("CXX") or next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), "")
    path = shutil.which(name.split()[0]) if name.split() else None
    if path is None:
        return Tool()
    return Tool(path if " " not in name else name, (said(path, "--version").splitlines() or [""])[0])


def nvcc() -> Tool:
    homes = [os.path.join(os.environ[n], "bin") for n in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(n)]
    folders = os.pathsep.join((*homes, os.environ.get("PATH", ""), "/usr/local/cuda/bin"))
    path = shutil.which(os.environ.get("CUDACXX") or "nvcc", path=folders)
    if path is None:
        return Tool()
    release = re.search(r"release (\S+), V(\S+)", said(path, "--version"))
    return Tool(path, f"CUDA {release[1]} (V{release[2]})" if release else "of unknown version")


def nvidia() -> tuple[str, tuple[str, ...]]:
    """(version of the driver or "", names of the NVIDIA GPUs), also of those that nothing can use."""
    lines = said("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader").splitlines()
    rows = [line.partition(", ") for line in lines if ", " in line]
    if rows:
        return rows[0][0], tuple(name for _, _, name in rows)
    proc = Path("/proc/driver/nvidia/version")
    version = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", proc.read_text()) if proc.exists() else None
    return version[1] if version else "", pci_gpus()


def pci_gpus(folder: str = "/sys/bus/pci/devices") -> tuple[str, ...]:
    """NVIDIA's display controllers on the PCI bus, which are there without a driver too."""
    found = []
    for device in sorted(Path(folder).glob("*")):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            found.append(f"NVIDIA GPU at PCI address {device.name}")
    return tuple(found)


def torch_gpus() -> tuple[Gpu, ...]:
    """The GPUs that PyTorch sees, those alike as one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they would say, torch_refuses says
        if not torch.cuda.is_available():
            return ()
        alike: dict[tuple[str, tuple[int, int], float, str], list[int]] = {}
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            capability = torch.cuda.get_device_capability(index)
            key = (properties.name, capability, round(properties.total_memory / 2**30, 1), gpu_problem(index))
            alike.setdefault(key, []).append(index)
    return tuple(Gpu(tuple(indices), *key) for key, indices in alike.items())


def gpu_problem(index: int) -> str:
    """Why PyTorch can't run a kernel of its own on a GPU that it sees, or ""."""
    try:
        torch.zeros(1, device=torch.device("cuda", index)).add(1).item()
    except RuntimeError as error:
        return f"PyTorch can't run on it: {first_sentence(error)}"
    return ""


def torch_refuses() -> str:
    """Why PyTorch sees no GPU."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_sentence(error)
    return "PyTorch sees no CUDA device"


def instruction_set() -> tuple[str, str]:
    """(what hsr_kernels._cpu runs on, why it doesn't run): HSR_CPU_ISA may ask for what there isn't."""
    module, _ = native.load("_cpu")
    if module is None:
        return "", ""
    try:
        return module.isa(), ""
    except RuntimeError as error:
        return "", str(error).removeprefix("hsr_kernels: ")


def system() -> str:
    """Python, the operating system and the processor's kind."""
    return f"{platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}"


def processor() -> str:
    """Cores and the threads that PyTorch uses of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    what = f"{cores} core{'s' * (cores > 1)}, PyTorch uses {torch.get_num_threads()}"
    return f"{name[1].strip()}: {what}" if name else what


def installed_beside(extension: str) -> str:
    """The folder of an installed copy that has an extension which this one, found first, lacks; "" without one."""
    here = Path(__file__).parent
    for distribution in importlib.metadata.distributions(name="hsr-kernels"):
        other = Path(str(distribution.locate_file("hsr_kernels"))).resolve()
        if other != here.resolve() and any(other.glob(f"{extension}.*")):
            return str(other)
    return ""
