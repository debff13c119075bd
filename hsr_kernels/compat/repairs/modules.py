# SPDX-License-Identifier: Apache-2.0
"""Contents of modules that exist no more."""

import collections.abc
import functools
import importlib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata, resources
from types import ModuleType, SimpleNamespace
from typing import Any

# What makes the contents of modules, by their names.
Contents = Mapping[str, Callable[[], Mapping[str, Any]]]


@functools.total_ordering
class LooseVersion:
    """A version as its numbers and words, compared one after the other; equal to and comparable with strings."""

    def __init__(self, vstring: str) -> None:
        self.vstring = vstring
        self.version = [int(part) if part.isdigit() else part for part in re.findall(r"\d+|[a-z]+", vstring)]

    def __eq__(self, other: object) -> bool:
        return self.version == _version(other).version

    def __lt__(self, other: object) -> bool:
        return self.version < _version(other).version

    def __hash__(self) -> int:
        return hash(tuple(self.version))

    def __str__(self) -> str:
        return self.vstring

    def __repr__(self) -> str:
        return f"LooseVersion ('{self}')"


def _version(value: object) -> LooseVersion:
    return value if isinstance(value, LooseVersion) else LooseVersion(str(value))


def _strtobool(val: str) -> int:
    """Returns 1 for what means yes and 0 for what means no."""
    answers = dict.fromkeys(("y", "yes", "t", "true", "on", "1"), 1) | dict.fromkeys(
        ("n", "no", "f", "false", "off", "0"), 0
    )
    if val.lower() not in answers:
        raise ValueError(f"invalid truth value {val!r}")
    return answers[val.lower()]


def _copy_tree(src: str, dst: str, *args: Any, **kwargs: Any) -> list[str]:
    """Copies a folder's contents into another one, which may exist; returns the paths of the copies."""
    shutil.copytree(src, dst, dirs_exist_ok=True)
    copied = (os.path.join(folder, name) for folder, _, names in os.walk(src) for name in names)
    return [os.path.join(dst, os.path.relpath(path, src)) for path in copied]


def _mkpath(name: str, *args: Any, **kwargs: Any) -> None:
    os.makedirs(name, exist_ok=True)


DISTUTILS: Contents = {
    "distutils": lambda: {},
    "distutils.dir_util": lambda: {"copy_tree": _copy_tree, "mkpath": _mkpath, "remove_tree": shutil.rmtree},
    "distutils.spawn": lambda: {"find_executable": shutil.which},
    "distutils.util": lambda: {"strtobool": _strtobool},
    "distutils.version": lambda: {"LooseVersion": LooseVersion, "StrictVersion": LooseVersion},
}


def _load_source(name: str, pathname: str, *args: Any) -> ModuleType:
    """Loads a file as a module."""
    spec = importlib.util.spec_from_file_location(name, pathname)
    if spec is None or spec.loader is None:
        raise ImportError(f"{pathname} isn't a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


IMP: Contents = {"imp": lambda: {"load_source": _load_source, "new_module": ModuleType, "reload": importlib.reload}}


class _DistributionNotFound(Exception):
    """A distribution isn't installed."""


def _distribution(name: Any) -> SimpleNamespace:
    """Returns what is installed of a requirement, whose version isn't compared."""
    project = re.split(r"[\s\[<>=!~;]", str(name).strip(), maxsplit=1)[0]
    try:
        found = metadata.distribution(project)
    except metadata.PackageNotFoundError as error:
        raise _DistributionNotFound(f"{project} isn't installed") from error
    return SimpleNamespace(
        version=found.version, project_name=project, key=project.lower(), location=str(found.locate_file(""))
    )


def _entry_points(group: str, name: str | None = None) -> Iterator[metadata.EntryPoint]:
    return iter([entry for entry in metadata.entry_points(group=group) if name in (None, entry.name)])


def _file(package: str, path: str) -> Any:
    # Scripts also pass `__name__` of a module, whose files lie beside it.
    spec = importlib.util.find_spec(package)
    is_module = spec is not None and spec.submodule_search_locations is None
    folder = resources.files(package.rpartition(".")[0]) if is_module and "." in package else resources.files(package)
    return folder.joinpath(path)


def _pkg_resources() -> Mapping[str, Any]:
    contents = dict(
        DistributionNotFound=_DistributionNotFound,
        VersionConflict=type("VersionConflict", (Exception,), {}),
        get_distribution=_distribution,
        iter_entry_points=_entry_points,
        parse_version=LooseVersion,
        require=lambda *names: [_distribution(name) for name in names],
        resource_exists=lambda package, path: _file(package, path).is_file() or _file(package, path).is_dir(),
        resource_filename=lambda package, path: str(_file(package, path)),
        resource_listdir=lambda package, path: [entry.name for entry in _file(package, path).iterdir()],
        resource_stream=lambda package, path: _file(package, path).open("rb"),
        resource_string=lambda package, path: _file(package, path).read_bytes(),
    )
    with suppress(ImportError):
        version = importlib.import_module("packaging.version")
        contents |= dict(packaging=sys.modules["packaging"], parse_version=version.parse)
    return contents


PKG_RESOURCES: Contents = {"pkg_resources": _pkg_resources}


def _functional_tensor() -> Mapping[str, Any]:
    # What the module held has moved; of two places the first has what is private, too.
    names = vars(importlib.import_module("torchvision.transforms.functional")).copy()
    with suppress(ImportError):
        names |= vars(importlib.import_module("torchvision.transforms._functional_tensor"))
    return {name: value for name, value in names.items() if not name.startswith("__")}


FUNCTIONAL_TENSOR: Contents = {"torchvision.transforms.functional_tensor": _functional_tensor}


def _torch_six() -> Mapping[str, Any]:
    return dict(
        PY3=True, PY37=True, container_abcs=collections.abc, string_classes=(str, bytes), int_classes=int,
        inf=float("inf"), nan=float("nan"), FileNotFoundError=FileNotFoundError, queue=importlib.import_module("queue"),
    )  # fmt: skip


TORCH_SIX: Contents = {"torch._six": _torch_six}


def _models_utils() -> Mapping[str, Any]:
    return {"load_state_dict_from_url": importlib.import_module("torch.hub").load_state_dict_from_url}


MODELS_UTILS: Contents = {"torchvision.models.utils": _models_utils}
