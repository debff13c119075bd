# SPDX-License-Identifier: Apache-2.0
"""Reads a project's tree, without running it: whose operators it has a copy of, and what won't work today."""

import ast
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from .copies import Copy, Mark, copies_of, mark_of, used_by
from .repairs import REPAIRS, Repair
from .repairs.repair import is_missing
from .repairs.syntax import aliases_of, dotted, imports
from .sources import Source, Tree, read

# Packages whose names are looked up in what is installed.
_LOOKED_UP = ("torch", "torchvision", "numpy", "PIL", "scipy")
# Calls that compile an extension, by the ends of their names.
_BUILDS = ("cpp_extension.load", "cpp_extension.load_inline", "custom_ops.get_plugin")
# What handles that a name is absent.
_HANDLERS = {"", "AttributeError", "BaseException", "Exception", "ImportError", "ModuleNotFoundError"}
# What packages for other devices add to PyTorch.
_ADDED = ("torch.hpu", "torch.mlu", "torch.musa", "torch.npu")
# The nodes of a syntax tree that can be refused. A name that an import binds is refused there.
_NODES = (ast.Call, ast.Dict, ast.Assign, ast.ClassDef, ast.Attribute, ast.Import, ast.ImportFrom)


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
    repair: Repair | None = None


@dataclass
class Report:
    """What was found in a project; `files` counts the Python files that were read, `notebooks` what wasn't."""

    base: Path
    files: int = 0
    notebooks: int = 0
    copies: list[Copy] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: nothing was found; 1: `run` takes care of what was; 2: something is left to change by hand."""
        if any(problem.repair is None for problem in self.problems):
            return 2
        return 1 if self.problems or self.copies else 0


def check(root: Path, progress: Callable[[Iterable[Path]], Iterable[Path]] = iter) -> Report:
    """Reads a tree, or one file.

    Args:
        root: The folder from which the project's imports are named, or a script.
        progress: Wraps the files while they are read.
    """
    tree = Tree(root)
    report = Report(tree.base)
    marks: list[tuple[Mark, Source]] = []
    used: list[Copy] = []
    problems: list[Problem] = []
    for file in progress(tree.files()):
        source = read(file)
        if (mark := mark_of(source)) is not None:
            marks.append((mark, source))
        used += used_by(source)
        problems += _problems(source)
        report.files += 1
    report.notebooks = tree.notebooks
    report.copies = copies_of(tree.base, [mark for mark, _ in marks], used)
    for mark, source in marks:
        if mark.extra_arguments and any(copy.place == mark.place for copy in report.copies):
            what = f"{', '.join(mark.extra_arguments)}: hsr_kernels has no such argument of this function"
            report.problems.append(_problem(source, mark.line, what))
    # A file that `run` replaces isn't read then.
    report.problems += [p for p in problems if not any(copy.replaces(p.file) for copy in report.copies)]
    report.problems.sort(key=lambda problem: (problem.file, problem.line, problem.what))
    return report


def _problem(source: Source, line: int, what: str, repair: Repair | None = None) -> Problem:
    text = source.lines[line - 1].strip() if 0 < line <= len(source.lines) else ""
    return Problem(source.file, line, text, what, repair)


def _problems(source: Source) -> list[Problem]:
    """What is refused in a file, once for each line."""
    if source.error is not None:
        return [_problem(source, *source.error)]
    found = dict.fromkeys(_refused(source.nodes, aliases_of(source.nodes)))
    return [_problem(source, line, what, repair) for line, what, repair in found]


def _refused(nodes: list[ast.AST], names: Mapping[str, str]) -> Iterator[tuple[int, str, Repair | None]]:
    """The lines of a file that are refused: (line, what is, what `run` does)."""
    handled = {id(node) for node in _handled(nodes)}
    for node in nodes:
        if id(node) in handled or not isinstance(node, _NODES):
            continue
        own = [dotted(node, names), *imports(node)]
        matches = [(match, repair) for repair in REPAIRS if (match := repair.match(node, names, own)) is not None]
        repaired = [(match, repair) for match, repair in matches if _is_refused(repair)]
        yield from ((getattr(match, "lineno", 1), repair.what, repair) for match, repair in repaired)
        line = getattr(node, "lineno", 1)
        if isinstance(node, ast.Call) and f".{dotted(node.func, names)}".endswith(tuple(f".{b}" for b in _BUILDS)):
            yield line, "an extension is compiled, which hsr_kernels doesn't replace", None
        if not repaired:
            absent = dict.fromkeys(filter(None, map(_absent, own)))
            yield from ((line, f"{name} isn't in {_shown_version(name)}", None) for name in absent)


def _handled(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of a file for whose failure it is prepared, or which run by a setting of the environment alone."""
    settings = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name) and dotted(node.value.func, {}) in ("os.getenv", "os.environ.get")
    }
    for node in nodes:
        if isinstance(node, ast.Try):
            # What one version refuses, the handler does in another way, which other versions refuse.
            if any(name in _HANDLERS for handler in node.handlers for name in _caught(handler.type)):
                yield from ast.walk(node)
        # `hasattr(numpy, "float")` or `torch.__version__`, and what follows from it.
        elif isinstance(node, (ast.If, ast.IfExp)):
            asked = {getattr(part, "id", getattr(part, "attr", "")) for part in ast.walk(node.test)}
            if asked & {"hasattr", "__version__", "environ", "getenv", *settings}:
                yield from ast.walk(node)


def _caught(handler: ast.expr | None) -> list[str]:
    """The names of the exceptions that a handler is for; an empty one for all."""
    if isinstance(handler, ast.Tuple):
        return [dotted(element, {}) for element in handler.elts]
    return ["" if handler is None else dotted(handler, {})]


@functools.cache
def _is_refused(repair: Repair) -> bool:
    return repair.is_refused()


def _shown_version(name: str) -> str:
    """The package that a dotted name begins with, and its version."""
    package = importlib.import_module(name.partition(".")[0])
    return f"{package.__name__} {getattr(package, '__version__', '')}".strip()


@functools.cache
def _absent(name: str) -> str:
    """The part of a dotted name that isn't in what is installed; empty where all of it is, or it isn't looked up."""
    package, *rest = name.split(".")
    if package not in _LOOKED_UP or not rest or name.startswith(_ADDED):
        return ""
    # Warnings of what is installed are none of the project's.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found: Any = importlib.import_module(package)
        # Nothing can be said about a package that is missing or broken.
        except Exception:
            return ""
        for i, part in enumerate(rest, 2):
            so_far = ".".join(name.split(".")[:i])
            if hasattr(found, part):
                found = getattr(found, part)
            elif is_missing(so_far):
                return so_far
            else:
                return ""
            # Functions that were removed are there to say so.
            if getattr(found, "__module__", None) == "torch._linalg_utils":
                return so_far
            # Of another type are modules that make their contents up, such as torch.ops.
            if type(found) is not ModuleType:
                return ""
    return ""
