# SPDX-License-Identifier: Apache-2.0
"""Small files as other projects write them."""

import io
import math
import pickle
import sys
import types
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .foreign_networks import FILTER, Spec, discriminator_tensors, generator_tensors

HOOKS = ("_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")


class Persistent:
    """A layer as `torch_utils.persistence` pickles it."""

    def __init__(self, class_name: str, **state: Any) -> None:
        self.class_name, self.state = class_name, state

    def __reduce__(self) -> Any:
        source = "raise SystemExit('executed')"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": self.class_name, "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def tree(tensors: dict[str, Tensor], attributes: Any, extra: Sequence[str] = ()) -> Persistent:
    """The layers that hold tensors of these names; `attributes` gives a layer's class and attributes by its name."""

    def make(prefix: str) -> Any:
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        names = [*own, *(name.removeprefix(prefix) for name in extra if name.startswith(prefix))]
        children = dict.fromkeys(name.split(".")[0] for name in names if "." in name)
        class_name, values = attributes(prefix.removesuffix("."))
        state: dict[str, Any] = {"training": False, "_parameters": {}, "_buffers": {}}
        for name, value in own.items():
            if "." not in name:
                is_buffer = name in ("w_avg", "noise_const", "resample_filter")
                parameter = value if is_buffer else nn.Parameter(value, requires_grad=False)
                state["_buffers" if is_buffer else "_parameters"][name] = parameter
        state |= {"_non_persistent_buffers_set": set(), **{hook: OrderedDict() for hook in HOOKS}}
        state["_modules"] = OrderedDict((name, make(f"{prefix}{name}.")) for name in children)
        if hasattr(nn, class_name):
            module = object.__new__(getattr(nn, class_name))
            module.__dict__.update(state)
            return module
        return Persistent(
            class_name, **state, _init_args=(), _init_kwargs=sys.modules["dnnlib.util"].EasyDict(a=1), **values
        )

    return make("")


def _fully_connected(n_in: int, activation: str, multiplier: float) -> tuple[str, dict[str, Any]]:
    gain = np.float64(multiplier / math.sqrt(n_in))
    return "FullyConnectedLayer", {"activation": activation, "weight_gain": gain, "bias_gain": multiplier}


def generator_tree(spec: Spec, tensors: dict[str, Tensor], **changes: Any) -> Persistent:
    """A pickled generator; `changes` override attributes, as in `SynthesisLayer_activation="relu"`."""

    def attributes(name: str) -> tuple[str, dict[str, Any]]:
        class_name, values = _generator_attributes(spec, tensors, name)
        return class_name, values | {
            key.removeprefix(f"{class_name}_"): value
            for key, value in changes.items()
            if key.startswith(f"{class_name}_")
        }

    fp16_layers = tuple(f"synthesis.b{r}.conv" for r in spec.resolutions if spec.is_fp16(r))
    tensors = {
        name: value.to(memory_format=torch.channels_last) if name.startswith(fp16_layers) and value.ndim == 4 else value
        for name, value in tensors.items()
    }
    heads = [
        f"synthesis.feat_transfer_list.{i}.{part}.x" for i in range(len(spec.heads) - 1) for part in ("resize", "bn")
    ]
    return tree(tensors, attributes, extra=heads)


def _generator_attributes(spec: Spec, tensors: dict[str, Tensor], name: str) -> tuple[str, dict[str, Any]]:
    part = name.rsplit(".", 1)[-1]
    guided = "FeatureGuided" if spec.heads else ""
    if name == "":
        return f"{guided}Generator", {
            "z_dim": spec.z_dim,
            "c_dim": spec.c_dim,
            "w_dim": spec.w_dim,
            "img_resolution": spec.resolutions[-1],
            "img_channels": 3,
            "num_ws": 2 * len(spec.widths),
        }
    if name == "synthesis":
        return f"{guided}SynthesisNetwork", {"block_resolutions": spec.resolutions}
    if name == "mapping":
        return "MappingNetwork", {"num_layers": spec.layers, "w_avg_beta": spec.w_avg_beta}
    plain = {
        "feat_transfer_list": "ModuleList",
        "feat_transfer": "Conv2d",
        "resize": "AdaptiveAvgPool2d",
        "bn": "Identity",
    }
    if part in plain:
        return plain[part], {}
    if name.startswith("synthesis.feat_transfer_list."):
        if part.isdigit():
            return "Head", {}
        return "Conv2dLayer", {"activation": "relu" if part.endswith("1") else "linear"}
    if part in ("affine", "embed") or part.startswith("fc"):
        is_mapping = part.startswith("fc")
        n_in = tensors[f"{name}.weight"].shape[1]
        return _fully_connected(n_in, "lrelu" if is_mapping else "linear", spec.lr_multiplier if is_mapping else 1.0)
    if part == "torgb":
        gain = np.float64(1 / math.sqrt(tensors[f"{name}.weight"].shape[1]))
        return "ToRGBLayer", {"conv_clamp": spec.conv_clamp, "weight_gain": gain}
    if part.startswith("conv"):
        return "SynthesisLayer", {
            "up": 2 if part == "conv0" else 1,
            "use_noise": True,
            "activation": "lrelu",
            "conv_clamp": spec.conv_clamp,
            "act_gain": np.float64(math.sqrt(2)),
        }
    if part == "input":
        return "SynthesisInput", {}
    r = int(part.removeprefix("b"))
    is_fp16 = spec.is_fp16(r)
    is_last = r == spec.resolutions[-1]
    return "SynthesisBlock", {"architecture": "skip", "use_fp16": is_fp16, "channels_last": is_fp16, "is_last": is_last}


