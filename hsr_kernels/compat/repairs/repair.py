# SPDX-License-Identifier: Apache-2.0
"""What a repair is, and the two ways in which one gets at modules that aren't imported yet."""

import ast
import importlib
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType

from .syntax import imports

# Takes what a repair says when it acts.
Say = Callable[[str], None]
Spec = importlib.machinery.ModuleSpec | None
# The part of a syntax tree's node that does something, if one does, given what names stand for ({"np": "numpy"}) and
# the dotted names that the node itself stands for.
Match = Callable[[ast.AST, Mapping[str, str], Sequence[str]], ast.AST | None]


@dataclass(frozen=True)
class Repair:
    """One thing that scripts do and what is installed refuses.

    Attributes:
        name: As it is printed.
        what: What it does, in a sentence without its end.
        match: The part of a node of a script's syntax tree that does what is refused.
        is_refused: Whether what is installed refuses it.
        install: Makes it work in this process, at once or once the module that it is about is imported.
        is_default: Whether it is applied without being asked for.
    """

    name: str
    what: str
    match: Match
    is_refused: Callable[[], bool]
    install: Callable[[Say], None]
    is_default: bool = True


def may_be_refused(module: object) -> bool:
    """True, where it shows when a script calls something whether that is refused."""
    return True


def node_where(predicate: Callable[[ast.AST, Mapping[str, str]], bool]) -> Match:
    """Returns what matches the nodes of which something is true."""
    return lambda node, aliases, names: node if predicate(node, aliases) else None


def name_where(predicate: Callable[[str], bool]) -> Match:
    """Returns what matches the nodes that stand for a dotted name of which something is true."""
    return lambda node, aliases, names: node if any(map(predicate, names)) else None


def find_after(finder: MetaPathFinder, fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> Spec:
    """Returns what the finders that are asked after one find."""
    index = sys.meta_path.index(finder) if finder in sys.meta_path else -1
    finders = sys.meta_path[index + 1 :]
    return next(filter(None, (other.find_spec(fullname, path, target) for other in finders)), None)


class _Watcher(MetaPathFinder):
    """Has modules changed right after they are imported; finds nothing by itself."""

    def __init__(self) -> None:
        self.changes: dict[str, list[Callable[[ModuleType], None]]] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Spec:
        if fullname not in self.changes:
            return None
        spec = find_after(self, fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        loader, execute = spec.loader, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            # From here on the loader is as it was.
            del loader.exec_module
            execute(module)
            for change in self.changes[fullname]:
                change(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class _Provider(MetaPathFinder, Loader):
    """Provides modules that exist no more, once all other finders have failed to find them."""

    def __init__(self) -> None:
        self.modules: dict[str, tuple[Callable[[], Mapping[str, object]], Say]] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Spec:
        if fullname not in self.modules:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in self.modules)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        make, say = self.modules[module.__name__]
        vars(module).update(make())
        say(f"{module.__name__}, which isn't there any more, is provided")


_watcher = _Watcher()
_provider = _Provider()


def after_import(module: str, change: Callable[[ModuleType], None]) -> None:
    """Has a module changed once it is imported, or at once where it is."""
    if module in sys.modules:
        change(sys.modules[module])
    if _watcher not in sys.meta_path:
        sys.meta_path.insert(0, _watcher)
    _watcher.changes.setdefault(module, []).append(change)


def change_of(
    module: str, is_refused: Callable[[ModuleType], bool], change: Callable[[ModuleType, Say], None]
) -> tuple[Callable[[], bool], Callable[[Say], None]]:
    """Returns the functions `is_refused` and `install` of a repair that changes a module.

    Args:
        module: Its name.
        is_refused: Whether the module, as it is installed, refuses what the repair is about.
        change: Changes the module; takes a function to call when the repair acts, too.
    """

    def is_refused_here() -> bool:
        with suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return is_refused(importlib.import_module(module))
        return False

    def install(say: Say) -> None:
        def change_if_refused(imported: ModuleType) -> None:
            if is_refused(imported):
                change(imported, say)

        after_import(module, change_if_refused)

    return is_refused_here, install


def module_of(
    modules: Mapping[str, Callable[[], Mapping[str, object]]],
) -> tuple[Match, Callable[[], bool], Callable[[Say], None]]:
    """Returns the functions `match`, `is_refused` and `install` of a repair that provides modules.

    Args:
        modules: What makes the contents of each module, by its name. The first one stands for all.
    """
    first = next(iter(modules))

    def match(node: ast.AST, aliases: Mapping[str, str], names: Sequence[str]) -> ast.AST | None:
        is_import = any(f"{name}.".startswith(f"{first}.") for name in imports(node))
        return node if is_import else None

    def install(say: Say) -> None:
        if _provider not in sys.meta_path:
            sys.meta_path.append(_provider)
        _provider.modules |= {name: (make, say) for name, make in modules.items()}

    return match, lambda: is_missing(first), install


def is_missing(module: str) -> bool:
    """Whether a module can't be imported, so far as can be told without running it."""
    if module in sys.modules:
        return False
    with suppress(ImportError, ValueError, AttributeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.util.find_spec(module) is None
    return True
