# SPDX-License-Identifier: Apache-2.0
"""Triton's kernels compiled on a machine without a GPU, packed, and found again on one that has it.

Triton keeps a compiled kernel under a key made of its source, of what it is compiled for, and of Triton's own binary.
So an archive is good for exactly one version of kernels, of Triton and of the chip; its manifest names all three. Only
machine code and its description travel: the loader needs nothing else.
"""

import functools
import hashlib
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import triton

import hsr_kernels

MANIFEST = "manifest.json"
_SUFFIXES = (".cubin", ".json")
# What the names of Triton's lists of a kernel's files begin with; they hold full paths.
_GROUP = "__grp__"


class UselessCache(Exception):
    """The kernels of an archive wouldn't be found by this installation; the message is a sentence."""


def fingerprint() -> dict[str, str]:
    """What the keys of Triton's cache depend on, except for the chip and what a kernel is specialised for."""
    root = Path(hsr_kernels.__file__).parent
    sources = hashlib.sha256()
    for path in sorted(root.rglob("*triton*.py")):
        sources.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return {"libtriton": _hash_of_compiler(), "kernels": sources.hexdigest()}


# It is half a gigabyte.
@functools.cache
def _hash_of_compiler() -> str:
    library = Path(triton.__file__).parent / "_C" / "libtriton.so"
    return hashlib.sha256(library.read_bytes()).hexdigest()


def declare(folder: Path, arch: str, kernels: int) -> None:
    """Writes the manifest of a cache that holds all kernels of the cases."""
    (folder / MANIFEST).write_text(json.dumps(fingerprint() | {"arch": arch, "kernels compiled": kernels}, indent=2))


def why_useless(manifest: Mapping[str, object], arch: str | None = None) -> str:
    """The reason why this installation finds no kernels under this manifest, empty if it finds them."""
    installed = fingerprint()
    if manifest.get("libtriton") != installed["libtriton"]:
        return (
            f"libtriton.so has the SHA-256 {installed['libtriton']} here and {manifest.get('libtriton')} where the "
            "kernels were compiled: none would be found"
        )
    if manifest.get("kernels") != installed["kernels"]:
        return "the kernels' sources have changed since the archive was made: none would be found"
    if arch is not None and manifest.get("arch") != arch:
        return f"the kernels were compiled for {manifest.get('arch')}, and this GPU is {arch}: none would be found"
    return ""


def is_complete(folder: Path) -> bool:
    """Whether a cache holds the kernels of the cases, compiled for this installation."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and not why_useless(manifest)


def pack(folder: Path, archive: Path) -> int:
    """Packs the machine code in a cache and its manifest; returns the number of kernels."""
    kernels = 0
    partial = archive.with_name(archive.name + ".part")
    try:
        with tarfile.open(partial, "w:xz") as tar:
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(folder)
                wanted = path.suffix in _SUFFIXES and (len(name.parts) == 2 or name.name == MANIFEST)
                if wanted and not path.name.startswith(_GROUP):
                    tar.add(path, str(name))
                    kernels += path.suffix == ".cubin"
        os.replace(partial, archive)
    finally:
        partial.unlink(missing_ok=True)
    return kernels


def unpack(archive: Path, folder: Path, arch: str | None = None) -> int:
    """Unpacks an archive into a folder, for TRITON_CACHE_DIR to name; returns the number of kernels.

    Args:
        arch: The GPU's, "sm_90"; None where it is unknown.

    Raises:
        UselessCache: It isn't such an archive, or nothing in it would be found.
        OSError: The archive can't be read, or the folder can't be written to.
    """
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile(MANIFEST)
            manifest = json.loads(member.read()) if member is not None else None
            if not isinstance(manifest, dict):
                raise UselessCache(f"{archive} is no archive of gpu-cache: its {MANIFEST} is no JSON object")
            if reason := why_useless(manifest, arch):
                raise UselessCache(reason)
            folder.mkdir(parents=True, exist_ok=True)
            tar.extractall(folder, filter="data")
            names = tar.getnames()
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise UselessCache(f"{archive} is no archive of gpu-cache ({type(error).__name__})") from error
    kernels = [folder / name for name in names if name.endswith(".cubin")]
    for path in kernels:
        _write_group(path)
    return len(kernels)


def _write_group(cubin: Path) -> None:
    """Lists a kernel's files as Triton does, with their present paths."""
    description = cubin.with_suffix(".json")
    children = {path.name: str(path.absolute()) for path in (cubin, description)}
    (cubin.parent / f"{_GROUP}{description.name}").write_text(json.dumps({"child_paths": children}))
