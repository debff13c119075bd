# SPDX-License-Identifier: Apache-2.0
"""The settings of StyleGAN2 networks, from the attributes and shapes of their pickled layers.

Whatever would change images and cannot be said in the settings of `hsr`'s networks is refused by its name.
"""

import math
from collections.abc import Iterable
from typing import Any

from ..models.generator import block_resolutions
from .networks import Architecture, Unsupported
from .persistence import Layer, LayerTree
from .tensors import zeros
from .unpickler import Refusal, shown

# The heads of HSR, and a layer of its baseline that takes no part in images.
HEADS = "synthesis.feat_transfer_list"
UNUSED_LAYER = "synthesis.feat_transfer"
MAX_RESOLUTION = 2**14
MAX_CLASSES = 2**20
_CLASSES = {
    *("Generator", "SynthesisNetwork", "SynthesisBlock", "SynthesisLayer", "ToRGBLayer", "FullyConnectedLayer"),
    *("MappingNetwork", "Discriminator", "DiscriminatorBlock", "DiscriminatorEpilogue", "MinibatchStdLayer"),
    *("Conv2dLayer", "FeatureGuidedGenerator", "FeatureGuidedSynthesisNetwork", "Head"),
    *("ModuleList", "AdaptiveAvgPool2d", "Identity", "Conv2d"),
}
_NUMBER = (int, float)
_CLAMP = (int, float, type(None))


def describe_generator(tree: LayerTree) -> Architecture:
    """Returns the architecture of a generator.

    Raises:
        Refusal: It is no StyleGAN2 generator that `hsr` can represent.
        ValueError: A layer or an attribute is missing.
    """
    root, resolutions = _describe_root(tree)
    img_channels = root.attribute("img_channels", int)
    _require(
        img_channels == 3, f"is for images of {_shown_number(img_channels)} channels, and hsr's networks are for three"
    )
    c_dim = root.attribute("c_dim", int)
    _require(0 <= c_dim <= MAX_CLASSES, f"has {_shown_number(c_dim)} classes")
    names = [f"synthesis.b{r}.{part}" for r in resolutions for part in ("conv0", "conv1", "torgb")][1:]
    w_dim = root.attribute("w_dim", int)
    for name in names:
        _check_synthesis_layer(tree, name, w_dim)
    clamps = {tree.layer(name).attribute("conv_clamp", _CLAMP) for name in names}
    _require(len(clamps) == 1, "clamps some layers otherwise than others")
    blocks = {r: tree.layer(f"synthesis.b{r}") for r in resolutions}
    for block in blocks.values():
        architecture = block.attribute("architecture", str, "skip")
        _require(architecture == "skip", f"has the generator architecture {shown(architecture)} instead of skip")
    mapping = tree.layer("mapping")
    num_layers, multiplier = _describe_mapping(tree)
    return Architecture(
        resolution=resolutions[-1],
        c_dim=c_dim,
        z_dim=root.attribute("z_dim", int),
        w_dim=w_dim,
        widths={r: channels(tree, f"synthesis.b{r}.conv1.weight") for r in resolutions},
        mapping_layers=num_layers,
        mapping_lr_multiplier=multiplier,
        w_avg_beta=float(mapping.attribute("w_avg_beta", _NUMBER)),
        conv_clamp=_clamp(clamps.pop()),
        mixed_precision_resolutions=_low_precision(blocks),
    )


def silence_layers_without_noise(tree: LayerTree) -> bool:
    """Gives the layers of a generator that take no noise a noise of strength 0, and returns whether there are any."""
    silent = [name for name, layer in tree.layers.items() if not layer.attribute("use_noise", bool, True)]
    for name in silent:
        resolution = int(name.split(".")[1].removeprefix("b"))
        tree.tensors[f"{name}.noise_strength"] = zeros(())
        tree.tensors[f"{name}.noise_const"] = zeros((resolution, resolution))
    return bool(silent)


