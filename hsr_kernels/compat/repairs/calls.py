# SPDX-License-Identifier: Apache-2.0
"""Functions and classes that refuse arguments which they took once."""

import ast
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .repair import Say
from .syntax import dotted

Aliases = Mapping[str, str]


def _keywords(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The names and values that a call, a dictionary or an assignment has."""
    if isinstance(node, ast.Call):
        yield from ((keyword.arg or "", keyword.value) for keyword in node.keywords)
    elif isinstance(node, ast.Dict):
        yield from (
            (str(k.value), v) for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)
        )
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, (ast.Name, ast.Attribute)):
                yield dotted(target, {}).rpartition(".")[2], node.value
            elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                yield str(target.slice.value), node.value


def may_be_refused(module: Any) -> bool:
    """True, where it shows when a script calls something whether that is refused."""
    return True


def _is_of(package: str, functions: Sequence[str], name: str) -> bool:
    """Whether a dotted name is that of one of some functions of a package."""
    parts = name.split(".")
    return parts[0] == package and parts[-1] in functions


# ---- Adam's betas ----

OPTIMIZERS = ("Adam", "AdamW")


def passes_int_betas(node: ast.AST, aliases: Aliases) -> bool:
    """Whether something is given betas=[0, 0.99] or betas=(0 ** ratio, 0.99 ** ratio), of which one may be an int."""
    values = [value for name, value in _keywords(node) if name == "betas"]
    if isinstance(node, ast.Call) and _is_of("torch", OPTIMIZERS, dotted(node.func, aliases)):
        values += node.args[2:3]
    elements = [e for value in values if isinstance(value, (ast.List, ast.Tuple)) for e in value.elts]
    bases = [e.left if isinstance(e, ast.BinOp) and isinstance(e.op, ast.Pow) else e for e in elements]
    return any(isinstance(base, ast.Constant) and type(base.value) is int for base in bases)


def refuses_int_betas() -> bool:
    """Whether Adam refuses betas of an int and a float."""
    import torch

    try:
        torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], betas=(0, 0.99))
    except (TypeError, ValueError):
        return True
    return False


def take_int_betas(torch: Any, say: Say) -> None:
    """Has Adam try again with floats where it refuses ints."""

    def retrying(start: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(start)

        @functools.wraps(start)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                return start(self, *args, **kwargs)
            except (TypeError, ValueError):
                bound = signature.bind(self, *args, **kwargs)
                betas = bound.arguments.get("betas")
                if not isinstance(betas, (list, tuple)) or not any(type(beta) is int for beta in betas):
                    raise
                bound.arguments["betas"] = tuple(float(beta) for beta in betas)
            start(*bound.args, **bound.kwargs)
            say(f"betas={betas} became {bound.arguments['betas']}")

        return __init__

    for name in OPTIMIZERS:
        optimizer = getattr(torch.optim, name)
        optimizer.__init__ = retrying(optimizer.__init__)


# ---- Sampler's data source ----


def data_for_sampler(node: ast.AST, aliases: Aliases, names: Sequence[str]) -> ast.AST | None:
    """The call of a subclass of Sampler that passes an argument to Sampler's `__init__`."""
    if not isinstance(node, ast.ClassDef):
        return None
    bases = {dotted(base, aliases) for base in node.bases}
    if not any(_is_of("torch", ("Sampler",), base) for base in bases):
        return None
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "__init__":
            owner = call.func.value
            is_super = isinstance(owner, ast.Call) and dotted(owner.func, {}) == "super"
            count = len(call.args) + len(call.keywords)
            if count > (0 if is_super else 1) and (is_super or dotted(owner, aliases) in bases):
                return call
    return None


def refuses_data(torch: Any) -> bool:
    """Whether Sampler takes no argument."""
    return torch.utils.data.Sampler.__init__ is object.__init__


def take_data(torch: Any, say: Say) -> None:
    """Has Sampler ignore its argument, as it always did."""

    def __init__(self: Any, data_source: Any = None) -> None:
        if data_source is not None:
            say("the argument of Sampler, which never had a use, is ignored")

    torch.utils.data.Sampler.__init__ = __init__


# ---- _conv_forward ----


def convolves_without_bias(node: ast.AST, aliases: Aliases) -> bool:
    """Whether a convolution's `_conv_forward` is called with an input and a weight alone."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "_conv_forward"
        and len(node.args) == 2
        and not node.keywords
    )


def requires_bias(torch: Any) -> bool:
    """Whether `_conv_forward` must be given a bias."""
    bias = inspect.signature(torch.nn.Conv2d._conv_forward).parameters.get("bias")
    return bias is not None and bias.default is inspect.Parameter.empty


def take_own_bias(torch: Any, say: Say) -> None:
    """Has `_conv_forward` take the module's bias where it is given none."""
    for name in ("Conv1d", "Conv2d", "Conv3d"):
        convolution = getattr(torch.nn, name)
        forward = convolution._conv_forward

        def _conv_forward(self: Any, input: Any, weight: Any, *bias: Any, forward: Any = forward, **named: Any) -> Any:
            if not bias and not named:
                say("_conv_forward without a bias took the module's own")
                bias = (self.bias,)
            return forward(self, input, weight, *bias, **named)

        convolution._conv_forward = _conv_forward


# ---- Arguments with a new name or none ----

SCHEDULERS = (
    "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LambdaLR",
    "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "StepLR",
)  # fmt: skip
GRIDS = ("make_grid", "save_image")


def passes(package: str, functions: Sequence[str], argument: str) -> Callable[[ast.AST, Aliases], bool]:
    """Returns what tells whether one of some functions of a package is called with an argument."""
    return lambda node, aliases: (
        isinstance(node, ast.Call)
        and _is_of(package, functions, dotted(node.func, aliases))
        and any(keyword.arg == argument for keyword in node.keywords)
    )


def refuses_verbose(torch: Any) -> bool:
    """Whether learning rate schedulers don't take `verbose`."""
    return "verbose" not in inspect.signature(torch.optim.lr_scheduler.ReduceLROnPlateau).parameters


def take_verbose(torch: Any, say: Say) -> None:
    """Has learning rate schedulers ignore `verbose`, by which they printed what they did."""

    def ignoring(start: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(start)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            if kwargs.pop("verbose", None) is not None:
                say("a scheduler's argument verbose is ignored")
            start(self, *args, **kwargs)

        return __init__

    for name in SCHEDULERS:
        scheduler = getattr(torch.optim.lr_scheduler, name)
        scheduler.__init__ = ignoring(scheduler.__init__)


def refuses_range(utils: Any) -> bool:
    """Whether torchvision's `make_grid` doesn't take `range`."""
    return "range" not in inspect.signature(utils.make_grid).parameters


def take_range(utils: Any, say: Say) -> None:
    """Has `make_grid`, and with it `save_image`, take `range` for `value_range`."""
    make_grid = utils.make_grid

    @functools.wraps(make_grid)
    def make_grid_of_range(*args: Any, **kwargs: Any) -> Any:
        if "range" in kwargs:
            kwargs["value_range"] = kwargs.pop("range")
            say("make_grid's argument range became value_range")
        return make_grid(*args, **kwargs)

    utils.make_grid = make_grid_of_range


# ---- numpy.fromstring ----


def reads_binary_string(node: ast.AST, aliases: Aliases) -> bool:
    """Whether `numpy.fromstring` is called without `sep`, which makes it read bytes."""
    return (
        isinstance(node, ast.Call)
        and dotted(node.func, aliases) == "numpy.fromstring"
        and len(node.args) < 4
        and all(keyword.arg != "sep" for keyword in node.keywords)
    )


def refuses_bytes(numpy: Any) -> bool:
    """Whether `numpy.fromstring` reads text alone."""
    try:
        numpy.fromstring(b"\0", dtype="uint8")
    except (TypeError, ValueError):
        return True
    return False


def take_bytes(numpy: Any, say: Say) -> None:
    """Has `numpy.fromstring` copy what `numpy.frombuffer` reads where it is given no separator."""
    read_text = numpy.fromstring

    @functools.wraps(read_text)
    def fromstring(string: Any, dtype: Any = float, count: int = -1, *args: Any, sep: str = "", **kwargs: Any) -> Any:
        if args or sep:
            return read_text(string, dtype, count, *args, **({"sep": sep} if sep else {}), **kwargs)
        say("numpy.fromstring of bytes became numpy.frombuffer")
        data = string.encode("latin-1") if isinstance(string, str) else string
        return numpy.frombuffer(data, dtype=dtype, count=count).copy()

    numpy.fromstring = fromstring


# ---- Linear algebra ----

LINEAR_ALGEBRA = ("torch.cholesky", "torch.qr", "torch.symeig")


def refuses_linear_algebra(torch: Any) -> bool:
    """Whether torch.symeig and its like are there no more, or only to say so."""
    return getattr(getattr(torch, "symeig", None), "__module__", "") in ("", "torch._linalg_utils")


def give_linear_algebra(torch: Any, say: Say) -> None:
    """Has torch.symeig and its like call what torch.linalg has in their place."""

    def cholesky(input: Any, upper: bool = False) -> Any:
        say("torch.cholesky became torch.linalg.cholesky")
        return torch.linalg.cholesky(input, upper=upper)

    def qr(input: Any, some: bool = True) -> Any:
        say("torch.qr became torch.linalg.qr")
        return torch.linalg.qr(input, mode="reduced" if some else "complete")

    def symeig(input: Any, eigenvectors: bool = False, upper: bool = True) -> Any:
        say("torch.symeig became torch.linalg.eigh")
        triangle = "U" if upper else "L"
        if eigenvectors:
            return torch.linalg.eigh(input, UPLO=triangle)
        values = torch.linalg.eigvalsh(input, UPLO=triangle)
        return torch.return_types.linalg_eigh((values, values.new_empty(0)))

    torch.cholesky, torch.qr, torch.symeig = cholesky, qr, symeig


# ---- The launcher's --local-rank ----


def declares_local_rank(node: ast.AST, aliases: Aliases) -> bool:
    """Whether a parser is given --local_rank, which the launcher of PyTorch 1 passed, and not --local-rank."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != "add_argument":
        return False
    names = {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return "--local_rank" in names and "--local-rank" not in names


def take_local_rank(argparse: Any, say: Say) -> None:
    """Has parsers that declare --local_rank take --local-rank for it."""
    parse = argparse.ArgumentParser.parse_known_args

    @functools.wraps(parse)
    def parse_known_args(self: Any, args: Any = None, namespace: Any = None) -> Any:
        options = self._option_string_actions
        if "--local_rank" in options and "--local-rank" not in options:
            given = list(sys.argv[1:] if args is None else args)
            args = [a.replace("-rank", "_rank", 1) if f"{a}=".startswith("--local-rank=") else a for a in given]
            if args != given:
                say("--local-rank, as the launcher passes it, was taken for --local_rank")
        return parse(self, args, namespace)

    argparse.ArgumentParser.parse_known_args = parse_known_args


# ---- torch.load ----


def loads_pickle(node: ast.AST, aliases: Aliases) -> bool:
    """Whether `torch.load` is called without `weights_only`."""
    return (
        isinstance(node, ast.Call)
        and dotted(node.func, aliases) == "torch.load"
        and all(keyword.arg != "weights_only" for keyword in node.keywords)
    )


def trust_pickles(torch: Any, say: Say) -> None:
    """Has `torch.load` read any pickle, where the script doesn't say whether it should."""
    load = torch.load

    @functools.wraps(load)
    def load_trusted(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("weights_only") is None:
            kwargs["weights_only"] = False
            say(f"{args[0] if args else kwargs.get('f')} is read as a pickle, which can run any code")
        return load(*args, **kwargs)

    torch.load = torch.serialization.load = load_trusted
