# SPDX-License-Identifier: Apache-2.0
"""Modules of this package under the names that other projects import.

A module goes into `sys.modules`, where every import looks first, so the project's own file of that name isn't read. The
packages around it stay the project's: they are imported as ever where they are found, and are empty where they aren't.
Modules of the project that define a function for themselves can be given this package's in its place.
"""

import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any

_ABSENT = object()
_installed: list["Shim"] = []


@dataclass(eq=False)
class Shim:
    """A family's modules under the names that projects import.

    Attributes:
        modules: By name, "torch_utils.ops.bias_act".
        exports: What a package holds beside its modules, by the package's name: {name: value}. It outranks what the
            package itself defines.
        watched: How the last parts of the names of modules begin that are shown to `replacements`.
        replacements: What a module of the project that was imported gets in place of its own: {name: value}.
    """

    modules: Mapping[str, ModuleType]
    exports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    watched: tuple[str, ...] = ()
    replacements: Callable[[ModuleType], Mapping[str, Any]] = lambda module: {}
    # What has been overwritten, in that order: (namespace, name, what stood there).
    _before: list[tuple[dict[str, Any], str, Any]] = field(default_factory=list, repr=False)

    def install(self) -> None:
        """Has imports get these modules from now on; a second call does nothing.

        Modules that were imported earlier and hold something of what is replaced get what replaces it, with a warning:
        what is held elsewhere, by a class that inherits from it, say, stays.
        """
        if self in _installed:
            return
        replaced = [
            (old, new) for name, new in self.modules.items() if (old := sys.modules.get(name)) not in (None, new)
        ]
        if not _installed:
            sys.meta_path.insert(0, _FINDER)
        _installed.append(self)
        for name, module in self.modules.items():
            self._put(sys.modules, name, module)
        for name in self.packages():
            if (package := sys.modules.get(name)) is not None:
                self.populate(package)
        for name, module in [*sys.modules.items()]:
            if self.watches(name):
                self.edit(module)
        if holders := {name for old, new in replaced for name in self._replace_everywhere(old, new)}:
            warnings.warn(
                f"{', '.join(old.__name__ for old, _ in replaced)} had been imported, and {', '.join(sorted(holders))} "
                "had taken something from there, which was replaced; call install() before the project's own imports",
                RuntimeWarning,
                stacklevel=4,
            )

    def uninstall(self) -> None:
        """Has later imports get what they got before `install`; does nothing without one."""
        if self not in _installed:
            return
        _installed.remove(self)
        if not _installed:
            sys.meta_path.remove(_FINDER)
        for namespace, name, value in reversed(self._before):
            if value is _ABSENT:
                namespace.pop(name, None)
            else:
                namespace[name] = value
        self._before.clear()
        for name in reversed(self.packages()):
            if _is_empty(sys.modules.get(name)) and not any(name in shim.packages() for shim in _installed):
                del sys.modules[name]

    def packages(self) -> list[str]:
        """The names of the packages around the modules and around those packages, outer ones first."""
        names: dict[str, None] = {}
        for module in [*self.modules, *(f"{package}." for package in self.exports)]:
            parts = module.split(".")[:-1]
            names |= dict.fromkeys(".".join(parts[: i + 1]) for i in range(len(parts)))
        return [*names]

    def populate(self, package: ModuleType) -> None:
        """Gives a package that was imported what its project expects in it."""
        for name, module in self.modules.items():
            parent, _, stem = name.rpartition(".")
            # `from .upfirdn2d import upfirdn2d` in a package binds the module's name to its function.
            if parent == package.__name__ and isinstance(vars(package).get(stem, module), ModuleType):
                self._put(vars(package), stem, module)
        for name, value in self.exports.get(package.__name__, {}).items():
            self._put(vars(package), name, value)

    def watches(self, module: str) -> bool:
        """Whether `replacements` wants to see the module of this name."""
        return bool(self.watched) and module.rpartition(".")[2].startswith(self.watched)

    def edit(self, module: ModuleType) -> None:
        """Gives a module that is watched what `replacements` has for it."""
        if not module.__name__.startswith(f"{__package__}."):
            for name, value in self.replacements(module).items():
                self._put(vars(module), name, value)

    def _put(self, namespace: dict[str, Any], name: str, value: Any) -> None:
        self._before.append((namespace, name, namespace.get(name, _ABSENT)))
        namespace[name] = value

    def _replace_everywhere(self, old: ModuleType, new: ModuleType) -> list[str]:
        """Replaces a module, its functions and classes in the globals of all modules; returns the names of these."""
        theirs = {name: value for name, value in vars(old).items() if getattr(value, "__module__", "") == old.__name__}
        by_id = {id(value): vars(new)[name] for name, value in theirs.items() if name in vars(new)} | {id(old): new}
        holders: dict[str, None] = {}
        for module in [*sys.modules.values()]:
            if isinstance(module, ModuleType) and module is not old:
                for name, value in [*vars(module).items()]:
                    if id(value) in by_id:
                        self._put(vars(module), name, by_id[id(value)])
                        holders[module.__name__] = None
        return [*holders]


class Family:
    """The shims of a family of projects, as they are installed."""

    def __init__(self) -> None:
        self._shims: list[Shim] = []

    def install(self, shims: Iterable[Shim]) -> None:
        """Installs shims in place of those that an earlier call installed; does nothing where these are the same."""
        shims = [*shims]
        if [shim.modules for shim in shims] == [shim.modules for shim in self._shims]:
            return
        self.uninstall()
        self._shims = shims
        for shim in shims:
            shim.install()

    def uninstall(self) -> None:
        """Uninstalls what is installed."""
        while self._shims:
            self._shims.pop().uninstall()


class _Finder(MetaPathFinder):
    """Finds the packages around installed modules, the project's own or else empty ones, and populates them.

    It also finds the modules that are watched, if they are there.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        is_around = any(fullname in shim.packages() for shim in _installed)
        if not is_around and not any(shim.watches(fullname) for shim in _installed):
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is None and is_around:
            spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        if spec is None:
            return None
        # A folder without an __init__.py has no loader.
        spec.loader = _Loader(spec.loader or _NoCode())
        return spec


class _Loader(Loader):
    """Another loader, and then what installed families put into the package that it loads."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        try:
            self.loader.exec_module(module)
        except ImportError as error:
            # An MMCV without its compiled extension, say.
            if not any(module.__name__ in shim.exports for shim in _installed):
                raise
            warnings.warn(
                f"{module.__name__} has no more than hsr_kernels' operators ({error})", RuntimeWarning, stacklevel=2
            )
        for shim in _installed:
            shim.populate(module)
            if shim.watches(module.__name__):
                shim.edit(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class _NoCode(Loader):
    """Loads a package in which there is nothing."""

    def exec_module(self, module: ModuleType) -> None:
        """Runs nothing."""


def _is_empty(package: ModuleType | None) -> bool:
    """Whether a package was made for want of the project's own."""
    loader = getattr(package, "__loader__", None)
    path = getattr(package, "__path__", ())
    return isinstance(loader, _Loader) and isinstance(loader.loader, _NoCode) and not [*path]


_FINDER = _Finder()
