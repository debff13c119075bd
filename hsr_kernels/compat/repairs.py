# SPDX-License-Identifier: Apache-2.0
"""What today's PyTorch, NumPy, Pillow and Python refuse in older scripts, and how each is repaired.

A repair is an entry of REPAIRS: a name, a sentence, what in a script's text it is about, whether what is installed
refuses that, and what changes it. What isn't refused isn't changed, and a repair says so when it first acts.
"""

import ast
import collections
import collections.abc
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any

import torch

from .syntax import dotted, imports

_said: set[str] = set()


@dataclass(frozen=True)
class Repair:
    """One thing that scripts do and what is installed refuses.

    Attributes:
        name: As it is printed.
        what: What it does, in a sentence without its end.
        matches: Whether a node of a script's syntax tree does it.
        is_refused: Whether what is installed refuses it.
        apply: Makes it work in this process; takes a function to call, with the details, when it acts.
        is_default: Whether it is applied without being asked for.
    """

    name: str
    what: str
    matches: Callable[[ast.AST], bool]
    is_refused: Callable[[], bool]
    apply: Callable[[Callable[[str], None]], None]
    is_default: bool = True

    def say(self, details: str) -> None:
        """Prints that it acted, once."""
        if self.name not in _said:
            _said.add(self.name)
            print(f"hsr_kernels.compat: {self.name}: {details}", file=sys.stderr, flush=True)


def apply(repairs: Sequence[Repair]) -> None:
    """Applies those repairs that what is installed has need of."""
    for repair in repairs:
        if repair.is_refused():
            repair.apply(repair.say)


# ---- What a script's text says ----


def _imports_module(*modules: str) -> Callable[[ast.AST], bool]:
    return lambda node: any(name == m or name.startswith(f"{m}.") for name in imports(node) for m in modules)


def _reads_attribute(owners: Sequence[str], names: Sequence[str] | Mapping[str, Any]) -> Callable[[ast.AST], bool]:
    wanted = {f"{owner}.{name}" for owner in owners for name in names}
    return lambda node: dotted(node) in wanted or bool(wanted.intersection(imports(node)))


def _passes_mixed_betas(node: ast.AST) -> bool:
    """Whether a keyword argument or an entry of a dictionary is betas=[0, 0.99], of an int and a float."""
    pairs: list[tuple[str, ast.AST]] = []
    if isinstance(node, ast.Call):
        pairs = [(keyword.arg or "", keyword.value) for keyword in node.keywords]
    elif isinstance(node, ast.Dict):
        pairs = [(str(k.value), v) for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)]
    values = [v.elts for name, v in pairs if name == "betas" and isinstance(v, (ast.List, ast.Tuple))]
    return any(isinstance(e, ast.Constant) and type(e.value) is int for elements in values for e in elements)


def _loads_pickle(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and dotted(node.func) == "torch.load"
        and not any(keyword.arg == "weights_only" for keyword in node.keywords)
    )


def _convolves_without_bias(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func).endswith("._conv_forward") and len(node.args) == 2


def _passes_verbose_to_scheduler(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and dotted(node.func).rpartition(".")[2] in _SCHEDULERS
        and any(keyword.arg == "verbose" for keyword in node.keywords)
    )


def _gives_sampler_its_data(node: ast.AST) -> bool:
    """Whether a subclass of Sampler calls its `__init__` with an argument."""
    if not isinstance(node, ast.ClassDef) or not any(dotted(base).endswith("Sampler") for base in node.bases):
        return False
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    return any(c.func.attr == "__init__" and len(c.args) == 1 for c in calls if isinstance(c.func, ast.Attribute))


# ---- What is installed ----


def _is_missing(module: str) -> bool:
    """Whether a module can't be imported, so far as can be told without importing it."""
    with suppress(ImportError, ValueError, AttributeError):
        return module not in sys.modules and importlib.util.find_spec(module) is None
    return True


def _raises(call: Callable[[], object]) -> bool:
    try:
        call()
    except (TypeError, ValueError, AttributeError):
        return True
    return False


