# SPDX-License-Identifier: Apache-2.0
"""What the kernels need of Triton, whose versions differ; nothing is compiled to machine code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import triton
from triton.compiler import ASTSource
from triton.language.semantic import TritonSemantic

import hsr_kernels as hk
from hsr_kernels.aot import record

MATMUL_KERNEL_PREFIXES = ("feature_", "modulated_conv2d_layer")
ROOT = Path(hk.__file__).parents[1]
# Every function that Triton compiles, kernels and helpers, from whatever module it is seen in.
HASH_SCRIPT = """
import importlib, json, sys
from pathlib import Path
import hsr_kernels
from triton.language import constexpr
from triton.runtime.jit import JITCallable

root = Path(hsr_kernels.__file__).parent
functions = {}
for path in sorted(root.rglob("*triton*.py")):
    module = importlib.import_module(".".join(("hsr_kernels", *path.relative_to(root).with_suffix("").parts)))
    for value in vars(module).values():
        if isinstance(value, JITCallable) and value.__module__.startswith("hsr_kernels."):
            functions[f"{value.__module__}.{value.__name__}"] = value
names = sorted(functions, key=lambda name: (name.endswith("_kernel"), name), reverse=sys.argv[1] == "kernels first")
keys = {name: functions[name].cache_key for name in names}
constants = {
    name: sorted(n for (n, _), (value, _) in functions[name].used_global_vals.items() if isinstance(value, constexpr))
    for name in names
}
print(json.dumps([keys, constants]))
"""


def hashed(order: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """{function: its key} and {function: the module-level constants that it uses, helpers included}."""
    done = subprocess.run([sys.executable, "-c", HASH_SCRIPT, order], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    keys, constants = json.loads(done.stdout)
    return keys, constants


def test_keys_of_compiled_code_do_not_depend_on_what_was_hashed_first():
    """Otherwise another process would compile the same again. Newer versions of Triton ensure it themselves."""
    keys, constants = hashed("kernels first")
    assert sum(name.endswith("_kernel") for name in keys) > 10 and any(".leaky" in name for name in keys)
    assert hashed("helpers first")[0] == keys
    # What would make older versions depend on the order.
    assert {name: used for name, used in constants.items() if used and not name.endswith("_kernel")} == {}


class _Stop(Exception):
    """Ends a compilation after Triton has read the kernel."""


def _layers(dtype: torch.dtype) -> None:
    for c, o, k in ((1, 1, 3), (3, 3, 1), (40, 200, 3), (512, 512, 3)):
        x, weight, styles = (torch.empty(shape, dtype=dtype) for shape in ((2, c, 8, 8), (o, c, k, k), (2, c)))
        leaves = [t.requires_grad_() for t in (x.contiguous(memory_format=torch.channels_last), weight, styles)]
        y = hk.modulated_conv2d(*leaves, padding=k // 2)
        torch.autograd.grad(y, leaves, torch.empty_like(y))


def _losses(dtype: torch.dtype) -> None:
    for c, side, target in ((1, 1, 1), (3, 5, 2), (512, 32, 14), (512, 8, 14), (256, 56, 56)):
        x = torch.empty((2, c, side, side), dtype=dtype, requires_grad=True)
        shapes = ((64, c), (64,), (7, 64), (7,))
        head = tuple(torch.empty(shape, dtype=dtype, requires_grad=True) for shape in shapes)
        y = hk.feature_projection_loss([x], [torch.empty((2, 7, target, target), dtype=dtype)], [head])
        torch.autograd.grad(y, [x, *head], torch.empty_like(y))


@pytest.mark.parametrize("dtype, tf32", ((torch.float32, False), (torch.float32, True), (torch.float16, False)))
def test_products_are_at_least_16_in_each_direction(dtype, tf32, monkeypatch):
    """Triton 3.6 refuses to add up fewer at a time, and tensor cores multiply no fewer."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    # Kernels that were compiled before must be read again.
    monkeypatch.setenv("TRITON_ALWAYS_COMPILE", "1")
    chip = record.CHIPS["sm_90"]
    with record.recording(chip) as found, hk.use_route("fused"):
        _layers(dtype)
        _losses(dtype)
    seen: dict[str, set[tuple[int, int, int]]] = {}
    dot, read = TritonSemantic.dot, ASTSource.make_ir

    def recording_dot(self, lhs, rhs, *args, **options):
        seen[launch.kernel].add((*map(int, lhs.shape), int(rhs.shape[1])))
        return dot(self, lhs, rhs, *args, **options)

    def stop_after_reading(self, *args, **options):
        read(self, *args, **options)
        raise _Stop

    monkeypatch.setattr(TritonSemantic, "dot", recording_dot)
    monkeypatch.setattr(ASTSource, "make_ir", stop_after_reading)
    distinct = {(x.kernel, repr(x.constexprs)): x for x in found.launches.values()}
    for launch in distinct.values():
        if launch.kernel.startswith(MATMUL_KERNEL_PREFIXES):
            seen.setdefault(launch.kernel, set())
            source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
            with pytest.raises(_Stop):
                triton.compile(source, target=chip.target, options=launch.options)
    kernels = {name.rpartition(".")[2] for name in record.library_kernels()}
    assert set(seen) == {name for name in kernels if name.startswith(MATMUL_KERNEL_PREFIXES)}
    assert {kernel for kernel, shapes in seen.items() if not shapes} == {"feature_sum_kernel"}
    assert {kernel: shapes for kernel, shapes in seen.items() if any(min(s) < 16 for s in shapes)} == {}
