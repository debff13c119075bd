# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 networks of stylegan2-ada-pytorch, stylegan3 and HSR: the names of their tensors, read and written."""

import re
from typing import Any

from torch import Tensor, nn

from ..config import Config
from ..models.generator import block_resolutions
from ..semantics.regularizer import head_resolutions
from ..weights import Header
from .layers import (
    HEADS,
    UNUSED_LAYER,
    channels,
    check_heads,
    describe_discriminator,
    describe_generator,
    silence_layers_without_noise,
)
from .networks import (
    Architecture,
    Checkpoint,
    Entry,
    EntryOf,
    Unsupported,
    empty_networks,
    published_filter,
    read_network,
    read_tensor,
    require_filters,
    require_known,
    write_network,
)
from .persistence import LayerTree, networks, walk
from .unpickler import Refusal

_FILTER = "resample_filter"
# Parts of a head: their names in `hsr`, and the published ones.
_HEAD_PARTS = {
    "weight1": "conv1x1_1.weight",
    "bias1": "conv1x1_1.bias",
    "weight2": "conv1x1_2.weight",
    "bias2": "conv1x1_2.bias",
}
# Groups of heads by the network that holds them in published files.
_HEAD_GROUPS = {"G": "hsr", "G_ema": "hsr_ema"}


def read_nvlabs(root: Any) -> Checkpoint:
    """Returns the networks of a pickle.

    Raises:
        Refusal: It holds others than StyleGAN2 networks that `hsr` can represent.
        ValueError: It is damaged.
    """
    if type(root) is not dict or root.get("G_ema") is None:
        raise Refusal("holds no generator G_ema, so it is no checkpoint of StyleGAN2-ADA, StyleGAN3 or HSR")
    trees = {name: walk(network) for name, network in networks(root)}
    architecture = describe_generator(trees["G_ema"])
    if "G" in trees and describe_generator(trees["G"]) != architecture:
        raise Refusal("holds a G and a G_ema that differ in their architecture")
    notes: list[str] = []
    if UNUSED_LAYER in trees["G_ema"].layers:
        notes.append("The layer synthesis.feat_transfer, which takes no part in images, was left out.")
    silenced = [silence_layers_without_noise(trees[name]) for name in ("G", "G_ema") if name in trees]
    if any(silenced):
        notes.append("Layers without noise have noise of strength 0, which training would change.")
    settings: dict[str, Any] = {}
    if "D" in trees:
        try:
            settings = describe_discriminator(trees["D"], architecture)
            require_filters(trees["D"].tensors, _FILTER, 1.0)
        except Unsupported as error:
            notes.append(f"D was left out, as it {error}.")
            del trees["D"]
    heads = _read_heads(trees, architecture, notes)
    if heads:
        settings["hsr_hidden"] = len(next(iter(heads.values()))["heads.0.bias1"])
    config = architecture.config(**settings)
    groups = _read_networks(trees, config, architecture) | heads
    header = Header(config, architecture.resolution, tuple(range(architecture.c_dim)), 0, _source(trees["G_ema"]))
    return Checkpoint(header, groups, tuple(notes))


def _read_networks(
    trees: dict[str, LayerTree], config: Config, architecture: Architecture
) -> dict[str, dict[str, Tensor]]:
    generator, discriminator = empty_networks(config, architecture.resolution, architecture.c_dim)
    groups = {}
    for name, tree in trees.items():
        module: nn.Module = discriminator if name == "D" else generator
        entry_of: EntryOf = discriminator_table(architecture.resolution) if name == "D" else generator_entry
        parts = {key: value for key, value in tree.tensors.items() if not key.startswith(UNUSED_LAYER)}
        entries = {entry_of(key, ()).name for key in module.state_dict()}
        require_known(parts, entries, (_FILTER,))
        require_filters(parts, _FILTER, 1.0)
        groups[name] = read_network(module, parts, entry_of)
    return groups


def _read_heads(
    trees: dict[str, LayerTree], architecture: Architecture, notes: list[str]
) -> dict[str, dict[str, Tensor]]:
    """Returns the heads of HSR by group; leaves them out, with a note, where `hsr` has no such heads."""
    groups: dict[str, dict[str, Tensor]] = {}
    resolutions = head_resolutions(architecture.resolution)
    for name, group in _HEAD_GROUPS.items():
        if name not in trees or HEADS not in trees[name].layers:
            continue
        try:
            check_heads(trees[name], len(resolutions))
        except Unsupported as error:
            notes.append(f"The HSR heads of {name} were left out, as it {error}.")
            continue
        groups[group] = {}
        for i, r in enumerate(resolutions):
            groups[group] |= _read_head(trees[name], i, architecture.widths[r])
    return groups


def _read_head(tree: LayerTree, index: int, width: int) -> dict[str, Tensor]:
    """Returns the tensors of a head by `hsr`'s names."""
    names = {part: f"{HEADS}.{index}.{name}" for part, name in _HEAD_PARTS.items()}
    hidden, target = channels(tree, names["bias1"]), channels(tree, names["bias2"])
    shapes = {"weight1": (hidden, width), "bias1": (hidden,), "weight2": (target, hidden), "bias2": (target,)}
    state = {}
    for part, shape in shapes.items():
        published_shape = (*shape, 1, 1) if part.startswith("weight") else shape
        value = read_tensor(tree.tensors, Entry(names[part], published_shape))
        state[f"heads.{index}.{part}"] = value.reshape(shape).contiguous()
    return state


