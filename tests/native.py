# SPDX-License-Identifier: Apache-2.0
"""What tests may expect of this machine, and the backends and devices that follow."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
import torch

# A machine that has a C++ compiler builds the extension on installation: there, tests of it fail rather than skip.
NATIVE_EXPECTED = (
    "CXX" in os.environ
    or any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    or importlib.util.find_spec("hsr_kernels._cpu") is not None
)
requires_native = pytest.mark.skipif(
    not NATIVE_EXPECTED, reason="no C++ compiler here, so the cpu backend wasn't built"
)
# A GPU's kernels run on the CPU too, in processes of their own: Triton's in its interpreter (`pytest -m interpret`),
# CUDA's in the emulator of tests/emulator (`pytest -m emulate`). On a GPU both do: `pytest -m gpu`.
TRITON_DEVICES = {"cpu": pytest.mark.interpret, "cuda": pytest.mark.gpu}
CUDA_DEVICES = {"cpu": pytest.mark.emulate, "cuda": pytest.mark.gpu}
BACKENDS = [pytest.param("reference"), pytest.param("cpu", marks=requires_native)]
EMULATED_CUDA = pytest.param("cuda", marks=pytest.mark.emulate)
NVCC = shutil.which("nvcc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"]))
# A machine that has nvcc and a GPU builds the CUDA extension on installation, any other one on demand.
requires_cuda = pytest.mark.skipif(
    not (NVCC and torch.cuda.is_available()) and importlib.util.find_spec("hsr_kernels._cuda") is None,
    reason="no nvcc or no GPU here, so the cuda backend wasn't built",
)

# The instruction sets of the CPU extension and the flags of Linux that each needs, the fastest one first.
_AVX512_FLAGS = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"})
REQUIRED_FLAGS: dict[str, frozenset[str]] = {
    "amx": _AVX512_FLAGS | {"amx_tile", "amx_bf16"},
    "avx512_bf16": _AVX512_FLAGS | {"avx512_bf16"},
    "avx512": _AVX512_FLAGS,
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "base": frozenset(),
}
# These sets have the kernels of avx512, but for matrix products.
PRODUCT_ISAS = ("amx", "avx512_bf16")
_PROCESSOR_FLAGS = set(Path("/proc/cpuinfo").read_text().partition("\nflags")[2].partition("\n")[0].split())
SUPPORTED_ISAS = [isa for isa, needs in REQUIRED_FLAGS.items() if needs <= _PROCESSOR_FLAGS]
