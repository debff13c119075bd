# SPDX-License-Identifier: Apache-2.0
"""`python -m hsr_kernels.doctor`: what it says, and when it fails."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import hsr_kernels as hk
from hsr_kernels._dispatch import measured, native, operators
from hsr_kernels.doctor import __main__ as doctor
from hsr_kernels.doctor import advice, machine
from tests.native import requires_native

BLOCKED_MODULES = ("numpy", "triton", "rich", "tyro", "pybind11")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """Removes this machine's settings and the choices of earlier tests."""
    for name in [n for n in os.environ if n.startswith(("HSR_KERNELS", "HSR_CPU", "CUDA_", "CXX"))]:
        monkeypatch.delenv(name)
    hk.reset_choices()


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "nvidia", lambda: ("", ()))


class OnGpu:
    """Stands for an image on a GPU that isn't there."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.dtype, self.ndim = device, torch.float32, 4

    def numel(self) -> int:
        return 2**20

    def is_contiguous(self) -> bool:
        return True


@pytest.fixture
def gpus(monkeypatch):
    """Makes a machine with GPUs of the given compute capabilities, and a driver."""

    def fake(*capabilities: tuple[int, int], extension: object = None) -> None:
        chip = SimpleNamespace(name="NVIDIA Fake", total_memory=80 * 2**30)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: chip)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i=None: capabilities[i or 0])
        monkeypatch.setattr(machine, "gpu_problem", lambda i: "")
        monkeypatch.setattr(machine, "triton_problem", lambda: "")
        monkeypatch.setattr(machine, "nvidia", lambda: ("570.86.15", ("NVIDIA Fake",) * len(capabilities)))
        real, load = doctor.sample, native.load
        monkeypatch.setattr(doctor, "sample", lambda d: OnGpu(d) if d.type == "cuda" else real(d))
        cuda = (extension, "") if extension else (None, "the extension hsr_kernels._cuda was not built: no nvcc")
        monkeypatch.setattr(native, "load", lambda name: cuda if name == "_cuda" else load(name))
        monkeypatch.setattr(native, "cuda", lambda: extension)

    return fake


def without(monkeypatch: pytest.MonkeyPatch, **reasons: str) -> None:
    """Pretends that what the backends need is unavailable for these reasons; an empty one says that it is there."""
    missing = native.missing
    monkeypatch.setattr(native, "missing", lambda name: reasons[name] if name in reasons else missing(name))


@pytest.fixture
def screen(capsys):
    """Runs the doctor in this process: (exit code, what it printed)."""

    def run(*arguments: str) -> tuple[int, str]:
        code = doctor.main(list(arguments))
        text = capsys.readouterr().out
        lines = text.splitlines()
        # Paths stay in one piece, and may be long.
        assert len(lines) <= 45 and all(len(re.sub(r"\S{60,}", "", line)) <= 120 for line in lines), text
        return code, text

    return run


def section(text: str, heading: str) -> str:
    """The text under a heading, on one line."""
    _, _, rest = text.partition(f"\n{heading}\n")
    return " ".join(rest.partition("\n\n")[0].split())


def column(text: str, operator: str) -> list[str]:
    """The cells of an operator's row in the table."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"  {operator} ") and ":" not in line]
    return [cell for cell in line.split()[1:] if cell != "*"]


@requires_native
def test_bare_machine_in_a_process_of_its_own():
    """Nothing but Python and torch to import, no program on the path, a terminal limited to ASCII."""
    code = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({BLOCKED_MODULES}))
