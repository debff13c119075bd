# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 networks of rosinality/stylegan2-pytorch: the names of their tensors, read and written."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models.build import build_generator
from ..models.generator import block_resolutions
from ..weights import Header
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
from .tensors import StoredTensor, tensor_constructors
from .unpickler import Budget, Buildable, Constructor, Refusal

SOURCE = "rosinality"
MAX_TO_RGBS = 12
# The project itself takes the mean of as many where a file holds none.
MEAN_SAMPLES = 4096
_GROUPS = {"g_ema": "G_ema", "g": "G", "d": "D"}
_MEAN = "mapping.w_avg"
_LAYER_PARTS = {
    "weight": "conv.weight",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
    "noise_strength": "noise.weight",
    "bias": "activate.bias",
}


class _Arguments(Buildable):
    """The settings of the training that wrote a file, which nothing here needs."""

    def build(self, state: Any) -> None:
        """Drops the settings."""


def rosinality_constructors(budget: Budget) -> dict[str, Constructor]:
    """Returns what each global that the project's files name stands for."""
    return tensor_constructors(budget) | {
        "collections OrderedDict": lambda: {},
        "argparse Namespace": _Arguments,
    }


def read_rosinality(root: Any) -> Checkpoint:
    """Returns the networks of a file.

    Raises:
        Refusal: It holds others than StyleGAN2 networks that `hsr` can represent.
        ValueError: It is damaged.
    """
    if type(root) is not dict or type(root.get("g_ema")) is not dict:
        raise _foreign(root)
    states = {group: root[name] for name, group in _GROUPS.items() if type(root.get(name)) is dict}
    architecture = _describe(states["G_ema"])
    config = architecture.config()
    generator, discriminator = empty_networks(config, architecture.resolution, 0)
    notes: list[str] = []
    if "D" in states and _widths_d(states["D"], architecture) != architecture.widths:
        notes.append("D was left out, as it has other feature maps than the generator.")
        del states["D"]
    mean = None
    if "latent_avg" in root:
        mean = read_tensor(root, Entry("latent_avg", (architecture.w_dim,)))
    groups = {}
    for name, tensors in states.items():
        if name == "D":
            table = discriminator_table(architecture.resolution)
            groups[name] = _read_state(discriminator, tensors, table, filter_sum=1.0)
        else:
            groups[name] = _read_state(generator, tensors, generator_entry, filter_sum=4.0)
    if mean is None:
        mean = _mean_of_w(groups["G_ema"], architecture)
        notes.append(f"The file holds no mean of w, so the mean of {MEAN_SAMPLES} random codes takes its place.")
    for name in groups.keys() - {"D"}:
        groups[name][_MEAN] = mean.clone()
    header = Header(config, architecture.resolution, (), 0, SOURCE)
    return Checkpoint(header, groups, tuple(notes))


def _foreign(root: Any) -> Refusal:
    if type(root) is dict and any(type(value) is dict and "latent" in value for value in root.values()):
        return Refusal("holds the result of a projector, which is no network")
    if type(root) is dict and {"G", "G_ema"} & root.keys():
        return Refusal("holds state dicts for stylegan2-ada-pytorch, which say too little about their networks")
    return Refusal("holds no generator g_ema, so it is no checkpoint of rosinality/stylegan2-pytorch")


def _describe(tensors: Mapping[str, Any]) -> Architecture:
    """Returns the architecture that the shapes of a generator's tensors tell."""
    blocks = sum(name.startswith("to_rgbs.") and name.endswith(".conv.weight") for name in tensors)
    if not 1 <= blocks <= MAX_TO_RGBS:
        raise Unsupported("holds no generator of rosinality/stylegan2-pytorch for images of at least 8 pixels")
    resolutions = block_resolutions(4 * 2**blocks)
    w_dim, z_dim = _size(tensors, "style.1.weight", 2)
    names = ["to_rgb1.conv.weight", *(f"to_rgbs.{k}.conv.weight" for k in range(blocks))]
    widths = {r: _size(tensors, name, 5)[2] for r, name in zip(resolutions, names, strict=True)}
    layers = sum(name.startswith("style.") and name.endswith(".weight") for name in tensors)
    return Architecture(resolutions[-1], 0, z_dim, w_dim, widths, layers)


def _widths_d(tensors: Mapping[str, Any], generator: Architecture) -> dict[int, int]:
    """Returns the feature maps of a discriminator by resolution."""
    resolutions = block_resolutions(generator.resolution)[:0:-1]
    widths = {r: _size(tensors, f"convs.{i + 1}.conv1.0.weight", 4)[0] for i, r in enumerate(resolutions)}
    return widths | {4: _size(tensors, "final_conv.0.weight", 4)[0]}


def _size(tensors: Mapping[str, Any], name: str, dimensions: int) -> tuple[int, ...]:
    stored = tensors.get(name)
    if not isinstance(stored, StoredTensor) or len(stored.size) != dimensions or 0 in stored.size:
        raise ValueError(f"{name} is missing or of another shape")
    return stored.size


def _read_state(
    module: torch.nn.Module, tensors: dict[str, StoredTensor], entry_of: EntryOf, *, filter_sum: float
) -> dict[str, Tensor]:
    """Returns a network's tensors; of a generator all but the mean of w, which stands beside the network."""
    entries = {key: entry_of(key, tuple(value.shape)) for key, value in module.state_dict().items() if key != _MEAN}
    require_known(tensors, {entry.name for entry in entries.values()}, ("kernel",))
    require_filters(tensors, "kernel", filter_sum)
    return read_network(module, tensors, entry_of, without=_MEAN)