def describe_discriminator(tree: LayerTree, generator: Architecture) -> dict[str, Any]:
    """Returns the settings of `hsr.config.Config` that a discriminator's layers determine.

    Raises:
        Unsupported: It is no StyleGAN2 discriminator that `hsr` can represent beside the generator.
        ValueError: A layer or an attribute is missing.
    """
    root, resolutions = _describe_root(tree)
    architecture = tree.layer(f"b{resolutions[-1]}").attribute("architecture", str, "resnet")
    _require(architecture in ("resnet", "orig"), f"has the architecture {shown(architecture)}, not resnet or orig")
    is_paired = (resolutions[-1], root.attribute("c_dim", int)) == (generator.resolution, generator.c_dim)
    _require(is_paired, "is for other images or classes than the generator")
    for r in resolutions[1:]:
        _check_convolution(tree, f"b{r}.conv0", generator.conv_clamp)
        _check_convolution(tree, f"b{r}.conv1", generator.conv_clamp, down=2)
    found = {tree.layer(f"b{r}").attribute("architecture", str, architecture) for r in resolutions}
    _require(found == {architecture}, "has blocks of several architectures")
    _check_convolution(tree, f"b{resolutions[-1]}.fromrgb", generator.conv_clamp)
    _check_convolution(tree, "b4.conv", generator.conv_clamp)
    widths = {r: channels(tree, f"b{r}.conv0.weight") for r in resolutions[1:]}
    widths[4] = channels(tree, "b4.conv.weight")
    _require(widths == generator.widths, "has other feature maps than the generator")
    _require("b4.mbstd" in tree.layers, "has no minibatch standard deviation")
    mbstd = tree.layer("b4.mbstd")
    group = mbstd.attribute("group_size", (int, type(None)), 4)
    _require(group is not None, "takes the standard deviation over the whole batch")
    _require(mbstd.attribute("num_channels", int, 1) == 1, "has several feature maps of standard deviations")
    _check_fully_connected(tree, "b4.fc", "lrelu", 1.0)
    _check_fully_connected(tree, "b4.out", "linear", 1.0)
    settings: dict[str, Any] = {"minibatch_std_group": group, "residual_discriminator": architecture == "resnet"}
    if generator.c_dim > 0:
        settings["label_mapping_layers"], multiplier = _describe_mapping(tree)
        _require(math.isclose(multiplier, 0.01, rel_tol=1e-5), "maps labels with another lr_multiplier than 0.01")
        label_dim = channels(tree, "mapping.embed.weight")
        settings["label_dim"] = None if label_dim == widths[4] else label_dim
    return settings


def check_heads(tree: LayerTree, count: int) -> None:
    """Checks that there are `count` heads of HSR, two 1x1 layers with a ReLU between them.

    Raises:
        Unsupported: There are others.
    """
    found_count = sum(name.startswith(f"{HEADS}.") and name.endswith(".conv1x1_1") for name in tree.layers)
    _require(found_count == count, f"has {found_count}, and a generator of this size has {count} in hsr")
    for i in range(count):
        for part, activation in (("conv1x1_1", "relu"), ("conv1x1_2", "linear")):
            layer = tree.layer(f"{HEADS}.{i}.{part}")
            found = layer.attribute("activation", str, activation)
            _require(found == activation, f"has the activation {shown(found)} in them")


def _describe_root(tree: LayerTree) -> tuple[Layer, list[int]]:
    """Returns a network's outermost layer and its resolutions, after checking that the layers are StyleGAN2's."""
    if any(name.startswith(("synthesis.input", "synthesis.L")) for name in tree.layers):
        raise Refusal("holds an alias-free network of StyleGAN3, and hsr's networks are those of StyleGAN2")
    unknown = sorted({layer.class_name for layer in tree.layers.values()} - _CLASSES)
    _require(not unknown, f"has layers of the class {shown(unknown[0]) if unknown else ''}, which StyleGAN2 lacks")
    root = tree.layer("")
    resolution = root.attribute("img_resolution", int)
    is_possible = 4 < resolution <= MAX_RESOLUTION and resolution & (resolution - 1) == 0
    _require(is_possible, f"is for images {_shown_number(resolution)} pixels wide, which is no power of two from 8 on")
    return root, block_resolutions(resolution)