def discriminator_tree(spec: Spec, tensors: dict[str, Tensor], architecture: str = "resnet") -> Persistent:
    """A pickled discriminator."""

    def attributes(name: str) -> tuple[str, dict[str, Any]]:
        part = name.rsplit(".", 1)[-1]
        if name == "":
            return "Discriminator", {"c_dim": spec.c_dim, "img_resolution": spec.resolutions[-1], "img_channels": 3}
        if name == "mapping":
            return "MappingNetwork", {"num_layers": spec.label_layers, "w_avg_beta": None}
        if part == "mbstd":
            return "MinibatchStdLayer", {"group_size": 4, "num_channels": 1}
        if part in ("fc", "out", "embed") or part.startswith("fc"):
            is_mapping = name.startswith("mapping.fc")
            n_in = tensors[f"{name}.weight"].shape[1]
            return _fully_connected(n_in, "lrelu" if part.startswith("fc") else "linear", 0.01 if is_mapping else 1.0)
        if "." in name:
            activation = "linear" if part == "skip" else "lrelu"
            down = 2 if part in ("skip", "conv1") else 1
            return "Conv2dLayer", {"activation": activation, "conv_clamp": spec.conv_clamp, "down": down}
        return "DiscriminatorEpilogue" if name == "b4" else "DiscriminatorBlock", {"architecture": architecture}

    return tree(tensors, attributes, extra=["b4.mbstd.x"])


