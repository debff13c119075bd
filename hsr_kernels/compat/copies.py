# SPDX-License-Identifier: Apache-2.0
"""Recognises the families' operators in a project: by the names of files, and by the arguments of functions."""

import ast
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from .repairs.syntax import aliases_of, calls_with, dotted, imports
from .sources import Source

# What files have in them that define a family's operators or import them.
PATTERN = (
    "upfirdn2d|bias_act|fused_act|[Ff]used_?[Ll]eaky|conv2d_gradfix|conv2d_resample|grid_sample|filtered_lrelu|"
    r"torch_utils|mmcv|basicsr|gfpgan|def fma\b"
)
# The functions by which files are recognised whose names differ from the functions'.
_FUNCTIONS = {"conv2d_gradfix": "conv2d", "grid_sample_gradfix": "grid_sample", "fused_act": "fused_leaky_relu"}
_NVLABS_FILES = (
    "bias_act", "conv2d_gradfix", "conv2d_resample", "filtered_lrelu", "fma", "grid_sample_gradfix", "upfirdn2d",
)  # fmt: skip
# These alone say nothing: other projects have them, too.
_NVLABS_MINOR_FILES = {"fma"}
_ROSINALITY_FILES = ("fused_act", "upfirdn2d")
# So many arguments make a function a family's.
MIN_SHARED_ARGUMENTS = 3
# Other modules of rosinality's that are replaced where these are.
_ROSINALITY_COMPANIONS = ("conv2d_gradfix",)


@dataclass(frozen=True)
class Copy:
    """A family's operators in a project.

    Attributes:
        family: Its name.
        package: The package that holds the modules, named from the project's root: "models.stylegan2.op".
        place: Its folder; the file that imports it, where the project has no copy of its own.
        version: Of MMCV, where the project's calls show it.
    """

    family: str
    package: str
    place: Path
    version: str = ""

    def replaces(self, file: Path) -> bool:
        """Whether a file is one whose module is replaced."""
        if self.family == "nvlabs":
            is_operator = file.parent == self.place and file.stem in _NVLABS_FILES
            return is_operator or file == self.place.parent / "custom_ops.py"
        if self.family == "rosinality":
            return file.parent == self.place and file.stem in _ROSINALITY_FILES + _ROSINALITY_COMPANIONS
        is_package = file.parent.parent == self.place and file.parent.name in _ROSINALITY_FILES
        return self.family == "basicsr" and is_package


@dataclass(frozen=True)
class Mark:
    """What makes a file part of a copy.

    Attributes:
        family: Whose.
        place: The copy's folder.
        line: Of the function or class.
        is_minor: Whether it doesn't make a copy by itself.
        extra_arguments: Those of the function that this package's hasn't.
    """

    family: str
    place: Path
    line: int
    is_minor: bool = False
    extra_arguments: tuple[str, ...] = ()


def mark_of(source: Source) -> Mark | None:
    """Returns what makes a file part of a family's copy; None where nothing does."""
    file, stem = source.file, source.file.stem
    functions = {n.name: n for n in source.statements if isinstance(n, ast.FunctionDef)}
    function = functions.get(_FUNCTIONS.get(stem, stem))
    if stem in _ROSINALITY_FILES:
        # BasicSR has a package per operator.
        family, place = ("basicsr", file.parents[1]) if file.parent.name == stem else ("rosinality", file.parent)
        classes = {n.name: n for n in source.statements if isinstance(n, ast.ClassDef)}
        found = classes.get("FusedLeakyReLU") if stem == "fused_act" else None
        if found is not None or (function is not None and _agrees(function, _parameters("rosinality", stem))):
            line = (function or found).lineno  # type: ignore[union-attr]
            return Mark(
                family, place, line, extra_arguments=_extra_arguments(function, _parameters("rosinality", stem))
            )
    if stem in _NVLABS_FILES and function is not None and _agrees(function, _parameters("nvlabs", stem)):
        extra = _extra_arguments(function, _parameters("nvlabs", stem))
        return Mark("nvlabs", file.parent, function.lineno, stem in _NVLABS_MINOR_FILES, extra)
    return None


def _parameters(family: str, stem: str) -> list[str]:
    """The arguments of this package's function that stands for the one of a family's file."""
    module: ModuleType = importlib.import_module(f"hsr_kernels.compat.{family}.{stem}")
    return [*inspect.signature(getattr(module, _FUNCTIONS.get(stem, stem))).parameters]


