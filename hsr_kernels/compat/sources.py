# SPDX-License-Identifier: Apache-2.0
"""The Python files of a project's tree, read without being run."""

import ast
import importlib.util
import os
import re
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Larger files hold data.
MAX_FILE_BYTES = 4 << 20
# Folders that hold no part of a project, unless they are packages.
_SKIPPED = {"__pycache__", "node_modules", "site-packages", "dist-packages", "build", "dist", "wandb"}
_THIS_PACKAGE = "hsr_kernels"


@dataclass
class Tree:
    """A folder, or one file, whose Python files are read.

    Attributes:
        root: The folder or the file.
        max_entries: How many files of any kind are looked at; 0 for all.
        entries: How many were.
        notebooks: How many of them were notebooks.
        is_cut: Whether there were more than `max_entries`.
    """

    root: Path
    max_entries: int = 0
    entries: int = 0
    notebooks: int = 0
    is_cut: bool = field(default=False, init=False)

    @property
    def base(self) -> Path:
        """The folder from which imports are named."""
        return self.root.parent if self.root.is_file() else self.root

    def files(self) -> Iterator[Path]:
        """Returns the Python files, those near the root first; environments, hidden and linked folders are left out."""
        if self.root.is_file():
            yield self.root
            return
        folders = deque([self.root])
        while folders and not self.is_cut:
            entries = self._entries(folders.popleft())
            yield from (Path(entry.path) for entry in entries if entry.name.endswith(".py") and _is_file(entry))
            folders += [Path(entry.path) for entry in entries if _is_part(entry)]

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """The entries of a folder that matter, in order; none of one that can't be read."""
        found: list[os.DirEntry[str]] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if self.max_entries and self.entries >= self.max_entries:
                        self.is_cut = True
                        break
                    self.entries += 1
                    self.notebooks += entry.name.endswith(".ipynb")
                    if entry.name.endswith(".py") or "." not in entry.name or entry.is_dir(follow_symlinks=False):
                        found.append(entry)
        except OSError:
            return []
        return sorted(found, key=lambda entry: entry.name)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_part(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder of the project itself."""
    try:
        if entry.name.startswith(".") or entry.name == _THIS_PACKAGE or not entry.is_dir(follow_symlinks=False):
            return False
        folder = Path(entry.path)
        if entry.name in _SKIPPED and not (folder / "__init__.py").exists():
            return False
        return not (folder / "pyvenv.cfg").exists() and not (folder / "conda-meta").exists()
    except OSError:
        return False


@dataclass(frozen=True)
class Source:
    """A Python file.

    Attributes:
        file: Its path.
        lines: Its text.
        statements: The statements of its syntax tree that aren't inside of others.
        nodes: All nodes of that tree.
        error: (line, why there is no tree); None where there is one, or where the file is left out.
    """

    file: Path
    lines: list[str]
    statements: list[ast.stmt] = field(default_factory=list)
    nodes: list[ast.AST] = field(default_factory=list)
    error: tuple[int, str] | None = None


def read(file: Path, pattern: str = "") -> Source:
    """Reads a Python file.

    Args:
        file: Its path.
        pattern: What its text must match for its syntax tree to matter.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            return Source(file, [])
        data = file.read_bytes()
    except OSError as error:
        return Source(file, [], error=(1, f"it can't be read ({error.strerror})"))
    if pattern and not re.search(pattern.encode(), data):
        return Source(file, [])
    try:
        lines = importlib.util.decode_source(data).split("\n")
    except (SyntaxError, UnicodeDecodeError):
        lines = data.decode("latin-1").split("\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(data)
        return Source(file, lines, tree.body, [*ast.walk(tree)])
    except SyntaxError as error:
        what = f"it isn't Python {sys.version_info.major}.{sys.version_info.minor} ({error.msg})"
        return Source(file, lines, error=(error.lineno or 1, what))
    except (ValueError, RecursionError, MemoryError) as error:
        return Source(file, lines, error=(1, f"it can't be read ({error})"))
