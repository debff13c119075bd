# SPDX-License-Identifier: Apache-2.0
"""Reads a project's tree, without running it: whose operators it has a copy of, and what won't work today."""

import ast
import functools
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from .repairs import REPAIRS, Repair
from .syntax import aliases, dotted, imports

# Folders that hold no part of a project.
_SKIPPED = {"__pycache__", "node_modules", "site-packages", "build", "dist"}
MAX_FILE_BYTES = 4 << 20
# Packages whose names are looked up in what is installed.
_LOOKED_UP = ("torch", "torchvision", "numpy")
# Calls that compile an extension, by the ends of their names.
_BUILDS = ("cpp_extension.load", "cpp_extension.load_inline", "custom_ops.get_plugin")
# The first arguments of functions by which a file is known as NVIDIA's, by the file's name.
_NVLABS_ARGUMENTS = {
    "bias_act": ["x", "b", "dim"],
    "conv2d_gradfix": ["input", "weight", "bias"],
    "conv2d_resample": ["x", "w", "f"],
    "filtered_lrelu": ["x", "fu", "fd"],
    "fma": ["a", "b", "c"],
    "grid_sample_gradfix": ["input", "grid"],
    "upfirdn2d": ["x", "f", "up"],
}
_MMCV_NAMES = {
    "FusedBiasLeakyReLU", "bias_act", "conv2d", "conv_transpose2d", "filter2d", "filtered_lrelu", "fused_bias_leakyrelu",
    "upfirdn2d", "upsample2d",
}  # fmt: skip


@dataclass(frozen=True)
class Copy:
    """A family's operators in a project.

    Attributes:
        family: Its name.
        package: The package that holds the modules, named from the project's root: "models.stylegan2.op".
        place: Its folder; of MMCV's, which no project copies, the file that imports them.
    """

    family: str
    package: str
    place: Path


@dataclass(frozen=True)
class Problem:
    """A line that what is installed refuses.

    Attributes:
        file, line: Where.
        text: The line.
        what: What is refused.
        repair: What `run` does about it; None for nothing.
    """

    file: Path
    line: int
    text: str
    what: str
    repair: Repair | None


@dataclass
class Report:
    """What was found in a project; `files` counts the ones that were read."""

    files: int = 0
    copies: list[Copy] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: nothing was found; 1: `run` takes care of what was; 2: something is left to change by hand."""
        if any(problem.repair is None for problem in self.problems):
            return 2
        return 1 if self.problems or self.copies else 0


def python_files(root: Path) -> Iterator[Path]:
    """The Python files of a tree in order, those of environments and hidden folders left out."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED and not name.startswith(".") and not Path(folder, name, "pyvenv.cfg").exists()
        )
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def check(root: Path, progress: Callable[[list[Path]], Iterable[Path]] = iter) -> Report:
    """Reads a tree, or one file.

    Args:
        root: The folder from which the project's imports are named, or a script.
        progress: Wraps the files while they are read.
    """
    report = Report()
    base = root.parent if root.is_file() else root
    for file in progress([root] if root.is_file() else [*python_files(root)]):
        report.files += 1
        if (tree := _parsed(file, report)) is None:
            continue
        copy = _copy(file, tree, base)
        if copy is not None and copy not in report.copies:
            report.copies.append(copy)
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        is_replaced = copy is not None and copy.family != "mmcv"
        for line, what, repair in sorted(set(_problems(tree, is_replaced)), key=lambda found: found[:2]):
            report.problems.append(Problem(file, line, lines[line - 1].strip(), what, repair))
    return report


def _parsed(file: Path, report: Report) -> ast.Module | None:
    """The syntax tree of a file; None where there is none, with a problem in the report if there should be."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(file.read_bytes())
    except SyntaxError as error:
        what = f"it isn't Python {sys.version_info.major}.{sys.version_info.minor} ({error.msg})"
        report.problems.append(Problem(file, error.lineno or 1, (error.text or "").strip(), what, None))
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        report.problems.append(Problem(file, 1, "", f"it can't be read ({error})", None))
    return None


def _copy(file: Path, tree: ast.Module, base: Path) -> Copy | None:
    """The family's copy that a file belongs to, by the arguments of the function that it is named after."""
    functions = {n.name: [a.arg for a in n.args.args] for n in tree.body if isinstance(n, ast.FunctionDef)}
    classes = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
    package = ".".join(file.parent.relative_to(base).parts)
    stem = file.stem.removesuffix("_gradfix") if file.stem == "grid_sample_gradfix" else file.stem
    arguments = functions.get("conv2d" if stem == "conv2d_gradfix" else stem, [])
    if (
        file.parent.name == "ops"
        and arguments
        and arguments[:3] == _NVLABS_ARGUMENTS.get(file.stem, [])[: len(arguments)]
    ):
        return Copy("nvlabs", package, file.parent)
    if functions.get("upfirdn2d", [])[:2] == ["input", "kernel"] or "FusedLeakyReLU" in classes:
        # BasicSR has a package per operator.
        if file.parent.name == file.stem:
            return Copy("basicsr", package.rpartition(".")[0], file.parents[1])
        return Copy("rosinality", package, file.parent)
    if any(name.startswith("mmcv.ops.") and name.rpartition(".")[2] in _MMCV_NAMES for name in _imported(tree)):
        return Copy("mmcv", "mmcv.ops", file)
    return None


def _imported(tree: ast.Module) -> Iterator[str]:
    return (name for node in ast.walk(tree) for name in imports(node))


def _problems(tree: ast.Module, is_replaced: bool) -> Iterator[tuple[int, str, Repair | None]]:
    """(line, what is refused, what `run` does) for a file; what a file that is replaced builds is left out."""
    names = aliases(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        matching = [repair for repair in REPAIRS if repair.matches(node)]
        yield from ((line, repair.what, repair) for repair in matching if repair.is_refused())
        if matching or is_replaced:
            continue
        if isinstance(node, ast.Call) and f".{dotted(node.func, names)}".endswith(tuple(f".{b}" for b in _BUILDS)):
            yield line, "an extension is compiled, which nothing here replaces", None
        for name in (dotted(node, names), *imports(node)):
            if absent := _absent(name):
                yield line, f"{absent} isn't there any more", None


@functools.cache
def _absent(name: str) -> str:
    """The part of a dotted name that isn't in what is installed; empty where all of it is, or it isn't looked up."""
    package, *rest = name.split(".")
    if package not in _LOOKED_UP or not rest or importlib.util.find_spec(package) is None:
        return ""
    found: Any = importlib.import_module(package)
    for i, part in enumerate(rest, 2):
        so_far = ".".join(name.split(".")[:i])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            following = getattr(found, part, None)
            if following is None and isinstance(found, ModuleType) and part not in vars(found):
                try:
                    following = importlib.import_module(so_far)
                except ImportError:
                    return so_far
        # Functions that were removed are there to say so.
        if getattr(following, "__module__", None) == "torch._linalg_utils":
            return so_far
        if not isinstance(following, ModuleType):
            return ""
        found = following
    return ""
