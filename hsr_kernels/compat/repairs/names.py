# SPDX-License-Identifier: Apache-2.0
"""Names that modules had, and what stands for each now."""

import collections.abc
import functools
import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import ModuleType
from typing import Any, NamedTuple

from .repair import Match, Say, change_of, name_where

# What stands for a name: another name of the module, or what a function makes of the module.
Replacements = Mapping[str, str | Callable[[Any], Any]]


def names_of(module: str, replacements: Replacements) -> tuple[Match, Callable[[], bool], Callable[[Say], None]]:
    """Returns the functions `match`, `is_refused` and `install` of a repair that gives a module names back."""
    names = {f"{module}.{name}": name for name in replacements}

    def is_refused_name(name: str) -> bool:
        return name in names and not _has(importlib.import_module(module), names[name])

    def is_refused(imported: ModuleType) -> bool:
        return any(not _has(imported, name) for name in replacements)

    def change(imported: ModuleType, say: Say) -> None:
        refused = {name for name in replacements if not _has(imported, name)}
        provided_before = vars(imported).get("__getattr__")

        def __getattr__(name: str) -> Any:
            if name in refused:
                new = replacements[name]
                value = attrgetter(new)(imported) if isinstance(new, str) else new(imported)
                shown = new if isinstance(new, str) else getattr(value, "__name__", repr(value))
                say(f"{module}.{name}, which isn't there any more, is {shown}")
                return value
            if provided_before is not None:
                return provided_before(name)
            raise AttributeError(f"module {module!r} has no attribute {name!r}")

        imported.__getattr__ = __getattr__  # type: ignore[method-assign]

    return name_where(is_refused_name), *change_of(module, is_refused, change)


def _has(module: ModuleType, name: str) -> bool:
    # NumPy warns when it is asked for some of them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hasattr(module, name)


def _values(**values: Any) -> Replacements:
    return {name: functools.partial(_get, value) for name, value in values.items()}


def _get(value: Any, module: Any) -> Any:
    return value


def _asscalar(a: Any) -> Any:
    return a.item()


def _msort(numpy: Any) -> Callable[[Any], Any]:
    def msort(a: Any) -> Any:
        return numpy.sort(a, axis=0)

    return msort


def _asfarray(numpy: Any) -> Callable[..., Any]:
    def asfarray(a: Any, dtype: Any = float) -> Any:
        return numpy.asarray(a, dtype=dtype if numpy.issubdtype(dtype, numpy.inexact) else float)

    return asfarray


NUMPY: Replacements = {
    **_values(
        bool=bool, int=int, float=float, complex=complex, object=object, str=str, long=int, unicode=str,
        Inf=math.inf, Infinity=math.inf, infty=math.inf, PINF=math.inf, NINF=-math.inf, NaN=math.nan, NAN=math.nan,
        PZERO=0.0, NZERO=-0.0, math=math, warnings=warnings, issubclass_=issubclass, asscalar=_asscalar,
    ),
    **dict(
        float_="float64", complex_="complex128", cfloat="complex128", singlecomplex="complex64", longfloat="longdouble",
        bool8="bool_", int0="intp", uint0="uintp", str0="str_", bytes0="bytes_", object0="object_", unicode_="str_",
        string_="bytes_", product="prod", cumproduct="cumprod", sometrue="any", alltrue="all", round_="round",
        row_stack="vstack", in1d="isin", trapz="trapezoid", mat="asmatrix", AxisError="exceptions.AxisError",
        ComplexWarning="exceptions.ComplexWarning", VisibleDeprecationWarning="exceptions.VisibleDeprecationWarning",
    ),
    "asfarray": _asfarray,
    "msort": _msort,
}  # fmt: skip

PILLOW: Replacements = dict(ANTIALIAS="LANCZOS", LINEAR="BILINEAR", CUBIC="BICUBIC")

TORCH: Replacements = dict(
    is_deterministic="are_deterministic_algorithms_enabled", set_deterministic="use_deterministic_algorithms"
)

_WINDOWS = (
    "barthann", "bartlett", "blackman", "blackmanharris", "bohman", "boxcar", "chebwin", "cosine", "exponential",
    "flattop", "gaussian", "general_gaussian", "hamming", "hann", "kaiser", "nuttall", "parzen", "triang", "tukey",
)  # fmt: skip
SCIPY_SIGNAL: Replacements = {**{name: f"windows.{name}" for name in _WINDOWS}, "hanning": "windows.hann"}
SCIPY_INTEGRATE: Replacements = dict(trapz="trapezoid", cumtrapz="cumulative_trapezoid")

COLLECTIONS = _values(
    **{name: getattr(collections.abc, name) for name in collections.abc.__all__ if name not in ("Buffer",)}
)


class ArgSpec(NamedTuple):
    """What `inspect.getargspec` returned."""

    args: list[str]
    varargs: str | None
    keywords: str | None
    defaults: tuple[Any, ...] | None


def _getargspec(func: Any) -> ArgSpec:
    return ArgSpec(*inspect.getfullargspec(func)[:4])


INSPECT = _values(getargspec=_getargspec)
TIME: Replacements = {"clock": "process_time"}
FRACTIONS = _values(gcd=math.gcd)
