# SPDX-License-Identifier: Apache-2.0
"""Runs somebody's script, unmodified, on this package's operators."""

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from .copies import PATTERN, Copy, copies_of, exists, importable_names, mark_of, used_by
from .prepare import VARIABLE, Settings
from .repairs import REPAIRS
from .sources import Tree, read

# A home directory or a data set beside a script doesn't keep it from starting.
MAX_ENTRIES = 50_000
_SITE = Path(__file__).parent / "site"


def settings_for(
    folders: Sequence[Path], families: Sequence[str] = (), *, repair: bool = True, trust_pickles: bool = False
) -> tuple[Settings, list[Path]]:
    """Returns what a project needs, and of its folders those that were too large to be read to their ends.

    Args:
        folders: Of the project, from which its imports are named. They are read in turn until one has copies.
        families: Whose operators it has a copy of; empty: those that are found there.
        repair: Whether to repair what is installed refuses.
        trust_pickles: Whether `torch.load` may read pickles.
    """
    copies: list[Copy] = []
    unread: list[Path] = []
    for folder in folders:
        found, is_cut = _copies_in(folder)
        copies += found
        unread += [folder] if is_cut else []
        copied = {copy.family for copy in copies if copy.place.is_dir()}
        # A script's folder says more than what lies around it.
        if copied and copied.issuperset(families):
            break
    arguments: dict[str, list[str]] = {
        family: [] for family in families or dict.fromkeys(copy.family for copy in copies)
    }
    packages: list[str] = []
    for copy in copies:
        if copy.family in arguments:
            names = [copy.package] if copy.family == "mmcv" else _free_names(folders, copy)
            packages += [name for name in names if name not in packages]
            added = [copy.version] if copy.family == "mmcv" else names
            arguments[copy.family] += [name for name in added if name and name not in arguments[copy.family]]
    for family in arguments:
        if not any(copy.family == family for copy in copies):
            packages += _usual_packages(family)
    chosen = [r.name for r in REPAIRS if (r.is_default and repair) or (r.name == "trust-pickles" and trust_pickles)]
    return Settings(arguments, packages, [str(folder) for folder in folders], chosen), unread


def _copies_in(folder: Path) -> tuple[list[Copy], bool]:
    """The families' operators in a folder, and whether it was too large to be read to the end."""
    tree = Tree(folder, MAX_ENTRIES)
    sources = [read(file, PATTERN) for file in tree.files()]
    marks = [mark for source in sources if (mark := mark_of(source)) is not None]
    return copies_of(folder, marks, [use for source in sources for use in used_by(source)]), tree.is_cut


def _free_names(folders: Sequence[Path], copy: Copy) -> list[str]:
    """The names under which a copy may be imported, without those of anything else of the project."""
    return [
        name
        for name in importable_names(copy)
        if not any(exists(folder, name) and folder.joinpath(*name.split(".")) != copy.place for folder in folders)
    ]


def _usual_packages(family: str) -> list[str]:
    """The packages that a family replaces where the project has no copy under another name."""
    module = importlib.import_module(f"hsr_kernels.compat.{family}")
    return [*getattr(module, "PACKAGES", ("mmcv.ops",))]


def folders_of(target: str, arguments: Iterable[str], *, is_module: bool = False) -> list[Path]:
    """Returns the folders of a project: the script's, PYTHONPATH's, and the current one if it has to do with it.

    Args:
        target: The script's path or the module's name.
        arguments: Of the script, among which a launcher has the path of another one.
        is_module: Whether `target` is a module's name.
    """
    current = Path.cwd()
    scripts = [name for name in arguments if name.endswith(".py")]
    scripts += [] if is_module else [target]
    folders = [path if path.is_dir() else path.parent for name in scripts if (path := Path(name).resolve()).exists()]
    search_path = [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    # What prepares a process isn't the project's.
    excluded = (_SITE.resolve(), Path(__file__).resolve().parents[2])
    folders += [entry for entry in search_path if entry.is_dir() and entry not in excluded]
    if is_module or any(folder.is_relative_to(current) for folder in folders):
        folders.append(current)
    return [*dict.fromkeys(folders)]


def start(target: str, arguments: Sequence[str], settings: Settings, *, is_module: bool = False) -> None:
    """Has Python run a script or a module in the place of this process; doesn't return.

    Args:
        target: The script's path or the module's name.
        arguments: Of the script.
        settings: What is done before.
        is_module: Whether `target` is a module's name.
    """
    path = os.pathsep.join(filter(None, [str(_SITE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, VARIABLE: settings.to_json()}
    # Options of the interpreter stand before the -m that named this package.
    options = sys.orig_argv[1 : sys.orig_argv.index("-m")] if "-m" in sys.orig_argv else []
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, *options, *(["-m"] if is_module else []), target, *arguments]
    os.execve(sys.executable, command, environment)