def _source(tree: LayerTree) -> str:
    """Returns which project's networks these are."""
    if UNUSED_LAYER in tree.layers or HEADS in tree.layers:
        return "HSR"
    return "StyleGAN3" if "num_fp16_res" in tree.layer("synthesis").state else "StyleGAN2-ADA"


def generator_entry(key: str, shape: tuple[int, ...]) -> Entry:
    """Returns the published name of a generator's tensor; the shapes are the same."""
    name = key.replace("mapping.layers.", "mapping.fc").replace("synthesis.blocks.", "synthesis.b")
    return Entry(name.replace("synthesis.const", "synthesis.b4.const"), shape)


def discriminator_table(resolution: int) -> EntryOf:
    """Returns the table of a discriminator's tensors, for images of `resolution` pixels."""
    names = {
        "from_rgb": f"b{resolution}.fromrgb",
        "embed": "mapping",
        "conv": "b4.conv",
        "fc": "b4.fc",
        "out": "b4.out",
    }

    def entry(key: str, shape: tuple[int, ...]) -> Entry:
        first, rest = key.split(".", 1)
        name = f"b{rest}" if first == "blocks" else f"{names[first]}.{rest}"
        return Entry(name.replace("mapping.layers.", "mapping.fc"), shape)

    return entry


def write_nvlabs(checkpoint: Checkpoint) -> dict[str, dict[str, Tensor]]:
    """Returns the state dicts of `G`, `D` and `G_ema`, as the networks of stylegan2-ada-pytorch load them.

    HSR heads of the published kind go into the generators, where the networks of the HSR code have them.
    """
    resolution = checkpoint.header.resolution
    states = {}
    for name, group in checkpoint.groups.items():
        if name == "D":
            states[name] = write_network(group, discriminator_table(resolution)) | _filters(
                _filtered_layers_d(resolution, checkpoint.header.config.residual_discriminator)
            )
        elif name in _HEAD_GROUPS:
            # A run of ours trains one set of heads, beside the generator.
            heads = checkpoint.groups.get(_HEAD_GROUPS[name], checkpoint.groups.get("hsr", {}))
            states[name] = write_network(group, generator_entry) | _filters(_filtered_layers_g(resolution))
            states[name] |= _write_heads(heads) if has_published_heads(checkpoint) else {}
    return states


def has_published_heads(checkpoint: Checkpoint) -> bool:
    """Returns whether there are HSR heads, of the published kind and at all the published resolutions."""
    config, resolution = checkpoint.header.config, checkpoint.header.resolution
    has_heads = not checkpoint.groups.keys().isdisjoint(_HEAD_GROUPS.values())
    has_all_scales = head_resolutions(resolution, config.scales()) == head_resolutions(resolution)
    return has_heads and config.hsr_head == "mlp" and has_all_scales


def _write_heads(heads: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {}
    for key, value in heads.items():
        _, index, part = key.split(".")
        name = f"{HEADS}.{index}.{_HEAD_PARTS[part]}"
        state[name] = value[:, :, None, None].clone() if part.startswith("weight") else value.clone()
        state[re.sub(r"(weight|bias)$", _FILTER, name)] = published_filter()
    return state


def _filtered_layers_g(resolution: int) -> list[str]:
    """Returns the generator's layers that hold a filter in published networks."""
    parts = [f"synthesis.b{r}{part}" for r in block_resolutions(resolution) for part in ("", ".conv0", ".conv1")]
    return [name for name in parts if name != "synthesis.b4.conv0"]


def _filtered_layers_d(resolution: int, residual: bool) -> list[str]:
    """Returns the discriminator's layers that hold a filter in published networks."""
    blocks = [f"b{r}" for r in block_resolutions(resolution)[1:]]
    parts = [".conv0", ".conv1", *([".skip"] if residual else [])]
    layers = [f"{block}{part}" for block in blocks for part in ("", *parts)]
    return [*layers, f"b{resolution}.fromrgb", "b4.conv"]


def _filters(layers: list[str]) -> dict[str, Tensor]:
    return {f"{layer}.{_FILTER}": published_filter() for layer in layers}


def constructor_arguments(header: Header) -> str:
    """Returns the arguments with which stylegan2-ada-pytorch makes the generator, as Python source."""
    config = header.config
    return (
        f"Generator(z_dim={config.z_dim}, c_dim={header.num_classes}, w_dim={config.w_dim}, "
        f"img_resolution={header.resolution}, img_channels=3, "
        f"mapping_kwargs=dict(num_layers={config.mapping_layers}, lr_multiplier={config.mapping_lr_multiplier}, "
        f"w_avg_beta={config.w_avg_beta}), "
        f"synthesis_kwargs=dict(channel_base={config.channel_base}, channel_max={config.channel_max}, "
        f"num_fp16_res={config.mixed_precision_resolutions}, conv_clamp={config.conv_clamp}))"
    )