runpy.run_module("hsr_kernels.doctor", run_name="__main__")
"""
    bare = {"PATH": "", "CUDA_VISIBLE_DEVICES": "", "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", code, "cpu", "triton"]
    done = subprocess.run(command, env=os.environ | bare, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "\nTriton            not installed" in done.stdout
    assert "\nC++ compiler      none found" in done.stdout
    problems = section(done.stdout, "Problems")
    assert "The triton backend can't work: " in problems and "The cpu" not in problems
    assert len(done.stdout.splitlines()) <= 45


@requires_native
@pytest.mark.usefixtures("no_gpu")
def test_machine_without_gpu(screen):
    code, text = screen()
    assert code == 0
    assert text.splitlines()[-1] == "No problems."
    assert f"\nPyTorch           {torch.__version__}, built for" in text
    assert not any(section(text, heading) for heading in ("Missing", "Problems")), "a GPU isn't asked for"
    assert all(column(text, name) == ["cpu"] for name in operators.operators)
    assert "triton can't run: this machine has no NVIDIA GPU" in section(text, "Backends")


@requires_native
@pytest.mark.usefixtures("no_gpu")
def test_requested_backends_are_checked(screen):
    code, text = screen("cpu", "reference")
    assert code == 0
    assert text.endswith("\nNo problems: cpu and reference can run.\n")
    code, text = screen("cpu", "cuda", "triton", "quick")
    assert code == 1
    said = section(text, "Problems")
    assert "The cpu" not in said
    assert "The cuda backend can't work: this machine has no NVIDIA GPU." in said
    assert "The triton backend can't work: this machine has no NVIDIA GPU." in said
    assert "The quick backend can't work: the backends are reference, cpu, triton and cuda." in said


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    "variable, value, sentence",
    [
        ("HSR_KERNELS_BACKEND", "triton", "HSR_KERNELS_BACKEND=triton can't work: this machine has no NVIDIA GPU."),
        ("HSR_KERNELS_BACKEND", "fast", "HSR_KERNELS_BACKEND=fast can't work: the backends are reference,"),
        ("HSR_KERNELS_ROUTE", "scenic", "HSR_KERNELS_ROUTE must be one of convolution, fused, got 'scenic'."),
        ("HSR_KERNELS_MEASURED", __file__, "must begin with the columns chip,"),
        ("HSR_KERNELS_MEASURED", "/nonexistent", "HSR_KERNELS_MEASURED names no table of measurements: [Errno 2]"),
    ],
)
def test_settings_that_cannot_work_are_problems(variable, value, sentence, screen, monkeypatch):
    monkeypatch.setenv(variable, value)
    code, text = screen()
    assert code == 1
    assert sentence in section(text, "Problems")
    assert section(text, "Problems").endswith(f"unset {variable}")
    assert f"{variable}={value}" in text


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    "variable, value", [("HSR_KERNELS_BACKEND", "reference"), ("HSR_KERNELS_ROUTE", "fused"), ("HSR_CPU_ISA", "")]
)
def test_settings_that_work_are_no_problems(variable, value, screen, monkeypatch):
    monkeypatch.setenv(variable, value)
    code, text = screen()
    assert code == 0, text
    if value == "reference":
        assert all(column(text, name) == ["reference"] for name in operators.operators)


@pytest.mark.usefixtures("no_gpu")
def test_instruction_set_that_the_processor_lacks_is_a_problem(screen, monkeypatch):
    def isa() -> str:
        raise RuntimeError("hsr_kernels: HSR_CPU_ISA must be base or avx2, and one that this processor has")

    monkeypatch.setenv("HSR_CPU_ISA", "mmx")
    monkeypatch.setattr(native, "load", lambda name: (SimpleNamespace(isa=isa), "") if name == "_cpu" else (None, "no"))
    code, text = screen()
    assert code == 1
    assert "HSR_CPU_ISA must be base or avx2, and one that this processor has; it is mmx." in text
    assert column(text, "bias_act") == ["error"] and column(text, "conv2d") == ["cpu"]


@pytest.mark.usefixtures("no_gpu")
def test_extension_that_was_not_built_is_missing(screen, monkeypatch):
    """The cause and the command; a failure only where the extension was asked for."""
    monkeypatch.setattr(advice, "installed_beside", lambda name: "")
    cause = "CMake failed with exit status 1; reinstall with pip -v to see its messages"
    monkeypatch.setattr(native, "load", lambda n: (None, f"the extension hsr_kernels.{n} was not built: {cause}"))
    monkeypatch.setattr(machine, "compiler", lambda: machine.Tool("/usr/bin/c++", "c++ 12"))
    code, text = screen()
    assert code == 0
    assert f"hsr_kernels._cpu not built: {cause}" in " ".join(text.split())
    said = section(text, "Missing")
    assert said.startswith(
        "hsr_kernels._cpu can't be loaded, so CPU tensors run on the slow reference. HSR_BUILD_CPU=1 pip"
    )
    assert "nvcc" not in said and "CUDA" not in said
    assert column(text, "upfirdn2d") == ["reference"]

    monkeypatch.setattr(machine, "compiler", machine.Tool)
    code, text = screen("cpu")
    assert code == 1
    assert "The cpu backend can't work: hsr_kernels._cpu can't be loaded." in section(text, "Problems")
    assert "g++ && HSR_BUILD_CPU=1 pip install" in section(text, "Problems")


@pytest.mark.usefixtures("no_gpu")
def test_copy_that_hides_an_installed_one_is_named(screen, monkeypatch, tmp_path):
    """`pip install .`, then the doctor in the source folder: Python takes the sources, which have no extension."""
    installed = tmp_path / "hsr_kernels"
    installed.mkdir()
    (installed / "_cpu.cpython.so").touch()
    distribution = SimpleNamespace(locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr(machine.importlib.metadata, "distributions", lambda name: [distribution])
    monkeypatch.setattr(native, "load", lambda n: (None, "not there"))
    code, text = screen("cpu")
    assert code == 1
    assert f"has no _cpu and hides the one in {installed}, which has it." in section(text, "Missing")
    assert section(text, "Problems").endswith("cd / && python -m hsr_kernels.doctor")


@requires_native
def test_gpu_without_the_cuda_extension_gets_the_command(screen, gpus, monkeypatch):
    monkeypatch.setattr(machine, "triton_version", lambda: "3.8.0")
    without(monkeypatch, triton="")
    monkeypatch.setattr(machine, "nvcc", machine.Tool)
    monkeypatch.setattr(advice, "installed_beside", lambda name: "")
    gpus((9, 0), (9, 0))
    code, text = screen("triton")
    assert code == 0
    assert "\nGPU cuda:0-1      NVIDIA Fake, compute capability 9.0, 80 GiB\n" in text
    assert "\nNVIDIA driver     570.86.15\n" in text
    assert column(text, "upfirdn2d") == ["cpu", "triton"]
    assert "There is no nvcc to build hsr_kernels._cuda with" in section(text, "Missing")
    assert "HSR_BUILD_CUDA=1 HSR_CUDA_ARCHS=90 pip install" in section(text, "Missing")
    code, text = screen("cuda")
    assert code == 1
    assert "HSR_BUILD_CUDA=1 HSR_CUDA_ARCHS=90 pip install" in section(text, "Problems")


@requires_native
def test_nothing_is_missing_for_a_gpu_that_is_too_old(screen, gpus, monkeypatch):
    monkeypatch.setattr(machine, "triton_version", lambda: "")
    gpus((7, 5))
    code, text = screen()
    assert code == 0
    assert section(text, "Missing") == "", "neither Triton nor the extension would run on it"


@requires_native
def test_two_kinds_of_gpu_and_a_request_for_all(screen, gpus, monkeypatch):
    monkeypatch.setattr(machine, "triton_version", lambda: "")
    without(monkeypatch, triton="Triton isn't installed")
    lacks = "the extension was compiled for sm_90 PTX, not for this GPU"
    extension = SimpleNamespace(
        architectures=lambda: "sm_90 PTX", problem=lambda: "", problem_of=lambda i: lacks if i == 1 else ""
    )
    gpus((9, 0), (8, 6), extension=extension)
    monkeypatch.setenv("HSR_KERNELS_BACKEND", "cuda")
    code, text = screen()
    assert code == 0
    assert "hsr_kernels._cuda built, for sm_90 PTX" in text
    assert column(text, "bias_act") == ["error", "cuda", "error"]
    assert f"runs on cuda:0; not on cuda:1: {lacks}" in section(text, "Backends")
    assert "Triton isn't installed, so its kernels don't run. pip install triton" in section(text, "Missing")
    assert "HSR_BUILD_CUDA=1 HSR_CUDA_ARCHS=86,90 pip install" in section(text, "Missing")
    said = section(text, "Notes")
    assert "a call raises one, as HSR_KERNELS_BACKEND=cuda allows no other backend: " in said
    assert "it runs on cuda tensors, not on cpu" in said
    for name, operator in operators.operators.items():
        if "cuda" not in operator.implementations:
            assert f"{name} has no cuda implementation" in said


@requires_native
def test_measured_backend_of_a_gpu_is_explained(screen, gpus, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "triton_version", lambda: "3.8.0")
    without(monkeypatch, triton="")
    problem = measured.Problem("bias_act", operators.CALL, "float32", "contiguous", (2**20,))
    measured.write(tmp_path / "measured.csv", [measured.Measurement("9.0", problem, {"cuda": 3.0, "triton": 9.0})])
    monkeypatch.setenv("HSR_KERNELS_MEASURED", str(tmp_path / "measured.csv"))
    extension = SimpleNamespace(architectures=lambda: "sm_90 PTX", problem=lambda: "", problem_of=lambda i: "")
    gpus((9, 0), extension=extension)
    code, text = screen("triton", "cuda")
    assert code == 0
    assert column(text, "bias_act") == ["cpu", "cuda"]
    assert column(text, "upfirdn2d") == ["cpu", "cuda"]
    said = section(text, "Backends")
    assert "bias_act: the fastest that can run (measured for 1048576 elements: cuda 3.0 µs, triton 9.0 µs" in said
    assert "modulated_conv2d and upfirdn2d: the default (not measured on this chip" in said
    monkeypatch.setenv("HSR_KERNELS_ROUTE", "fused")
    assert "HSR_KERNELS_ROUTE has no effect where" in section(screen()[1], "Notes")
    monkeypatch.setenv("HSR_KERNELS_BACKEND", "triton")
    hk.reset_choices()
    assert "HSR_KERNELS_ROUTE" not in section(screen()[1], "Notes")


OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 11040)"
UNUSED_GPUS = {
    "no driver": ("", "13.0", OLD_DRIVER, "There is an NVIDIA GPU, but no driver for it."),
    "a build for CPUs": ("570.1", None, "", "This PyTorch is built for CPUs only, so the NVIDIA GPU isn't used."),
    "hidden": ("570.1", "13.0", "No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES='' hides the GPU from PyTorch."),
    "old driver": ("470.1", "13.0", OLD_DRIVER, f"PyTorch can't use the GPU: {OLD_DRIVER}."),
    "else": ("570.1", "13.0", "CUDA unknown error", "PyTorch can't use the GPU: CUDA unknown error."),
}


@requires_native
@pytest.mark.parametrize("driver, cuda, error, sentence", UNUSED_GPUS.values(), ids=UNUSED_GPUS)
def test_gpu_that_pytorch_does_not_see_is_explained(driver, cuda, error, sentence, screen, no_gpu, monkeypatch):
    monkeypatch.setattr(machine, "nvidia", lambda: (driver, ("NVIDIA Fake", "NVIDIA Fake")))
    monkeypatch.setattr(machine, "torch_problem", lambda: error)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, text = screen()
    assert code == 0
    assert "\nGPU               NVIDIA Fake (2 of them), not seen by PyTorch\n" in text
    assert section(text, "Missing").startswith(sentence)
    code, text = screen("triton")
    assert code == 1
    assert "The triton backend can't work: PyTorch doesn't see the GPU." in section(text, "Problems")


def test_gpus_are_found_on_the_pci_bus(tmp_path):
    for name, vendor, kind in (("a", "0x10de", "0x030200"), ("b", "0x10de", "0x040300"), ("c", "0x1002", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor + "\n")
        (tmp_path / name / "class").write_text(kind + "\n")
    assert machine.pci_gpus(str(tmp_path)) == ("NVIDIA GPU at PCI address a",)


def test_driver_and_gpus_are_read_from_nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '570.86.15, NVIDIA H100'\necho '570.86.15, NVIDIA H100'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine.nvidia() == ("570.86.15", ("NVIDIA H100", "NVIDIA H100"))


def test_triton_needs_a_c_compiler_or_a_filled_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    assert "no C compiler" in machine.triton_problem()
    (tmp_path / "cache" / "key").mkdir(parents=True)
    (tmp_path / "cache" / "key" / "cuda_utils.so").touch()
    assert machine.triton_problem() == ""


def test_commands_for_an_installed_package(monkeypatch, tmp_path):
    monkeypatch.setattr(advice, "_package", str(tmp_path / "hsr_kernels" / "__init__.py"))
    command = "HSR_BUILD_CPU=1 pip install --force-reinstall --no-deps .  # in the source folder"
    assert advice.build("CPU") == command


@pytest.mark.parametrize("indices, label", [((0,), "cuda:0"), ((0, 1, 2), "cuda:0-2"), ((0, 2), "cuda:0,2")])
def test_labels_of_gpus(indices, label):
    assert machine.Gpu(indices, "chip", (9, 0), 80.0).label == label


def test_gpus_of_amd_are_named_and_get_no_advice_on_cuda(gpus, screen, monkeypatch):
    gpus((9, 4))
    chip = SimpleNamespace(
        name="AMD Fake", total_memory=192 * 2**30, gcnArchName="gfx942:xnack-", multi_processor_count=304
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i=None: chip)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    native.reset()
    _, text = screen()
    assert "AMD Fake, gfx942, 192 GiB" in text and "compute capability" not in text
    assert "triton" in column(text, "bias_act") and "HSR_CUDA_ARCHS=94" not in text
