# SPDX-License-Identifier: Apache-2.0
"""Prepares a process for somebody's script: repairs at once, a family's modules when the script's project is imported.

site/sitecustomize.py loads this module, and with it `repairs`, under another name than the package's own, as importing
the package would import PyTorch: before the script has set what it sets before that, and in processes that never do.
"""

import importlib.machinery
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from . import repairs
from .repairs.repair import Spec, find_after

# Holds the settings of a run for the script's process and those that it starts.
VARIABLE = "HSR_KERNELS_COMPAT"
_PACKAGE = "hsr_kernels"


@dataclass(frozen=True)
class Settings:
    """What is done to a process before a script runs in it.

    Attributes:
        families: The arguments of each family's `install`, by its name.
        packages: The packages that are replaced.
        folders: The project's, whose modules are imported after the replacements.
        repairs: The names of the repairs to apply where they are needed.
    """

    families: dict[str, list[str]]
    packages: list[str]
    folders: list[str]
    repairs: list[str]

    def to_json(self) -> str:
        """Returns the settings, and the interpreter that they are for, as text."""
        return json.dumps({"interpreter": [sys.version, sys.prefix], **asdict(self)})


def prepare(given: dict[str, Any]) -> None:
    """Prepares this process, given what `Settings.to_json` wrote."""
    settings = Settings(**{name: value for name, value in given.items() if name != "interpreter"})
    if settings.families:
        sys.meta_path.insert(0, _Families(settings))
    repairs.apply(settings.repairs)


class _Families(MetaPathFinder):
    """Installs families before the first module of the project, or of a package that is replaced, is imported."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.roots = {package.partition(".")[0] for package in settings.packages}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Spec:
        spec = find_after(self, fullname, path, target)
        if fullname.partition(".")[0] not in self.roots and not (spec and self._is_of_project(spec)):
            return spec
        # What is imported from here on is found without this.
        sys.meta_path.remove(self)
        _import_this_package()
        for family, arguments in self.settings.families.items():
            importlib.import_module(f"{_PACKAGE}.compat.{family}").install(*arguments)
        return find_after(self, fullname, path, target)

    def _is_of_project(self, spec: importlib.machinery.ModuleSpec) -> bool:
        """Whether a module lies in one of the project's folders, and is no part of an environment inside of it."""
        places = [spec.origin] if spec.has_location else [*(spec.submodule_search_locations or ())]
        library = Path(os.__file__).resolve().parent
        for place in (Path(place).resolve() for place in places if place):
            is_installed = place.is_relative_to(library) or {"site-packages", "dist-packages"} & {*place.parts}
            if not is_installed and any(place.is_relative_to(folder) for folder in self.settings.folders):
                return True
        return False


def _import_this_package() -> None:
    """Imports hsr_kernels from where this file lies, whether or not that is on the path."""
    if _PACKAGE in sys.modules:
        return
    spec = importlib.machinery.PathFinder.find_spec(_PACKAGE, [str(Path(__file__).resolve().parents[2])])
    assert spec is not None and spec.loader is not None
    module = sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