def _arguments(function: ast.FunctionDef) -> list[str]:
    return [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]


def _agrees(function: ast.FunctionDef, ours: list[str]) -> bool:
    """Whether a function has our first arguments, or all of ours and then others."""
    # The order of those that are passed by name alone doesn't matter.
    keyword_only = {a.arg for a in function.args.kwonlyargs} & {*ours}
    theirs = [name for name in _arguments(function) if name not in keyword_only]
    common = min(len(theirs), len(ours))
    return theirs[:common] == ours[:common] and common >= min(len(ours), MIN_SHARED_ARGUMENTS)


def _extra_arguments(function: ast.FunctionDef | None, ours: list[str]) -> tuple[str, ...]:
    return tuple(name for name in (_arguments(function) if function else ()) if name not in ours)


def used_by(source: Source) -> Iterator[Copy]:
    """Returns what a file imports of families by names that say whose they are."""
    aliases = aliases_of(source.nodes)
    names = [name for node in source.nodes for name in imports(node)]
    roots = {name.partition(".")[0] for name in names}
    attributes = (dotted(node, aliases) for node in source.nodes if isinstance(node, ast.Attribute))
    names += [name for name in attributes if name.partition(".")[0] in roots]
    mmcv = importlib.import_module("hsr_kernels.compat.mmcv")
    if any(name.startswith("mmcv.ops.") and name.split(".")[2] in mmcv.__all__ for name in names):
        yield Copy("mmcv", "mmcv.ops", source.file, _mmcv_version(source.nodes, aliases))
    if any(name.split(".")[0] in ("basicsr", "gfpgan") for name in names):
        yield Copy("basicsr", "basicsr.ops", source.file)
    if any(name.startswith(("torch_utils.ops", "torch_utils.persistence")) for name in names):
        yield Copy("nvlabs", "torch_utils.ops", source.file)
    ours = importlib.import_module("hsr_kernels.compat.rosinality").__all__
    for name in names:
        package, _, taken = name.rpartition(".")
        package = package.removesuffix(".fused_act").removesuffix(".upfirdn2d")
        if package.rpartition(".")[2] == "op" and taken in ours:
            yield Copy("rosinality", package, source.file)


def _mmcv_version(nodes: list[ast.AST], aliases: Mapping[str, str]) -> str:
    """1 if a file pads as MMCV 1 does; an empty string if nothing says so."""
    pads = calls_with("mmcv", ("upfirdn2d",), "pad")
    return "1" if any(pads(node, aliases) for node in nodes) else ""


def copies_of(base: Path, marks: list[Mark], used: list[Copy]) -> list[Copy]:
    """Returns a project's copies, and the families' packages that it imports from elsewhere.

    Args:
        base: The folder from which imports are named.
        marks: Of all files.
        used: By all files.
    """
    found: dict[Path, str] = {}
    for mark in marks:
        # Whoever has rosinality's files, the others in that folder are rosinality's, too.
        if not mark.is_minor and found.get(mark.place) in (None, "nvlabs"):
            found[mark.place] = mark.family
    copies = [Copy(family, ".".join(place.relative_to(base).parts), place) for place, family in found.items()]
    elsewhere: dict[tuple[str, str], Copy] = {}
    for one in used:
        key = (one.family, one.package)
        is_copied = any(one.package in importable_names(copy) for copy in copies)
        if not is_copied and not exists(base, one.package) and (key not in elsewhere or one.version):
            elsewhere[key] = one
    return [*sorted(copies, key=lambda copy: copy.place), *elsewhere.values()]


def exists(base: Path, package: str) -> bool:
    """Whether a project has a package or a module of that name."""
    path = base.joinpath(*package.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def importable_names(copy: Copy) -> list[str]:
    """Returns the names under which a copy may be imported: inner folders of a project may be on the path, too."""
    parts = copy.package.split(".")
    # The package around nvlabs' operators holds custom_ops, and BasicSR's is known by its name.
    min_parts = 1 if copy.family == "rosinality" else 2
    names = [".".join(parts[i:]) for i in range(max(len(parts) - min_parts, 0) + 1)]
    return [name for name in names if all(part.isidentifier() for part in name.split("."))]
