# SPDX-License-Identifier: Apache-2.0
"""Every instruction set that the extension carries and this processor has, against the float64 reference."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.native import requires_native
from tests.selection import every_other

pytestmark = requires_native

ROOT = Path(__file__).parents[2]
_CAPABILITY = torch.backends.cpu.get_cpu_capability()
_AVAILABLE_ISAS = {"base": True, "avx2": "AVX" in _CAPABILITY, "avx512": "AVX512" in _CAPABILITY}
# test_parity.py runs on the best one that there is.
_OTHER_ISAS = [
    pytest.param(isa, marks=pytest.mark.skipif(not has, reason=f"this processor has no {isa}"))
    for isa, has in _AVAILABLE_ISAS.items()
    if isa != "avx512"
]

_CODE = """
import sys, torch
from hsr_kernels._dispatch import native
from tests.inputs import LAYOUTS
from tests.ops.test_parity import CASES, DTYPES, check
from tests.selection import sampled_entries
torch.set_num_threads(1)
for number, case in enumerate(CASES):
    if number % 2 != int(sys.argv[1]):
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
    done = run(_CODE, isa, half)
    assert done.stdout.strip() == isa, done.stderr


def test_unknown_instruction_set_is_refused():
    done = run("import torch, hsr_kernels as hk; hk.bias_act(torch.ones(1, 2))", "mmx")
    assert done.returncode == 1
    assert "HSR_CPU_ISA must be base, avx2 or avx512" in done.stderr.strip().splitlines()[-1]
