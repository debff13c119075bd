# SPDX-License-Identifier: Apache-2.0
"""Functions of other packages than PyTorch that refuse arguments which they took once."""

import ast
import functools
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from .repair import Say
from .syntax import dotted

Aliases = Mapping[str, str]


# ---- torchvision.utils ----

GRIDS = ("make_grid", "save_image")


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


# ---- scipy.linalg.sqrtm ----


def refuses_disp(linalg: Any) -> bool:
    """Whether `scipy.linalg.sqrtm` doesn't take `disp`."""
    return "disp" not in inspect.signature(linalg.sqrtm).parameters


def take_disp(linalg: Any, say: Say) -> None:
    """Has `scipy.linalg.sqrtm` return an estimate of its relative error, too, where it is given disp=False."""
    root_of = linalg.sqrtm

    @functools.wraps(root_of)
    def sqrtm(A: Any, *args: Any, disp: bool = True, **kwargs: Any) -> Any:
        root = root_of(A, *args, **kwargs)
        if disp:
            return root
        say("sqrtm's argument disp, which isn't there any more, was taken")
        return root, linalg.norm(root @ root - A) / linalg.norm(A)

    linalg.sqrtm = sqrtm


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
