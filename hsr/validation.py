# SPDX-License-Identifier: Apache-2.0
"""What values a setting may have, declared beside it, and the one check for command lines, JSON files and data sets.

A field says its type and its bounds in its annotation, `batch: Annotated[int, Range(1, 4096)]`, and `validated` holds
every field of a dataclass to that.
"""

import dataclasses
import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import UserError


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both allowed unless said otherwise."""

    low: float
    high: float
    low_is_allowed: bool = True
    high_is_allowed: bool = True

    def holds(self, value: float) -> bool:
        """Whether `value` lies within the bounds; NaN doesn't."""
        above = value >= self.low if self.low_is_allowed else value > self.low
        below = value <= self.high if self.high_is_allowed else value < self.high
        return above and below

    def __str__(self) -> str:
        if self.low_is_allowed and self.high_is_allowed:
            return f"from {self.low} to {self.high}"
        low = "at least" if self.low_is_allowed else "above"
        high = "at most" if self.high_is_allowed else "below"
        return f"{low} {self.low} and {high} {self.high}"


def validated(record: Any, spell: Callable[[str], str] = str) -> dict[str, Any]:
    """Returns the fields of a dataclass, each as its annotation wants it (an int given for a float becomes one).

    Args:
        record: The instance of a dataclass.
        spell: Gives a field's name as messages spell it.

    Raises:
        UserError: A value isn't of its type or not within its bounds; the message says what is expected.
    """
    hints = get_type_hints(type(record), include_extras=True)
    return {f.name: checked(spell(f.name), getattr(record, f.name), hints[f.name]) for f in dataclasses.fields(record)}


def checked(name: str, value: Any, annotation: Any) -> Any:
    """Returns a value as its annotation wants it.

    Raises:
        UserError: It isn't of that type or not within its bounds.
    """
    kinds, bounds = _alternatives(annotation)
    for kind in kinds:
        found = _as_kind(value, kind)
        if found is not _NO and (bounds is None or not isinstance(found, int | float) or bounds.holds(found)):
            return found
    raise UserError(f"{name} is {_shown(value)}, and must be {_expected(kinds, bounds)}.")


_NO = object()
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "nothing (null)"}


def _alternatives(annotation: Any) -> tuple[list[Any], Range | None]:
    """The types that an annotation allows, and the bounds of its numbers."""
    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        kinds, bounds = _alternatives(inner)
        return kinds, next((extra for extra in extras if isinstance(extra, Range)), bounds)
    if get_origin(annotation) in (Union, types.UnionType):
        kinds, bounds = [], None
        for part in get_args(annotation):
            more, limit = _alternatives(part)
            kinds, bounds = kinds + more, limit or bounds
        return kinds, bounds
    return [annotation], None


def _as_kind(value: Any, kind: Any) -> Any:
    """The value as an instance of a type, or _NO."""
    if get_origin(kind) is Literal:
        return value if any(type(value) is type(known) and value == known for known in get_args(kind)) else _NO
    if kind is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            return _NO
        return number if math.isfinite(number) else _NO
    if kind in (int, bool, str):
        return value if type(value) is kind else _NO
    return value if isinstance(value, kind) else _NO


def _expected(kinds: list[Any], bounds: Range | None) -> str:
    words = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            words += [str(known) for known in get_args(kind)]
        elif kind in (int, float) and bounds is not None:
            words.append(f"{_NAMES[kind]} {bounds}")
        else:
            words.append(_NAMES.get(kind, kind.__name__))
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    text = f'"{text}"' if isinstance(value, str) else text
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."


# A message shows so many characters of a value.
MAX_SHOWN_CHARACTERS = 60
