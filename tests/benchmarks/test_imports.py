# SPDX-License-Identifier: Apache-2.0
"""The layout of the benchmarks: modules import in one direction, and none imports tests."""

import ast
from graphlib import TopologicalSorter

from benchmarks.setting import ROOT


def imports() -> dict[str, set[str]]:
    """Module -> the modules that it imports, at its top or within functions."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "benchmarks").rglob("*.py")
    }
    return {name: _imported(name, path.read_text(), paths.keys()) for name, path in paths.items()}


def _imported(name, source, modules) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            parts = {f"{module}.{alias.name}" for alias in node.names}
            found |= {part if part in modules else module for part in parts}
    return found


def test_no_circles_and_no_tests():
    graph = imports()
    assert not [name for name, found in graph.items() if any(part.split(".")[0] == "tests" for part in found)]
    within = {name: found & graph.keys() for name, found in graph.items()}
    assert within["benchmarks.gpu.worker"] >= {"benchmarks.device", "benchmarks.gpu.journal"}
    # Raises where there is a circle.
    TopologicalSorter(within).prepare()


def test_tuning_stands_below_the_gpus_report():
    assert not [name for name, found in imports().items() if ".tune" in name for part in found if ".gpu" in part]
