# SPDX-License-Identifier: Apache-2.0
"""Runs somebody's script, unmodified, on this package's operators."""

import importlib
import json
import os
import runpy
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import FAMILIES
from .check import Copy, check
from .repairs import REPAIRS, apply

# Holds the settings of a run for the Python processes that it starts, which prepare themselves by `sitecustomize`.
VARIABLE = "HSR_KERNELS_COMPAT"
_SITE = Path(__file__).parent / "site"


@dataclass(frozen=True)
class Settings:
    """What is done to a process before a script runs in it.

    Attributes:
        packages: The packages to replace, by family; none for a family's usual ones.
        repairs: The names of the repairs to apply where they are needed.
    """

    packages: dict[str, list[str]]
    repairs: list[str]


def settings_for(
    folder: Path, families: Sequence[str] = (), *, repair: bool = True, trust_pickles: bool = False
) -> Settings:
    """What a project needs.

    Args:
        folder: Of the project, from which its imports are named.
        families: Whose operators it has a copy of; empty: those that are found there.
        repair: Whether to repair what is installed refuses.
        trust_pickles: Whether `torch.load` may read pickles.
    """
    copies = [copy for copy in check(folder).copies if copy.family in (families or FAMILIES)]
    packages: dict[str, list[str]] = {family: [] for family in families or dict.fromkeys(c.family for c in copies)}
    for copy in copies:
        if copy.family != "mmcv":
            packages[copy.family] += [name for name in names_of(copy) if name not in packages[copy.family]]
    chosen = [r.name for r in REPAIRS if (r.is_default and repair) or (r.name == "trust-pickles" and trust_pickles)]
    return Settings(packages, chosen)


def names_of(copy: Copy) -> list[str]:
    """The names under which a copy may be imported: scripts put inner folders of a project on the path, too."""
    parts = copy.package.split(".")
    least = 2 if copy.family in ("nvlabs", "basicsr") else 1
    return [".".join(parts[i:]) for i in range(max(len(parts) - least, 0) + 1)]


def prepare(settings: Settings) -> None:
    """Puts a project's modules in place in this process, and repairs what is refused."""
    for family, packages in settings.packages.items():
        module: Any = importlib.import_module(f"hsr_kernels.compat.{family}")
        module.install() if family == "mmcv" else module.install(*packages)
    apply([repair for repair in REPAIRS if repair.name in settings.repairs])


def share(settings: Settings) -> None:
    """Has the Python processes that are started from now on prepare themselves in the same way."""
    os.environ[VARIABLE] = json.dumps(asdict(settings))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_SITE), os.environ.get("PYTHONPATH")]))


def prepare_from_environment() -> None:
    """Prepares a process that a run has started."""
    if text := os.environ.get(VARIABLE):
        prepare(Settings(**json.loads(text)))


def run(target: str, arguments: Sequence[str], settings: Settings, *, is_module: bool = False) -> None:
    """Runs a script or a module as `python` would, in this process.

    Args:
        target: The script's path or the module's name.
        arguments: Of the script.
        settings: What is done before.
        is_module: Whether `target` is a module's name.
    """
    prepare(settings)
    share(settings)
    sys.argv = [target, *arguments]
    if is_module:
        sys.path[0] = os.getcwd()
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(target).resolve().parent)
        runpy.run_path(target, run_name="__main__")
