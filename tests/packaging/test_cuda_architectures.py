# SPDX-License-Identifier: Apache-2.0
"""The architectures that the build compiles CUDA code for, with stand-ins for nvidia-smi, the driver and nvcc."""

import ctypes
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import setuptools

from .conftest import ROOT, copy_sources, environment, pip

NVCC_13_CODES = "75 80 86 87 88 89 90 100 103 110 120 121"


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def nvcc(folder: Path, codes: str) -> Path:
    """Lists codes of machines as nvcc does, and compiles nothing."""
    lines = "\n".join(f"sm_{code}" for code in codes.split())
    return program(folder / "nvcc", f'[ "$1" = --list-gpu-code ] || exit 1\necho "{lines}"')


@pytest.fixture
def build(monkeypatch, tmp_path) -> ModuleType:
    """setup.py as a module, on a machine with nvcc of CUDA 13 and no GPU."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDACXX", str(nvcc(tmp_path, NVCC_13_CODES)))
    monkeypatch.delenv("HSR_CUDA_ARCHS", raising=False)
    spec = importlib.util.spec_from_file_location("build_of_hsr_kernels", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(module.ctypes, "CDLL", absent)
    return module


def architectures(build: ModuleType, mode: str) -> str:
    (listed,) = [o.partition("=")[2] for o in build.cuda_options(mode) if o.startswith("-DHSR_CUDA_ARCHS=")]
    return listed


@pytest.mark.parametrize(
    "said, codes, expected",
    (
        ("9.0", NVCC_13_CODES, "90"),
        ("8.6\n8.6\n12.0\n8.0", NVCC_13_CODES, "80,86,120"),
        # What is too old is left out.
        ("7.5\n8.9", NVCC_13_CODES, "89"),
        # This nvcc is older than the GPU, which runs the last architecture's PTX.
        ("12.1\n8.0\n", "75 80 86 90", "80,90"),
        ("10.3", "80 90 100", "100"),
    ),
)
def test_auto_compiles_for_the_gpus_that_are_present(build, tmp_path, said, codes, expected):
    nvcc(tmp_path, codes)
    program(tmp_path / "nvidia-smi", f'[ "$*" = "--query-gpu=compute_cap --format=csv,noheader" ] && echo "{said}"')
    assert architectures(build, "auto") == expected


@pytest.mark.parametrize("smi", (None, 'echo "Field compute_cap is not a valid field to query."; exit 2'))
def test_the_driver_is_asked_where_nvidia_smi_fails(build, tmp_path, monkeypatch, smi):
    class Driver:
        """Two GPUs, 9.0 and 10.3."""

        def cuInit(self, _):
            return 0

        def cuDeviceGetCount(self, count):
            count._obj.value = 2
            return 0

        def cuDeviceGet(self, device, index):
            device._obj.value = 100 + index
            return 0

        def cuDeviceGetAttribute(self, value, attribute, device):
            value._obj.value = {(75, 100): 9, (76, 100): 0, (75, 101): 10, (76, 101): 3}[attribute, device.value]
            return 0

    if smi:
        program(tmp_path / "nvidia-smi", smi)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert architectures(build, "auto") == "90,103"
    monkeypatch.setattr(Driver, "cuInit", lambda self, _: 100)
    with pytest.raises(RuntimeError, match="no NVIDIA GPU was found"):
        build.cuda_options("auto")


def test_a_required_build_is_for_all_architectures(build, tmp_path):
    assert architectures(build, "1") == "80,86,89,90,100,120"
    nvcc(tmp_path, "80 86 89 90")
    with pytest.raises(RuntimeError, match=r"nvcc doesn't compile for sm_100, sm_120 \(HSR_CUDA_ARCHS=80,90 names"):
        build.cuda_options("1")


@pytest.mark.parametrize("mode", ("1", "auto"))
def test_named_architectures_are_compiled_for(build, monkeypatch, mode):
    for given, expected in (("90", "90"), ("80,90", "80,90"), (" 120, 80,80 ", "120,80")):
        monkeypatch.setenv("HSR_CUDA_ARCHS", given)
        assert architectures(build, mode) == expected
    monkeypatch.setenv("HSR_CUDA_ARCHS", "90,91")
    with pytest.raises(RuntimeError, match="doesn't compile for sm_91"):
        build.cuda_options(mode)


@pytest.mark.parametrize("given", ("sm_90", "9.0", "80;90", "80 90", "90a", "75", "80,,90", ",", " ", "-90", "٩٠"))
def test_malformed_architectures_are_refused(build, monkeypatch, given):
    monkeypatch.setenv("HSR_CUDA_ARCHS", given)
    sentence = f"HSR_CUDA_ARCHS is {given!r}; expected numbers from 80 on, separated by commas, such as 80,90"
    for mode in ("1", "auto"):
        with pytest.raises(SystemExit, match=f"^{re.escape(sentence)}$"):
            build.cuda_options(mode)


def test_gpus_that_are_too_old_are_refused(build, tmp_path):
    program(tmp_path / "nvidia-smi", 'echo "7.5"')
    with pytest.raises(RuntimeError, match=r"needs a GPU of compute capability 8\.0 or newer, .* is 7\.5"):
        build.cuda_options("auto")


def test_without_a_gpu_the_package_installs_and_says_so(tmp_path):
    """The sentence says how to build it all the same, and is kept for `hsr_kernels.backends`."""
    source, target = copy_sources(tmp_path / "source"), tmp_path / "target"
    tools = tmp_path / "tools"
    tools.mkdir()
    program(tools / "nvidia-smi", 'echo "No devices were found"; exit 6')
    env = environment(
        HSR_BUILD_CPU="0", HSR_BUILD_CUDA="auto", CUDACXX=str(nvcc(tools, NVCC_13_CODES)), CUDA_VISIBLE_DEVICES=""
    )
    env["PATH"] = f"{tools}:{env['PATH']}"
    done = pip("install", "-v", "--target", str(target), ".", cwd=source, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    sentence = "no NVIDIA GPU was found to build it for (HSR_BUILD_CUDA=1 builds it without one)"
    assert sentence in done.stdout + done.stderr
    report = (target / "hsr_kernels" / "_cuda_build.txt").read_text()
    assert report == f"the extension hsr_kernels._cuda was not built: {sentence}"
