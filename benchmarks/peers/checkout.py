# SPDX-License-Identifier: Apache-2.0
"""The operators in somebody's checkout: found by reading its files, then imported from there and nowhere else."""

import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils import cpp_extension

from hsr_kernels.compat import FAMILIES as KNOWN
from hsr_kernels.compat.copies import PATTERN, copies_of, mark_of
from hsr_kernels.compat.sources import Tree, read

from ..messages import described
from ..parity.call import Call
from ..workloads import Workload
from .families import FAMILIES, MMCV_1, Entry, Operator, Tensors

_MMCV_OPERATORS = "mmcv.ops"
# What a project's tree may hold before it is no project's.
MAX_ENTRIES = 100_000


class UselessPeer(Exception):
    """A folder has no operators of a family, or they can't be imported; the message is a sentence."""


@dataclass(frozen=True, eq=False)
class PeerCall(Call):
    """A call that runs a project's function in place of the library's."""

    function: Operator = field(default=lambda **_: torch.empty(0))
    entry: Entry | None = None

    def call(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Runs the project's function."""
        assert self.entry is not None
        options = {k: v for k, v in self.options.items() if v is not None}
        return self.entry.adapt(self.function, tensors, options)


def package(path: Path, family: str) -> str:
    """Returns the package of a family's operators in a checkout, "torch_utils.ops", without importing anything.

    Raises:
        UselessPeer: There is none.
    """
    assert set(FAMILIES) <= set(KNOWN)
    if not path.is_dir():
        raise UselessPeer(f"--peer must be a folder, and {path} isn't one")
    if family == "mmcv":
        found = [_MMCV_OPERATORS] if path.joinpath(*_MMCV_OPERATORS.split(".")).is_dir() else []
    else:
        tree = Tree(path, MAX_ENTRIES)
        marks = [mark for file in tree.files() if (mark := mark_of(read(file, PATTERN))) is not None]
        found = [copy.package for copy in copies_of(path, marks, []) if copy.family == family]
    if not found:
        raise UselessPeer(f"{path} has no operators of {family}: none of its files defines them")
    return found[0]


class Peer:
    """A checkout's operators, imported; for a process that does nothing else with such names."""

    def __init__(self, path: Path, family: str) -> None:
        """Imports the package of its operators.

        Raises:
            UselessPeer: There is none, or it can't be imported.
        """
        self.path, self.family, self.package = path.resolve(), family, package(path, family)
        # Its modules import each other from there.
        sys.path.insert(0, str(self.path))
        if not torch.cuda.is_available():
            # Some build an extension when they are imported, which they don't use on the CPU.
            vars(cpp_extension)["load"] = _Unbuilt
        self._import(self.package)
        pads_as_version_1 = (
            family == "mmcv" and "pad" in inspect.signature(self._function(MMCV_1["filter2d"])).parameters
        )
        self._entries = MMCV_1 if pads_as_version_1 else FAMILIES[family]

    def _import(self, name: str) -> ModuleType:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            raise UselessPeer(f"{name} of {self.path} can't be imported: {described(error)}") from error
        places = [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", []))]
        if not any(Path(place).resolve().is_relative_to(self.path) for place in places if place):
            raise UselessPeer(f"{name} was imported from {places[0] or places[-1]}, which isn't in {self.path}")
        return module

    def _function(self, entry: Entry) -> Any:
        """A function in a module; in rosinality's packages the module's name is bound to the function."""
        self._import(f"{self.package}.{entry.module}")
        module = sys.modules[f"{self.package}.{entry.module}"]
        function = getattr(module, entry.function, None)
        if function is None:
            raise UselessPeer(f"{self.package}.{entry.module} of {self.path} has no {entry.function}")
        return function

    def call(self, ours: Call) -> PeerCall:
        """Returns the same call of the project's function.

        Raises:
            UselessPeer: It has no such function, or none with these arguments.
        """
        entry = self._entries.get(ours.op)
        if entry is None:
            raise UselessPeer(f"{self.family} has no {ours.op}")
        if lacking := entry.lacks(ours):
            raise UselessPeer(f"{self.family}'s {entry.function} has no {lacking}")
        values = {name: getattr(ours, name) for name in ("op", "name", "shapes", "options", "constants", "degenerate")}
        return PeerCall(**values, function=self._function(entry), entry=entry)

    def workload(self, work: Workload) -> Workload:
        """Returns the same work by the project's function.

        Raises:
            UselessPeer: As `call`.
        """
        if work.is_network:
            raise UselessPeer("peers are timed in single operators")
        call = self.call(work.calls[0])

        def function(*tensors: torch.Tensor) -> torch.Tensor:
            # Filters, which follow, are options of the call.
            named: Tensors = dict(zip(call.shapes, tensors, strict=False))
            return call.call(named)

        return replace(work, function=function, calls=[call])


class _Unbuilt:
    """Stands for an extension that wasn't built, until something of it is used."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.name = kwargs.get("name") or (args[0] if args else "an extension")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} of {self.name}, which isn't built for CPUs")
