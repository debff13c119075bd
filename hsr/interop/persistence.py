# SPDX-License-Identifier: Apache-2.0
"""The pickles of stylegan2-ada-pytorch, stylegan3 and HSR, as trees of layers.

These projects pickle each layer as a dict with the source text of its class, which their own reader executes. Here the
text is dropped: a layer is a `Layer`, its class name and its attributes.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .tensors import StoredTensor, read_blob, tensor_constructors
from .unpickler import Budget, Buildable, Constructor, Refusal, Unpickler, shown

# A network for 1024 pixels has some hundred layers and 200 tensors, four levels deep.
MAX_LAYERS = 4096
MAX_TENSORS = 4096
MAX_DEPTH = 8
MAX_NAME_CHARACTERS = 64
_NO_DEFAULT = object()
_PLAIN_MODULES = ("container ModuleList", "pooling AdaptiveAvgPool2d", "linear Identity", "conv Conv2d")


@dataclass(eq=False)
class Layer(Buildable):
    """A layer or network: the name of its class, and its attributes as they were pickled."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        """Takes the attributes of a module of PyTorch's own."""
        if type(state) is not dict:
            raise ValueError("a module has another form")
        self.state = state

    def attribute(self, name: str, kind: type | tuple[type, ...], default: Any = _NO_DEFAULT) -> Any:
        """Returns an attribute of a type, or the default where there is none.

        Raises:
            ValueError: It is missing or of another type.
        """
        value = self.state.get(name, default)
        if value is not default and type(value) not in (kind if isinstance(kind, tuple) else (kind,)):
            raise ValueError(f"{self.class_name}.{name} is missing or of an unexpected type")
        return value

    def members(self, group: str) -> dict[str, Any]:
        """Returns the named children or tensors in `_modules`, `_parameters` or `_buffers`.

        Raises:
            ValueError: There is no such dict.
        """
        values = self.state.get(group)
        if type(values) is not dict:
            raise ValueError(f"{shown(self.class_name)} is no module, as it has no {group}")
        if len(values) > MAX_LAYERS:
            raise Refusal(f"holds a layer with {len(values)} members")
        if any(type(name) is not str or "." in name or len(name) > MAX_NAME_CHARACTERS for name in values):
            raise ValueError("a layer's member has no proper name")
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class LayerTree:
    """All layers and tensors of a network, by dotted names."""

    layers: dict[str, Layer]
    tensors: dict[str, StoredTensor]

    def layer(self, name: str) -> Layer:
        """Returns a layer.

        Raises:
            ValueError: There is none of this name.
        """
        if name not in self.layers:
            raise ValueError(f"the layer {name} is missing")
        return self.layers[name]


def walk(network: Layer) -> LayerTree:
    """Returns the layers and tensors of a network; what is no module's child is left alone.

    Raises:
        Refusal: There are more layers than any network has.
        ValueError: A child is no layer, or a parameter no tensor.
    """
    tree = LayerTree({}, {})
    waiting: list[tuple[str, int, Any]] = [("", 0, network)]
    while waiting:
        prefix, depth, layer = waiting.pop()
        if not isinstance(layer, Layer):
            raise ValueError(f"{shown(prefix)} is no layer")
        tree.layers[prefix.removesuffix(".")] = layer
        for name, tensor in (*layer.members("_parameters").items(), *layer.members("_buffers").items()):
            if not isinstance(tensor, StoredTensor):
                raise ValueError(f"{shown(prefix + name)} is no tensor")
            tree.tensors[prefix + name] = tensor
        children = layer.members("_modules")
        waiting += [(f"{prefix}{name}.", depth + 1, child) for name, child in children.items()]
        if depth > MAX_DEPTH or len(tree.layers) + len(waiting) > MAX_LAYERS or len(tree.tensors) > MAX_TENSORS:
            raise Refusal("holds a network of more layers, tensors or levels than any StyleGAN2 has")
    return tree


def read_pickle(data: bytes) -> Any:
    """Returns the object of a pickle, with networks and layers as `Layer`, and tensors as `StoredTensor`.

    Raises:
        Refusal: It names or does what no checkpoint of these projects does.
        ValueError: It is damaged.
    """
    budget = Budget(len(data))
    return Unpickler(_constructors(budget), budget).load(io.BytesIO(data))


def _constructors(budget: Budget) -> dict[str, Constructor]:
    """Returns what each global that these projects' pickles name stands for; a network needs no other."""
    constructors = tensor_constructors(budget) | {
        "torch_utils.persistence _reconstruct_persistent_obj": _layer,
        "dnnlib.util EasyDict": _dict,
        "collections OrderedDict": _dict,
        "builtins set": _empty_set,
        "torch.storage _load_from_bytes": lambda blob: read_blob(blob, budget),
        "numpy dtype": _float64,
        "numpy.core.multiarray scalar": _scalar,
        "numpy._core.multiarray scalar": _scalar,
        # Protocol 2 has no bytes and the names of Python 2.
        "__builtin__ set": _empty_set,
        "_codecs encode": lambda text, encoding: _latin1(text, encoding, budget),
    }
    for path in _PLAIN_MODULES:
        constructors[f"torch.nn.modules.{path}"] = _plain_module(path.split()[1])
    return constructors


def _layer(meta: Any) -> Layer:
    if type(meta) is not dict or meta.get("type") != "class":
        raise ValueError("a layer has another form")
    name, state = meta.get("class_name"), meta.get("state")
    if type(name) is not str or type(state) is not dict:
        raise ValueError("a layer has another form")
    return Layer(name, state)


def _plain_module(class_name: str) -> Constructor:
    return lambda: Layer(class_name)


def _dict() -> dict[str, Any]:
    return {}


def _empty_set(members: Any) -> set[str]:
    if members != []:
        raise Refusal("holds a set of values, which no StyleGAN2 network has")
    return set()


def _latin1(text: Any, encoding: Any, budget: Budget) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise ValueError("bytes have another form")
    budget.spend_bytes(len(text))
    return text.encode("latin1")


class _Float64(Buildable):
    """NumPy's dtype of float64, with its byte order."""

    order = "<"

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">"):
            raise ValueError("a number has another form")
        self.order = state[1]


def _float64(code: Any, align: Any, copy: Any) -> _Float64:
    if code != "f8":
        raise Refusal(f"holds a NumPy value of type {shown(code)}, and a checkpoint has float64 alone")
    return _Float64()


def _scalar(dtype: Any, data: Any) -> float:
    if not isinstance(dtype, _Float64) or type(data) is not bytes or len(data) != 8:
        raise Refusal("holds a NumPy value that is no float64")
    (value,) = struct.unpack(f"{dtype.order}d", data)
    return float(value)


def networks(tree: dict[str, Any]) -> Iterator[tuple[str, Layer]]:
    """Yields the networks of a file by name."""
    for name in ("G", "D", "G_ema"):
        if tree.get(name) is not None:
            if not isinstance(tree[name], Layer):
                raise ValueError(f"its {name} is no network")
            yield name, tree[name]