def _describe_mapping(tree: LayerTree) -> tuple[int, float]:
    """Returns the number of layers of a mapping network and its learning rate relative to the rest."""
    num_layers = sum(name.startswith("mapping.fc") and "." not in name[8:] for name in tree.layers)
    if tree.layer("mapping").attribute("num_layers", int, num_layers) != num_layers or num_layers == 0:
        raise ValueError("the mapping network has another number of layers than it says")
    multiplier = float(tree.layer("mapping.fc0").attribute("bias_gain", _NUMBER, 0.01))
    for i in range(num_layers):
        _check_fully_connected(tree, f"mapping.fc{i}", "lrelu", multiplier)
    if "mapping.embed" in tree.layers:
        _check_fully_connected(tree, "mapping.embed", "linear", 1.0)
    return num_layers, multiplier


def _check_synthesis_layer(tree: LayerTree, name: str, w_dim: int) -> None:
    layer = tree.layer(name)
    _check_fully_connected(tree, f"{name}.affine", "linear", 1.0)
    if name.endswith("torgb"):
        _check_number(layer, "weight_gain", 1 / math.sqrt(_size(tree, f"{name}.weight", 1)))
        return
    _check_number(layer, "up", 2 if name.endswith("conv0") else 1)
    _check_number(layer, "act_gain", math.sqrt(2))
    activation = layer.attribute("activation", str, "lrelu")
    _require(activation == "lrelu", f"has the activation {shown(activation)} instead of lrelu, in {name}")


def _check_convolution(tree: LayerTree, name: str, clamp: float | None, down: int = 1) -> None:
    layer = tree.layer(name)
    _check_number(layer, "down", down)
    _check_number(layer, "act_gain", math.sqrt(2))
    activation = layer.attribute("activation", str, "lrelu")
    _require(activation == "lrelu", f"has the activation {shown(activation)} instead of lrelu, in {name}")
    found = _clamp(layer.attribute("conv_clamp", _CLAMP, clamp))
    _require(found == clamp, "clamps its layers otherwise than the generator")


def _check_fully_connected(tree: LayerTree, name: str, activation: str, multiplier: float) -> None:
    layer = tree.layer(name)
    found = layer.attribute("activation", str, activation)
    _require(found == activation, f"has the activation {shown(found)} instead of {activation}, in {name}")
    _check_number(layer, "weight_gain", multiplier / math.sqrt(_size(tree, f"{name}.weight", 1)))
    _check_number(layer, "bias_gain", multiplier)


def _check_number(layer: Layer, name: str, expected: float) -> None:
    value = float(layer.attribute(name, _NUMBER, expected))
    matches = math.isclose(value, expected, rel_tol=1e-5)
    _require(matches, f"has a {layer.class_name} with {name} {value:g} instead of {expected:g}")


def _low_precision(blocks: dict[int, Layer]) -> int:
    """Returns how many of the highest resolutions run in half precision.

    Raises:
        Unsupported: They are not the highest ones.
    """
    flags = [block.attribute("use_fp16", bool, False) for _, block in sorted(blocks.items())]
    _require(flags == sorted(flags) and not flags[0], "runs in half precision at other than the highest resolutions")
    return sum(flags)


def _clamp(value: float | None) -> float | None:
    """Returns a clamp, where a negative one is none."""
    return None if value is None or value < 0 else float(value)


def channels(tree: LayerTree, name: str) -> int:
    """Returns the first dimension of a tensor.

    Raises:
        ValueError: There is no such tensor.
    """
    return _size(tree, name, 0)


def _size(tree: LayerTree, name: str, dimension: int) -> int:
    """Returns a dimension of a tensor.

    Raises:
        ValueError: There is no such tensor, or it has no such dimension.
    """
    size: Iterable[int] = tree.tensors[name].size if name in tree.tensors else ()
    lengths = list(size)
    if dimension >= len(lengths) or lengths[dimension] == 0:
        raise ValueError(f"{name} is missing or of another shape")
    return lengths[dimension]


def _shown_number(value: int) -> str:
    return str(value) if abs(value) < 10**9 else "far too many"


def _require(condition: bool, otherwise: str) -> None:
    """Raises `Unsupported` with the clause `otherwise` where the condition does not hold."""
    if not condition:
        raise Unsupported(otherwise)
