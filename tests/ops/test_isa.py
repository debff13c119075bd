# SPDX-License-Identifier: Apache-2.0
"""Every instruction set that the extension carries and this processor has, against the float64 reference."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native import PRODUCT_ISAS, REQUIRED_FLAGS, SUPPORTED_ISAS, requires_native
from tests.selection import every_other

pytestmark = requires_native

ROOT = Path(__file__).parents[2]
# test_parity.py runs on the best one that there is.
_OTHER_ISAS = [
    pytest.param(isa, marks=pytest.mark.skipif(isa not in SUPPORTED_ISAS, reason=f"this processor has no {isa}"))
    for isa in REQUIRED_FLAGS
    if isa != SUPPORTED_ISAS[0]
]
# Where the best one has the kernels of avx512, these differ from it in matrix products alone.
_OF_PRODUCTS = {*PRODUCT_ISAS, "avx512"} if SUPPORTED_ISAS[0] in PRODUCT_ISAS else set()

_CODE = """
import sys, torch
from hsr_kernels._dispatch import native
from benchmarks.parity.inputs import LAYOUTS
from tests.ops.test_parity import CASES, DTYPES, check
from tests.selection import sampled_entries
torch.set_num_threads(1)
for number, case in enumerate(CASES):
    if number % 2 != int(sys.argv[1]) or (len(sys.argv) > 2 and case.op not in sys.argv[2:]):
        continue
    if case.op not in ("conv2d", "conv_transpose2d", "grid_sample"):
        for dtype in DTYPES:
            for layout, order in sampled_entries(number, dtype, LAYOUTS, (0, 1, 2)):
                check(case, "cpu", "cpu", layout, dtype, order)
print(native.cpu().isa())
"""


def run(code: str, isa: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"HSR_CPU_ISA": isa, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("isa, half", every_other(_OTHER_ISAS, ("0", "1")))
def test_parity(isa, half):
    done = run(_CODE, isa, half, *(["feature_projection_loss"] if isa in _OF_PRODUCTS else []))
    assert done.stdout.strip() == isa, done.stderr


def test_unknown_instruction_set_is_refused():
    done = run("import torch, hsr_kernels as hk; hk.bias_act(torch.ones(1, 2))", "mmx")
    assert done.returncode == 1
    assert "HSR_CPU_ISA must be base, avx2, avx512, avx512_bf16 or amx" in done.stderr.strip().splitlines()[-1]
