# SPDX-License-Identifier: Apache-2.0
"""Functions and classes of PyTorch that refuse arguments which they took once."""

import ast
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .repair import Say
from .syntax import dotted, is_of, keywords_of

Aliases = Mapping[str, str]


# ---- Adam's betas ----

OPTIMIZERS = ("Adam", "AdamW")


def passes_int_betas(node: ast.AST, aliases: Aliases) -> bool:
    """Whether something is given betas=[0, 0.99] or betas=(0 ** ratio, 0.99 ** ratio), of which one may be an int."""
    values = [value for name, value in keywords_of(node) if name == "betas"]
    if isinstance(node, ast.Call) and is_of("torch", OPTIMIZERS, dotted(node.func, aliases)):
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
    if not any(is_of("torch", ("Sampler",), base) for base in bases):
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


# ---- DataLoader's prefetch_factor ----


def prefetches_without_workers(node: ast.AST, aliases: Aliases) -> bool:
    """Whether something is given prefetch_factor and num_workers=0."""
    given = dict(keywords_of(node)) if isinstance(node, (ast.Call, ast.Dict)) else {}
    workers, factor = given.get("num_workers"), given.get("prefetch_factor")
    has_none = isinstance(workers, ast.Constant) and workers.value == 0
    return has_none and factor is not None and getattr(factor, "value", 0) is not None


def refuses_prefetch_factor() -> bool:
    """Whether a DataLoader without workers refuses prefetch_factor."""
    import torch

    try:
        torch.utils.data.DataLoader([0], num_workers=0, prefetch_factor=2)  # type: ignore[arg-type]
    except ValueError:
        return True
    return False


def take_prefetch_factor(torch: Any, say: Say) -> None:
    """Has a DataLoader try again without prefetch_factor where it refuses one."""
    start = torch.utils.data.DataLoader.__init__

    @functools.wraps(start)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            return start(self, *args, **kwargs)
        except ValueError:
            if kwargs.get("prefetch_factor") is None:
                raise
            factor = kwargs.pop("prefetch_factor")
        start(self, *args, **kwargs)
        say(f"prefetch_factor={factor} is ignored without workers")

    torch.utils.data.DataLoader.__init__ = __init__


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


# ---- _jit_get_operation ----

GRID_SAMPLER = "aten::grid_sampler_2d_backward"


def gets_grid_sampler(node: ast.AST, aliases: Aliases) -> bool:
    """Whether the derivative of `grid_sample` is asked for by its name."""
    return (
        isinstance(node, ast.Call)
        and dotted(node.func, aliases) == "torch._C._jit_get_operation"
        and any(isinstance(argument, ast.Constant) and argument.value == GRID_SAMPLER for argument in node.args)
    )


def returns_overloads(torch: Any) -> bool:
    """Whether `_jit_get_operation` returns a function and its overloads, and not the function alone."""
    return isinstance(torch._C._jit_get_operation(GRID_SAMPLER), tuple)


def make_grid_sampler_callable(torch: Any, say: Say) -> None:
    """Has what `_jit_get_operation` returns be the function, too, that takes no output_mask."""
    get_operation = torch._C._jit_get_operation

    class Operation(tuple):
        def __call__(self, *args: Any) -> Any:
            say("the derivative of grid_sample was called as PyTorch had it up to 1.10")
            return self[0](*args, *([[True, True]] if len(args) == 6 else []))

    @functools.wraps(get_operation)
    def _jit_get_operation(name: str) -> Any:
        found = get_operation(name)
        return Operation(found) if name == GRID_SAMPLER else found

    torch._C._jit_get_operation = _jit_get_operation


# ---- Schedulers' verbose ----

SCHEDULERS = (
    "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LambdaLR",
    "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "StepLR",
)  # fmt: skip


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


# ---- torch.load ----


def loads_pickle(node: ast.AST, aliases: Aliases) -> bool:
    """Whether `torch.load` is called without `weights_only`, which `**options` may have in them."""
    return (
        isinstance(node, ast.Call)
        and dotted(node.func, aliases) == "torch.load"
        and all(keyword.arg not in ("weights_only", None) for keyword in node.keywords)
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
