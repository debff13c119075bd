# SPDX-License-Identifier: Apache-2.0
"""The CUDA extension: built where there are nvcc and a GPU, loaded without a driver, free of PyTorch and of CUDA."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native import requires_cuda

from .conftest import copy_sources, environment, pip

SPEC = importlib.util.find_spec("hsr_kernels._cuda")
SYSTEM_LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "ld-linux-x86-64.so.2"}


@pytest.fixture
def extension() -> Path:
    assert SPEC is not None and SPEC.origin is not None, "nvcc and a GPU are there, but hsr_kernels._cuda was not built"
    return Path(SPEC.origin)


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@requires_cuda
def test_extension_links_against_the_c_library_alone(extension):
    listed = run("readelf", "-d", str(extension))
    assert set(re.findall(r"\(NEEDED\).*\[(.+)\]", listed)) <= SYSTEM_LIBRARIES
    assert not re.search(r"\((RPATH|RUNPATH)\)", listed)


@requires_cuda
def test_extension_names_nothing_of_pytorch(extension):
    missing = run("nm", "--dynamic", "--demangle", "--undefined-only", str(extension))
    assert not re.search(r"\b(c10|at|torch|caffe2)::|\bcuda[A-Z]", missing)


@requires_cuda
def test_extension_exports_its_entry_alone(extension):
    exported = run("nm", "--dynamic", "--defined-only", "--format=just-symbols", str(extension))
    assert exported.split() == ["PyInit__cuda"]


@requires_cuda
def test_extension_loads_without_a_driver_and_without_pytorch(extension):
    """It says in words why it can't run, when asked and when made to launch all the same."""
    script = f"""
import importlib.util as util
spec = util.spec_from_file_location("_cuda", {str(extension)!r})
module = util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.architectures())
print(module.problem())
try:
    module.BiasAct((1, 4, 64), 0, (2, 0.2, 1.0, -1.0))(16, 0, 16, 0, 0)
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(CUDA_VISIBLE_DEVICES=""), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    archs, problem, error = done.stdout.splitlines()
    assert re.fullmatch(r"(sm_\d+ )+and PTX of compute_\d+", archs)
    assert problem in ("there is no CUDA device",) or problem.startswith("there is no NVIDIA driver, or it is older")
    assert error == f"hsr_kernels: a kernel couldn't be launched: {problem}"


@requires_cuda
def test_backends_says_why_cuda_cannot_run():
    script = "import hsr_kernels as hk; print(hk.backends()['cuda']); print(hk.backends('upfirdn2d')['cuda'])"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(CUDA_VISIBLE_DEVICES=""), capture_output=True, text=True
    )
    for line in done.stdout.splitlines():
        assert line == "there is no CUDA device" or line.startswith("there is no NVIDIA driver"), done.stderr


def accesses(library: Path) -> dict[str, set[tuple[str, int]]]:
    """{kernel: {("ld" or "st", bytes)}} of the PTX in the extension: in what pieces global memory is touched."""
    # cuobjdump comes with Triton.
    pytest.importorskip("triton")
    from hsr_kernels.aot.build import cuobjdump

    found: dict[str, set[tuple[str, int]]] = {}
    for entry in run(cuobjdump(), "--dump-ptx", str(library)).split(".entry ")[1:]:
        (name,) = run("c++filt", re.match(r"\w+", entry)[0]).splitlines()
        kernel = re.search(r"(\w+_kernel)<?(.*)>?\(", name)
        pieces = re.findall(r"\b(ld|st)\.global(?:\.nc)?(?:\.v(\d))?\.\w(\d+)", entry)
        dtype = next((t for t in ("half", "bfloat16") if f"hsr::{t}" in kernel[2]), "float")
        sizes = {(kind, int(n or 1) * int(bits) // 8) for kind, n, bits in pieces}
        found.setdefault(f"{kernel[1]} {dtype}", set()).update(sizes)
    return found


@requires_cuda
def test_images_are_touched_16_bytes_at_a_time(extension):
    found = accesses(extension)
    assert len(found) > 40
    for name, pieces in found.items():
        if name.startswith(("bias_act", "upfirdn2d", "scale_channels_kernel", "modulated_conv2d_epilogue_kernel")):
            assert {("ld", 16), ("st", 16)} <= pieces, (name, pieces)
        # Kernels that keep several sums to a channel hold 4 channels of any dtype, since sums take registers too.
        if name.startswith(("modulated_conv2d_epilogue_bwd", "scale_channels_bwd")):
            size = 16 if name.endswith("float") else 8
            assert {("ld", size), ("st", size)} <= pieces, (name, pieces)


REFUSED_SETTINGS = (
    pytest.param(
        {"HSR_BUILD_CUDA": "1", "CUDACXX": "/nonexistent/nvcc"}, "no nvcc was found (install the CUDA toolkit",
        id="no nvcc",
    ),
    pytest.param(
        {"HSR_BUILD_CUDA": "yes"}, "HSR_BUILD_CUDA is 'yes'; expected 0 (never), 1 (or fail) or auto",
        id="no such setting",
    ),
    pytest.param(
        {"HSR_BUILD_CUDA": "1", "HSR_CUDA_ARCHS": "sm_90"}, "HSR_CUDA_ARCHS is 'sm_90'; expected numbers from 80 on",
        id="no such architecture",
    ),
)  # fmt: skip


@pytest.mark.parametrize("changes, sentence", REFUSED_SETTINGS)
def test_install_fails_where_cuda_is_required_and_cannot_be_built(changes, sentence, tmp_path):
    source = copy_sources(tmp_path / "source")
    done = pip(
        "install",
        "-v",
        "--target",
        str(tmp_path / "out"),
        ".",
        cwd=source,
        env=environment(HSR_BUILD_CPU="0", **changes),
    )
    assert done.returncode != 0
    assert sentence in " ".join((done.stdout + done.stderr).split())


def test_without_nvcc_the_package_installs_and_says_so(tmp_path):
    source, target = copy_sources(tmp_path / "source"), tmp_path / "target"
    env = environment(HSR_BUILD_CPU="0", HSR_BUILD_CUDA="auto", CUDACXX="/nonexistent/nvcc")
    done = pip("install", "-v", "--target", str(target), ".", cwd=source, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no nvcc was found" in done.stdout + done.stderr
    assert "no nvcc was found" in (target / "hsr_kernels" / "_cuda_build.txt").read_text()
