# SPDX-License-Identifier: Apache-2.0
"""Installation where the native code can't be built: it succeeds, and the library says why it is slow."""

import subprocess
import sys

import pytest

from tests.selection import FULL, kept

from .conftest import copy_sources, environment, pip

USE_SCRIPT = """
import sys, warnings
# An editable install of the checkout, extension included, would fill in what the installation lacks.
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
import torch, hsr, hsr_kernels
print(hsr_kernels.__file__)
print(hsr_kernels.backends()["cpu"])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        y = hsr_kernels.bias_act(torch.full((1, 2), -1.0), act="lrelu", gain=1)
assert torch.allclose(y, torch.tensor([[-0.2, -0.2]])), y
(warning,) = caught
print(warning.category.__name__, warning.message)
try:
    with hsr_kernels.use_backend("cpu"):
        hsr_kernels.bias_act(y)
except RuntimeError as error:
    print(error)
"""
REASONS = (
    pytest.param({"HSR_BUILD_CPU": "0"}, "HSR_BUILD_CPU=0 was set when the package was installed", marks=FULL,
                 id="switched off"),
    pytest.param({"CXX": "/nonexistent/c++"}, "no C++ compiler was found", marks=FULL, id="CXX names nothing"),
    pytest.param({"PATH": "/nonexistent"}, "no C++ compiler was found", id="no compiler on the path"),
    pytest.param({"CXX": "/bin/false"}, "exit status 1", marks=FULL, id="broken compiler"),
)  # fmt: skip


@pytest.mark.parametrize("changes, reason", kept(REASONS))
def test_installs_and_runs_without_native_code(changes, reason, tmp_path):
    source, target = copy_sources(tmp_path / "source"), tmp_path / "target"
    env = environment(**changes)
    if "CXX" not in changes:
        env.pop("CXX", None)
    done = pip("install", "-v", "--target", str(target), ".", cwd=source, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert reason in said and "the library will run on its reference backend" in said
    assert not list(target.rglob("*.so"))

    command = [sys.executable, "-c", USE_SCRIPT]
    used = subprocess.run(
        command, cwd=tmp_path, env=environment(PYTHONPATH=str(target)), capture_output=True, text=True
    )
    assert used.returncode == 0, used.stderr
    file, backend, warning, refusal = used.stdout.splitlines()
    assert file.startswith(str(target))
    assert reason in backend
    assert warning.startswith("RuntimeWarning hsr_kernels.bias_act runs on the slow reference backend")
    assert reason in warning
    assert reason in refusal


def test_install_fails_where_native_code_is_required_and_cannot_be_built(tmp_path):
    env = environment(HSR_BUILD_CPU="1", CXX="/bin/false")
    source = copy_sources(tmp_path / "source")
    done = pip("install", "--target", str(tmp_path / "target"), ".", cwd=source, env=env)
    assert done.returncode != 0
    assert "CMake failed with exit status 1" in done.stdout + done.stderr


def test_unknown_build_setting_is_refused(tmp_path):
    source = copy_sources(tmp_path / "source")
    done = pip("install", "--target", "out", ".", cwd=source, env=environment(HSR_BUILD_CPU="yes"))
    assert done.returncode != 0
    assert "HSR_BUILD_CPU is 'yes'; expected 0 (never), 1 (or fail) or auto" in done.stdout + done.stderr
