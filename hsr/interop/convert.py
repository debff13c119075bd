# SPDX-License-Identifier: Apache-2.0
"""`hsr convert`: networks of other projects into files of weights, and the way back."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..console import command_line, make_console
from ..errors import UserError, exists, writing
from ..files import replacing
from ..options import ConvertOptions
from ..weights import find_weights, join_groups, read_header, save_tensors
from .networks import Checkpoint
from .nvlabs import constructor_arguments, has_published_heads, write_nvlabs
from .opening import is_foreign, open_checkpoint
from .rosinality import write_rosinality
from .unpickler import Refusal

_WRITERS: dict[str, Callable[[Checkpoint], dict[str, Any]]] = {
    "nvlabs": write_nvlabs,
    "rosinality": write_rosinality,
}


def convert(options: ConvertOptions) -> None:
    """Runs `hsr convert`.

    Raises:
        UserError: The file can't be read, or holds networks that the target can't represent.
    """
    source, target = find_weights(options.source), options.target
    _check_target(options, source)
    console = make_console()
    with console.status(f"Reading {source}"):
        checkpoint = open_checkpoint(source)
    console.print(f"Read {source}: {_describe(checkpoint)}.")
    for note in checkpoint.notes:
        console.print(note)
    contents = None if options.to is None else _contents(options.to, checkpoint, source)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with console.status(f"Writing {target}"):
        if contents is None:
            save_tensors(join_groups(checkpoint.groups), target, dataclasses.asdict(checkpoint.header))
        else:
            with replacing(target) as part:
                torch.save(contents, part)
    console.print(_summary(options, checkpoint))


def _check_target(options: ConvertOptions, source: Path) -> None:
    target = options.target
    if exists(target, "a file") and target.is_dir():
        raise UserError(f"{target} is a folder, and convert writes a file.")
    if target.exists() and target.samefile(source):
        raise UserError(f"{target} is the file that is read: name another one to write.")
    if options.to is not None:
        return
    if not is_foreign(source):
        read_header(source)
        raise UserError(f"{source} is in hsr's own format already: use it as it is, or convert it with --to.")
    if target.suffix.lower() != ".safetensors":
        raise UserError(f"{target} does not end in .safetensors, the suffix of files of weights.")


def _contents(project: str, checkpoint: Checkpoint, source: Path) -> dict[str, Any]:
    try:
        return _WRITERS[project](checkpoint)
    except Refusal as refusal:
        raise UserError(f"{source} {refusal}.") from refusal


def _describe(checkpoint: Checkpoint) -> str:
    header = checkpoint.header
    networks = [name for name in ("G", "D", "G_ema") if name in checkpoint.groups]
    heads = ["HSR heads"] if {"hsr", "hsr_ema"} & checkpoint.groups.keys() else []
    origin = f"{header.source} networks" if header.source else "networks of a run"
    classes = f"{header.num_classes} classes" if header.num_classes else "no classes"
    return f"{origin} ({', '.join(networks + heads)}) for images {header.resolution} pixels wide and {classes}"


def _summary(options: ConvertOptions, checkpoint: Checkpoint) -> str:
    """Returns what was written, and what to do with it."""
    target = options.target
    if options.to is None:
        example = command_line("generate", "--checkpoint", target, "--seeds", "0-35", "--truncation", 0.7)
        return f"Wrote {target}. Try it: {example}"
    has_heads = bool({"hsr", "hsr_ema"} & checkpoint.groups.keys())
    if options.to == "nvlabs":
        heads = ""
        if has_published_heads(checkpoint):
            heads = " G and G_ema hold HSR heads, so a Generator without any loads them by strict=False."
        elif has_heads:
            heads = " The HSR heads, which are of another kind than that project's, were left out."
        names = ", ".join(name for name in ("G", "D", "G_ema") if name in checkpoint.groups)
        return (
            f"Wrote {target}: a dict of the state dicts of {names}, to load into "
            f"{constructor_arguments(checkpoint.header)}.{heads}"
        )
    config = checkpoint.header.config
    heads = " HSR heads, which that project lacks, were left out." if has_heads else ""
    return (
        f"Wrote {target}: a checkpoint of rosinality/stylegan2-pytorch, to load into Generator("
        f"{checkpoint.header.resolution}, {config.w_dim}, {config.mapping_layers}).{heads}"
    )
