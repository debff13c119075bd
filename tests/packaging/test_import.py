# SPDX-License-Identifier: Apache-2.0
"""What importing the library does and, above all, doesn't do."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from .conftest import ROOT, environment

PACKAGES = ("hsr_kernels", "hsr", "benchmarks")


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


def _modules(package: str) -> dict[str, Path]:
    """The files of a package by module name, a folder's `__init__.py` by the folder's name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / package).rglob("*.py")
    }


def _imported(module: str, path: Path) -> Iterator[str]:
    """What a module imports, also inside functions and type checks: modules, and names in them as "module.name"."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            ancestors = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*ancestors, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _graph(package: str) -> dict[str, set[str]]:
    """The modules of a package, and for each the modules of the package that it imports."""
    modules = _modules(package)
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        imported = {name if name in modules else name.rpartition(".")[0] for name in _imported(module, path)}
        graph[module] = imported & modules.keys() - {module}
    assert sum(map(len, graph.values())) > len(graph), "the imports weren't found"
    return graph


@pytest.mark.parametrize("package", PACKAGES)
def test_no_imports_run_in_a_circle(package):
    # It raises an error that names the circle.
    TopologicalSorter(_graph(package)).prepare()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_no_tests(package):
    for module, path in _modules(package).items():
        assert not [name for name in _imported(module, path) if name.partition(".")[0] == "tests"], module


def test_tuning_does_without_the_gpu_report():
    graph = _graph("benchmarks")
    tuning = [module for module in graph if module.startswith("benchmarks.tune")]
    assert tuning
    assert not [name for module in tuning for name in graph[module] if name.startswith("benchmarks.gpu")]
