# SPDX-License-Identifier: Apache-2.0
"""The types and bounds of settings, declared beside them, and their one check for command lines and JSON files.

A field's annotation states its type and bounds, as in `batch: Annotated[int, Range(1, 4096)]`, and `validate` checks
every field of a dataclass against its annotation.
"""

import dataclasses
import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import UserError

# Characters of a value that a message shows.
MAX_SHOWN_CHARACTERS = 60
# Stands for a value that isn't of an annotation's type.
_MISMATCH = object()
_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "nothing (null)",
}


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both allowed unless said otherwise."""

    low: float
    high: float
    low_is_allowed: bool = True
    high_is_allowed: bool = True

    def contains(self, value: float) -> bool:
        """Returns whether `value` lies within the bounds, which NaN never does."""
        above = value >= self.low if self.low_is_allowed else value > self.low
        below = value <= self.high if self.high_is_allowed else value < self.high
        return above and below

    def __str__(self) -> str:
        if self.low_is_allowed and self.high_is_allowed:
            return f"from {self.low} to {self.high}"
        low = "at least" if self.low_is_allowed else "above"
        high = "at most" if self.high_is_allowed else "below"
        return f"{low} {self.low} and {high} {self.high}"


def validate(record: Any, spell: Callable[[str], str] = str) -> dict[str, Any]:
    """Returns the fields of a dataclass, checked and converted to their types: an int may stand for a float.

    Args:
        record: The instance of a dataclass.
        spell: Maps a field's name to its spelling in messages.

    Raises:
        UserError: A value is of another type or out of its bounds; the message says what is expected.
    """
    hints = get_type_hints(type(record), include_extras=True)
    names = [field.name for field in dataclasses.fields(record)]
    return {name: validate_value(spell(name), getattr(record, name), hints[name]) for name in names}


def validate_value(name: str, value: Any, annotation: Any) -> Any:
    """Returns a value, converted to its annotation's type.

    Raises:
        UserError: It is of another type or out of its bounds.
    """
    kinds, bounds = _alternatives(annotation)
    for kind in kinds:
        converted = _convert(value, kind)
        is_number = isinstance(converted, int | float)
        if converted is not _MISMATCH and (bounds is None or not is_number or bounds.contains(converted)):
            return converted
    raise UserError(f"{name} is {_describe_value(value)}, but must be {_describe_types(kinds, bounds)}.")


def _alternatives(annotation: Any) -> tuple[list[Any], Range | None]:
    """Returns the types that an annotation allows, and the bounds of its numbers."""
    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        kinds, bounds = _alternatives(inner)
        return kinds, next((extra for extra in extras if isinstance(extra, Range)), bounds)
    if get_origin(annotation) in (Union, types.UnionType):
        kinds, bounds = [], None
        for part in get_args(annotation):
            part_kinds, part_bounds = _alternatives(part)
            kinds, bounds = kinds + part_kinds, part_bounds or bounds
        return kinds, bounds
    return [annotation], None


def _convert(value: Any, kind: Any) -> Any:
    """Returns the value as an instance of a type, or `_MISMATCH`."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return value if any(type(value) is type(choice) and value == choice for choice in choices) else _MISMATCH
    if get_origin(kind) is tuple:
        # A list of any length, such as tuple[Path, ...].
        items = [_convert(item, get_args(kind)[0]) for item in value] if isinstance(value, tuple) else [_MISMATCH]
        return _MISMATCH if any(item is _MISMATCH for item in items) else tuple(items)
    if kind is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            return _MISMATCH
        return number if math.isfinite(number) else _MISMATCH
    if kind in (int, bool, str):
        return value if type(value) is kind else _MISMATCH
    return value if isinstance(value, kind) else _MISMATCH


def _describe_types(kinds: list[Any], bounds: Range | None) -> str:
    words = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            words += [str(choice) for choice in get_args(kind)]
        elif kind in (int, float) and bounds is not None:
            words.append(f"{_TYPE_NAMES[kind]} {bounds}")
        else:
            words.append(_TYPE_NAMES.get(kind, getattr(kind, "__name__", str(kind))))
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _describe_value(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    text = f'"{text}"' if isinstance(value, str) else text
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."