def _mean_of_w(state: dict[str, Tensor], architecture: Architecture) -> Tensor:
    generator = build_generator(architecture.config(), architecture.resolution, 0)
    generator.load_state_dict(state, strict=False)
    z = torch.randn(MEAN_SAMPLES, architecture.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return generator.mapping.map(z, None).mean(dim=0)


def generator_entry(key: str, shape: tuple[int, ...]) -> Entry:
    """Returns the published name and shape of a generator's tensor."""
    network, rest = key.split(".", 1)
    if network == "mapping":
        if rest == "w_avg":
            return Entry("latent_avg", shape)
        _, index, part = rest.split(".")
        return Entry(f"style.{int(index) + 1}.{part}", shape)
    if rest == "const":
        return Entry("input.input", (1, *shape))
    _, resolution, layer, part = rest.split(".", 3)
    block = int(resolution).bit_length() - 3
    if layer == "torgb":
        prefix = "to_rgb1" if block == 0 else f"to_rgbs.{block - 1}"
        if part == "bias":
            return Entry(f"{prefix}.bias", (1, *shape, 1, 1))
        return Entry(f"{prefix}.{_LAYER_PARTS[part]}", (1, *shape) if part == "weight" else shape)
    # Layers are numbered from the first one, at 4x4, which has a name of its own.
    number = 2 * block - (1 if layer == "conv0" else 0)
    if part == "noise_const":
        return Entry(f"noises.noise_{number}", (1, 1, *shape))
    prefix = "conv1" if number == 0 else f"convs.{number - 1}"
    published_shape = {"weight": (1, *shape), "noise_strength": (1,)}.get(part, shape)
    return Entry(f"{prefix}.{_LAYER_PARTS[part]}", published_shape)


def discriminator_table(resolution: int) -> EntryOf:
    """Returns the table of a discriminator's tensors, for images of `resolution` pixels."""
    names = {
        **{"from_rgb.weight": "convs.0.0.weight", "from_rgb.bias": "convs.0.1.bias"},
        **{"conv.weight": "final_conv.0.weight", "conv.bias": "final_conv.1.bias"},
        **{f"fc.{part}": f"final_linear.0.{part}" for part in ("weight", "bias")},
        **{f"out.{part}": f"final_linear.1.{part}" for part in ("weight", "bias")},
    }
    parts = {
        **{"conv0.weight": "conv1.0.weight", "conv0.bias": "conv1.1.bias"},
        **{"conv1.weight": "conv2.1.weight", "conv1.bias": "conv2.2.bias"},
        "skip.weight": "skip.1.weight",
    }
    for i, r in enumerate(block_resolutions(resolution)[:0:-1]):
        names |= {f"blocks.{r}.{part}": f"convs.{i + 1}.{name}" for part, name in parts.items()}
    return lambda key, shape: Entry(names[key], shape)


def write_rosinality(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the contents of a file of the project: `g_ema`, `latent_avg`, and `g` and `d` where they are there.

    Raises:
        Unsupported: The project's networks cannot represent these.
    """
    _require_representable(checkpoint)
    resolution = checkpoint.header.resolution
    contents: dict[str, Any] = {}
    for name, group in _GROUPS.items():
        if group not in checkpoint.groups:
            continue
        state = checkpoint.groups[group]
        if group == "D":
            contents[name] = write_network(state, discriminator_table(resolution)) | _kernels_d(resolution)
        else:
            published = write_network(state, generator_entry)
            mean = published.pop("latent_avg")
            contents[name] = published | _kernels_g(resolution)
            if group == "G_ema":
                contents["latent_avg"] = mean
    return contents


def _require_representable(checkpoint: Checkpoint) -> None:
    config, num_classes = checkpoint.header.config, checkpoint.header.num_classes
    clamp, multiplier, group = config.conv_clamp, config.mapping_lr_multiplier, config.minibatch_std_group
    obstacles = [
        (num_classes > 0, f"has {num_classes} classes, and that project has none"),
        (clamp is not None, f"clamps activations at {clamp}, and that project does not"),
        (
            config.z_dim != config.w_dim,
            f"has z of {config.z_dim} and w of {config.w_dim} dimensions, and that project equal ones",
        ),
        (multiplier != 0.01, f"trains its mapping at {multiplier} of the learning rate, and that project at 0.01"),
        ("D" in checkpoint.groups and not config.residual_discriminator, "has no skips in D, and that project has"),
        ("D" in checkpoint.groups and group != 4, f"compares {group} samples in D, and that project compares 4"),
    ]
    for is_obstacle, clause in obstacles:
        if is_obstacle:
            raise Unsupported(f"cannot be written for rosinality/stylegan2-pytorch, as it {clause}")


def _kernels_g(resolution: int) -> dict[str, Tensor]:
    kernel = published_filter() * 4
    blocks = range(len(block_resolutions(resolution)) - 1)
    names = [name for k in blocks for name in (f"convs.{2 * k}.conv.blur.kernel", f"to_rgbs.{k}.upsample.kernel")]
    return {name: kernel.clone() for name in names}


def _kernels_d(resolution: int) -> dict[str, Tensor]:
    blocks = range(1, len(block_resolutions(resolution)))
    names = [f"convs.{i}.{part}.0.kernel" for i in blocks for part in ("conv2", "skip")]
    return {name: published_filter() for name in names}