def _parameter() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(1))]


# ---- Repairs ----


class _Finder(MetaPathFinder):
    """Finds modules that exist no more, once everything else has failed to find them."""

    def __init__(self, name: str, make: Callable[[], ModuleType], say: Callable[[str], None]) -> None:
        self.name, self.make, self.say = name, make, say

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        self.say(f"the module {fullname}, which isn't installed, was imported")
        return importlib.machinery.ModuleSpec(fullname, _Loader(self.make))


class _Loader(Loader):
    def __init__(self, make: Callable[[], ModuleType]) -> None:
        self.make = make

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update({k: v for k, v in vars(self.make()).items() if not k.startswith("__")})


def _provides(name: str, make: Callable[[], ModuleType]) -> Callable[[Callable[[str], None]], None]:
    """A repair that has a module be importable again."""
    return lambda say: sys.meta_path.append(_Finder(name, make, say))


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    return module


def _pkg_resources() -> ModuleType:
    from importlib import metadata, resources

    from packaging.version import parse

    class DistributionNotFound(Exception):
        """A distribution that isn't installed."""

    def get_distribution(name: str) -> Any:
        try:
            return _module(name, version=metadata.version(name), project_name=name, key=name.lower())
        except metadata.PackageNotFoundError as error:
            raise DistributionNotFound(name) from error

    return _module(
        "pkg_resources",
        DistributionNotFound=DistributionNotFound,
        get_distribution=get_distribution,
        iter_entry_points=lambda group, name=None: iter(
            [e for e in metadata.entry_points(group=group) if name in (None, e.name)]
        ),
        parse_version=parse,
        require=lambda *names: [get_distribution(name) for name in names],
        resource_filename=lambda package, path: str(resources.files(package).joinpath(path)),
        resource_string=lambda package, path: resources.files(package).joinpath(path).read_bytes(),
    )


def _functional_tensor() -> ModuleType:
    with suppress(ImportError):
        return importlib.import_module("torchvision.transforms._functional_tensor")
    return importlib.import_module("torchvision.transforms.functional")


def _torch_six() -> ModuleType:
    return _module(
        "torch._six",
        PY3=True, PY37=True, container_abcs=collections.abc, string_classes=(str, bytes), int_classes=int,
        inf=float("inf"), nan=float("nan"), FileNotFoundError=FileNotFoundError, queue=importlib.import_module("queue"),
    )  # fmt: skip


def _models_utils() -> ModuleType:
    return _module("torchvision.models.utils", load_state_dict_from_url=torch.hub.load_state_dict_from_url)


