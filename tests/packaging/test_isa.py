# SPDX-License-Identifier: Apache-2.0
"""Which instruction set runs; tests/ops/test_isa.py checks what each computes."""

import importlib.util
import subprocess
import sys

import pytest

from tests.native import REQUIRED_FLAGS, SUPPORTED_ISAS, requires_native

from .conftest import ROOT, environment

pytestmark = requires_native


def python(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment(**changes), capture_output=True, text=True
    )


def isa(**changes: str) -> subprocess.CompletedProcess[str]:
    """Asks the extension, loaded by itself: it needs neither its package nor PyTorch."""
    spec = importlib.util.find_spec("hsr_kernels._cpu")
    assert spec is not None and spec.origin is not None
    script = (
        "import importlib.util as util\n"
        f"spec = util.spec_from_file_location('_cpu', {spec.origin!r})\n"
        "module = util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(module.isa())"
    )
    return python("-c", script, **changes)


def test_the_best_instruction_set_is_the_default():
    assert isa().stdout.strip() == SUPPORTED_ISAS[0]


@pytest.mark.parametrize("wanted", [*REQUIRED_FLAGS, "mmx"])
def test_instruction_set_can_be_chosen_where_the_processor_has_it(wanted):
    done = isa(HSR_CPU_ISA=wanted)
    if wanted in SUPPORTED_ISAS:
        assert done.stdout.strip() == wanted, done.stderr
    else:
        assert done.returncode != 0
        expected = "HSR_CPU_ISA must be base, avx2, avx512, avx512_bf16 or amx, and one that this processor has"
        assert expected in done.stderr
