# SPDX-License-Identifier: Apache-2.0
"""What importing the library does, and above all doesn't do."""

import json
import subprocess
import sys

from .conftest import ROOT, environment


def python(script: str, **changes: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(**changes), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_quick_and_loads_neither_triton_nor_the_extension():
    script = """
import json, sys, time, torch
before, started = set(sys.modules), time.process_time()
import hsr_kernels
print(json.dumps([sorted(set(sys.modules) - before), time.process_time() - started]))
"""
    loaded, seconds = json.loads(python(script))
    assert seconds < 1
    assert "hsr_kernels.bias_act" in loaded
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"torch"}
    assert foreign == {"hsr_kernels"}
    assert not [name for name in loaded if name.startswith(("hsr_kernels._cpu", "hsr_kernels._cuda"))]


def test_import_and_use_without_cuda():
    script = """
import torch, hsr_kernels
assert not torch.cuda.is_available()
f = hsr_kernels.setup_filter([1, 3, 3, 1])
x = torch.ones(1, 1, 4, 4, requires_grad=True)
hsr_kernels.upsample2d(x, f).sum().backward()
assert x.grad.shape == (1, 1, 4, 4)
assert hsr_kernels.backends(device="cpu")["reference"] == ""
assert not torch.cuda.is_initialized()
for op in ("bias_act", "upfirdn2d", "modulated_conv2d", "feature_projection_loss"):
    for backend in ("triton", "cuda"):
        assert hsr_kernels.backends(op)[backend]
print(hsr_kernels.explain("upfirdn2d", x))
"""
    assert "upfirdn2d on cpu float32 runs on the" in python(script, CUDA_VISIBLE_DEVICES="")