def _repair_betas(say: Callable[[str], None]) -> None:
    def repaired(start: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(start)

        @functools.wraps(start)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            bound = signature.bind(self, *args, **kwargs)
            betas = bound.arguments.get("betas", ())
            if isinstance(betas, (list, tuple)) and any(type(beta) is int for beta in betas):
                bound.arguments["betas"] = tuple(float(beta) for beta in betas)
                say(f"betas={betas} became {bound.arguments['betas']}")
            start(*bound.args, **bound.kwargs)

        return __init__

    for name in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SparseAdam"):
        optimizer = getattr(torch.optim, name)
        optimizer.__init__ = repaired(optimizer.__init__)


def _repair_sampler(say: Callable[[str], None]) -> None:
    def __init__(self: Any, data_source: Any = None) -> None:
        if data_source is not None:
            say("Sampler's argument, which has had no use, is ignored")

    torch.utils.data.Sampler.__init__ = __init__  # type: ignore[method-assign]


def _repair_conv_forward(say: Callable[[str], None]) -> None:
    for name in ("Conv1d", "Conv2d", "Conv3d"):
        convolution = getattr(torch.nn, name)

        def _conv_forward(
            self: Any, input: Any, weight: Any, *bias: Any, forward: Any = convolution._conv_forward
        ) -> torch.Tensor:
            if not bias:
                say("_conv_forward without a bias took the module's own")
            return forward(self, input, weight, *(bias or (self.bias,)))  # type: ignore[no-any-return]

        convolution._conv_forward = _conv_forward


_SCHEDULERS = (
    "ReduceLROnPlateau", "LambdaLR", "StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "CyclicLR",
    "CosineAnnealingWarmRestarts", "OneCycleLR", "MultiplicativeLR",
)  # fmt: skip


def _repair_schedulers(say: Callable[[str], None]) -> None:
    def repaired(start: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(start)
        def __init__(self: Any, *args: Any, verbose: Any = None, **kwargs: Any) -> None:
            if verbose is not None:
                say("a scheduler's argument verbose is ignored")
            start(self, *args, **kwargs)

        return __init__

    for name in _SCHEDULERS:
        scheduler = getattr(torch.optim.lr_scheduler, name)
        if "verbose" not in inspect.signature(scheduler.__init__).parameters:
            scheduler.__init__ = repaired(scheduler.__init__)


def _repair_load(say: Callable[[str], None]) -> None:
    load = torch.load

    @functools.wraps(load)
    def trusting(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("weights_only") is None:
            kwargs["weights_only"] = False
            say(f"{args[0] if args else kwargs.get('f')} is loaded as a pickle, which can run any code")
        return load(*args, **kwargs)

    torch.load = trusting


# Names that NumPy had, and what stands there now.
_NUMPY_NAMES: dict[str, Any] = {
    "bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str, "long": int,
    "unicode": str, "float_": "float64", "complex_": "complex128", "bool8": "bool_", "int0": "intp",
    "unicode_": "str_", "string_": "bytes_", "Inf": float("inf"), "Infinity": float("inf"), "infty": float("inf"),
    "PINF": float("inf"), "NINF": float("-inf"), "NaN": float("nan"), "NAN": float("nan"), "product": "prod",
    "cumproduct": "cumprod", "sometrue": "any", "alltrue": "all", "row_stack": "vstack", "in1d": "isin",
    "trapz": "trapezoid",
}  # fmt: skip


def _numpy() -> ModuleType | None:
    with suppress(ImportError):
        return importlib.import_module("numpy")
    return None


def _repair_numpy(say: Callable[[str], None]) -> None:
    numpy = _numpy()
    before: Callable[[str], Any] = vars(numpy)["__getattr__"]

    def __getattr__(name: str) -> Any:
        try:
            return before(name)
        except AttributeError:
            if name not in _NUMPY_NAMES:
                raise
        value = _NUMPY_NAMES[name]
        found = getattr(numpy, value) if isinstance(value, str) else value
        say(f"numpy.{name}, which NumPy {numpy.__version__} doesn't have, is {found!r}")  # type: ignore[union-attr]
        return found

    vars(numpy)["__getattr__"] = __getattr__


_PILLOW_NAMES = {"ANTIALIAS": "LANCZOS", "LINEAR": "BILINEAR", "CUBIC": "BICUBIC"}


def _pillow() -> ModuleType | None:
    with suppress(ImportError):
        return importlib.import_module("PIL.Image")
    return None


def _adds_names(
    module: Callable[[], Any], names: Mapping[str, Any]
) -> tuple[Callable[[], bool], Callable[[Callable[[str], None]], None]]:
    """(is_refused, apply) of a repair that gives a module names back, by its `__getattr__`."""

    def is_refused() -> bool:
        return (found := module()) is not None and any(not hasattr(found, name) for name in names)

    def apply(say: Callable[[str], None]) -> None:
        found = module()
        before = vars(found).get("__getattr__")

        def __getattr__(name: str) -> Any:
            if before is not None:
                with suppress(AttributeError):
                    return before(name)
            if name not in names:
                raise AttributeError(f"module {found.__name__!r} has no attribute {name!r}")
            value = names[name]() if callable(names[name]) else names[name]
            say(f"{found.__name__}.{name}, which exists no more, is {value}")
            return value

        found.__getattr__ = __getattr__

    return is_refused, apply


def _getargspec() -> Any:
    return inspect.getfullargspec


_PILLOW_VALUES = {
    name: functools.partial(lambda new: getattr(_pillow(), new), new) for name, new in _PILLOW_NAMES.items()
}
_COLLECTIONS_NAMES = {
    name: functools.partial(getattr, collections.abc, name)
    for name in (
        "Callable", "Container", "Hashable", "ItemsView", "Iterable", "Iterator", "KeysView", "Mapping", "MappingView",
        "MutableMapping", "MutableSequence", "MutableSet", "Sequence", "Set", "Sized", "ValuesView",
    )
}  # fmt: skip
_INSPECT_NAMES = {"getargspec": _getargspec}

REPAIRS = (
    Repair(
        "adam-betas",
        "Adam's betas of an int and a float, [0, 0.99], become floats",
        _passes_mixed_betas,
        lambda: _raises(lambda: torch.optim.Adam(_parameter(), betas=(0, 0.99))),
        _repair_betas,
    ),
    Repair(
        "data-sampler",
        "the argument of Sampler.__init__, which had no use, is ignored",
        _gives_sampler_its_data,
        lambda: _raises(lambda: torch.utils.data.Sampler([])),  # type: ignore[call-arg]
        _repair_sampler,
    ),
    Repair(
        "conv-forward",
        "Conv2d._conv_forward(input, weight) takes the module's own bias",
        _convolves_without_bias,
        lambda: "bias" in inspect.signature(torch.nn.Conv2d._conv_forward).parameters,
        _repair_conv_forward,
    ),
    Repair(
        "scheduler-verbose",
        "the argument verbose of learning rate schedulers is ignored",
        _passes_verbose_to_scheduler,
        lambda: "verbose" not in inspect.signature(torch.optim.lr_scheduler.ReduceLROnPlateau).parameters,
        _repair_schedulers,
    ),
    Repair(
        "torch-six",
        "torch._six is importable",
        _imports_module("torch._six"),
        lambda: _is_missing("torch._six"),
        _provides("torch._six", _torch_six),
    ),
    Repair(
        "functional-tensor",
        "torchvision.transforms.functional_tensor is importable",
        _imports_module("torchvision.transforms.functional_tensor"),
        lambda: _is_missing("torchvision.transforms.functional_tensor"),
        _provides("torchvision.transforms.functional_tensor", _functional_tensor),
    ),
    Repair(
        "models-utils",
        "torchvision.models.utils is importable",
        _imports_module("torchvision.models.utils"),
        lambda: _is_missing("torchvision.models.utils"),
        _provides("torchvision.models.utils", _models_utils),
    ),
    Repair(
        "pkg-resources",
        "pkg_resources is importable, with what scripts use of it",
        _imports_module("pkg_resources"),
        lambda: _is_missing("pkg_resources"),
        _provides("pkg_resources", _pkg_resources),
    ),
    Repair(
        "numpy-names",
        "names that NumPy had, such as np.float, np.int and np.product, are what replaced them",
        _reads_attribute(("np", "numpy"), _NUMPY_NAMES),
        lambda: (numpy := _numpy()) is not None and not all(hasattr(numpy, name) for name in _NUMPY_NAMES),
        _repair_numpy,
    ),
    Repair(
        "pillow-names",
        "names that Pillow had, such as Image.ANTIALIAS, are what replaced them",
        _reads_attribute(("Image", "PIL.Image"), _PILLOW_NAMES),
        *_adds_names(_pillow, _PILLOW_VALUES),
    ),
    Repair(
        "collections-abc",
        "collections.Mapping and its like are those of collections.abc",
        _reads_attribute(("collections",), _COLLECTIONS_NAMES),
        *_adds_names(lambda: collections, _COLLECTIONS_NAMES),
    ),
    Repair(
        "getargspec",
        "inspect.getargspec is inspect.getfullargspec",
        _reads_attribute(("inspect",), _INSPECT_NAMES),
        *_adds_names(lambda: inspect, _INSPECT_NAMES),
    ),
    Repair(
        "trust-pickles",
        "torch.load reads pickles, which can run any code; only with --trust-pickles",
        _loads_pickle,
        lambda: True,
        _repair_load,
        is_default=False,
    ),
)
