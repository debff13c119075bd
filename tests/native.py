# SPDX-License-Identifier: Apache-2.0
"""What tests may expect of this machine, and the backends and devices that follow."""

import importlib.util
import os
import shutil

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
