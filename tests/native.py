# SPDX-License-Identifier: Apache-2.0
"""What the tests may expect of this machine."""

import importlib.util
import os
import shutil

import pytest

# A machine that has a C++ compiler builds the extension on installation: there, tests of it fail rather than skip.
NATIVE_EXPECTED = (
    "CXX" in os.environ
    or any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    or importlib.util.find_spec("hsr_kernels._cpu") is not None
)
requires_native = pytest.mark.skipif(
    not NATIVE_EXPECTED, reason="no C++ compiler here, so the cpu backend wasn't built"
)
# The Triton kernels run in Triton's interpreter on the CPU (`pytest -m interpret`), and on a GPU (`pytest -m gpu`).
TRITON_DEVICES = {"cpu": pytest.mark.interpret, "cuda": pytest.mark.gpu}
BACKENDS = [pytest.param("reference"), pytest.param("cpu", marks=requires_native)]