@contextmanager
def importable() -> Iterator[None]:
    """Makes the modules importable that the files name, as pickling looks them up."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta: Any) -> None: ...

    class EasyDict(dict): ...

    _reconstruct_persistent_obj.__module__, EasyDict.__module__ = persistence.__name__, util.__name__
    _reconstruct_persistent_obj.__qualname__, EasyDict.__qualname__ = "_reconstruct_persistent_obj", "EasyDict"
    persistence._reconstruct_persistent_obj, util.EasyDict = _reconstruct_persistent_obj, EasyDict  # type: ignore
    modules = {module.__name__: module for module in (persistence, util)}
    modules |= {name: types.ModuleType(name) for name in ("torch_utils", "dnnlib")}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def dump(value: Any, protocol: int = 3, numpy1: bool = False) -> bytes:
    """Pickles a value, on request with the names of NumPy 1."""
    data = pickle.dumps(value, protocol)
    if numpy1:
        assert protocol < 4
        data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    return data


def ada_pickle(
    spec: Spec, protocol: int = 3, numpy1: bool = False, architecture: str = "resnet", **changes: Any
) -> bytes:
    """A whole pickle as stylegan2-ada-pytorch writes it, with other weights in G than in G_ema."""
    with importable():
        contents = {
            "training_set_kwargs": {"path": "x.zip", "use_labels": spec.c_dim > 0},
            "G": generator_tree(spec, generator_tensors(spec, 1), **changes),
            "D": discriminator_tree(spec, discriminator_tensors(spec, architecture=architecture), architecture),
            "G_ema": generator_tree(spec, generator_tensors(spec), **changes),
            "augment_pipe": Persistent("AugmentPipe", _buffers={"p": torch.zeros([])}, imgfilter_bands=[1.0, 1, 1, 1]),
        }
        if spec.heads:
            contents["Gmain"] = _optimizer_state()
        return dump(contents, protocol, numpy1)


def _published_generator(tensors: dict[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """A generator's tensors by their names in rosinality/stylegan2-pytorch."""
    state = {}
    for i in range(spec.layers):
        state |= {f"style.{i + 1}.{p}": tensors[f"mapping.fc{i}.{p}"] for p in ("weight", "bias")}
    state["input.input"] = tensors["synthesis.b4.const"][None]
    for k, r in enumerate(spec.resolutions):
        block = f"synthesis.b{r}"
        convs = {"conv1": "conv1"} if k == 0 else {"conv0": f"convs.{2 * k - 2}", "conv1": f"convs.{2 * k - 1}"}
        for ours, theirs in convs.items():
            state[f"{theirs}.conv.weight"] = tensors[f"{block}.{ours}.weight"][None]
            state |= {
                f"{theirs}.conv.modulation.{p}": tensors[f"{block}.{ours}.affine.{p}"] for p in ("weight", "bias")
            }
            state[f"{theirs}.noise.weight"] = tensors[f"{block}.{ours}.noise_strength"].reshape(1)
            state[f"{theirs}.activate.bias"] = tensors[f"{block}.{ours}.bias"]
            number = 2 * k - 1 if ours == "conv0" else 2 * k
            state[f"noises.noise_{number}"] = tensors[f"{block}.{ours}.noise_const"][None, None]
            if ours == "conv0":
                state[f"{theirs}.conv.blur.kernel"] = FILTER * 4
        theirs = "to_rgb1" if k == 0 else f"to_rgbs.{k - 1}"
        state[f"{theirs}.conv.weight"] = tensors[f"{block}.torgb.weight"][None]
        state[f"{theirs}.bias"] = tensors[f"{block}.torgb.bias"].reshape(1, 3, 1, 1)
        state |= {f"{theirs}.conv.modulation.{p}": tensors[f"{block}.torgb.affine.{p}"] for p in ("weight", "bias")}
        if k:
            state[f"{theirs}.upsample.kernel"] = FILTER * 4
    return state


def _published_discriminator(tensors: dict[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    r = spec.resolutions[-1]
    state = {"convs.0.0.weight": tensors[f"b{r}.fromrgb.weight"], "convs.0.1.bias": tensors[f"b{r}.fromrgb.bias"]}
    for i, r in enumerate(spec.resolutions[:0:-1]):
        layer = f"convs.{i + 1}"
        state |= {
            f"{layer}.conv1.0.weight": tensors[f"b{r}.conv0.weight"],
            f"{layer}.conv1.1.bias": tensors[f"b{r}.conv0.bias"],
        }
        state |= {
            f"{layer}.conv2.1.weight": tensors[f"b{r}.conv1.weight"],
            f"{layer}.conv2.2.bias": tensors[f"b{r}.conv1.bias"],
        }
        state |= {f"{layer}.skip.1.weight": tensors[f"b{r}.skip.weight"]}
        state |= {f"{layer}.conv2.0.kernel": FILTER.clone(), f"{layer}.skip.0.kernel": FILTER.clone()}
    state |= {"final_conv.0.weight": tensors["b4.conv.weight"], "final_conv.1.bias": tensors["b4.conv.bias"]}
    for i, layer in enumerate(("fc", "out")):
        state |= {f"final_linear.{i}.{p}": tensors[f"b4.{layer}.{p}"] for p in ("weight", "bias")}
    return state


def rosinality_contents(spec: Spec, *, from_training: bool = False) -> dict[str, Any]:
    """What rosinality/stylegan2-pytorch saves: of a training, or converted from TensorFlow without g and d."""
    average = generator_tensors(spec)
    contents: dict[str, Any] = {"g_ema": OrderedDict(_published_generator(average, spec))}
    contents["g_ema"]._metadata = OrderedDict({"": {"version": 1}})
    if not from_training:
        # A part of a longer tensor, which is saved as a whole.
        return contents | {"latent_avg": torch.cat([torch.zeros(5), average["mapping.w_avg"]])[5:]}
    return contents | {
        "g": _published_generator(generator_tensors(spec, 1), spec),
        "d": _published_discriminator(discriminator_tensors(spec), spec),
        "g_optim": _optimizer_state(),
        "args": Namespace(size=16, path="x", betas=(0, 0.99), channel_multiplier=2),
        "ada_aug_p": 0.25,
    }


def _optimizer_state() -> dict[str, Any]:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def torch_file(contents: Any, zipped: bool = True) -> bytes:
    """A file of `torch.save`."""
    stream = io.BytesIO()
    torch.save(contents, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()
