# SPDX-License-Identifier: Apache-2.0
"""How options are written on the command line and described in its help."""

from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

PRESET_DEFAULT = "(default: the preset's)"


def _parse_switch(words: list[str]) -> bool:
    answers = {"yes": True, "no": False}
    if words and words[0] not in answers:
        raise ValueError(f"{words[0]} is neither yes nor no")
    return answers[words[0]] if words else True


# An option that stands alone for yes, or is followed by yes or no.
Switch = Annotated[
    bool,
    PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[yes|no]",
        instance_from_str=_parse_switch,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: ["yes" if value else "no"],
    ),
]


def option(
    metavar: str, default: str = PRESET_DEFAULT, name: str | None = None, aliases: list[str] | None = None
) -> Any:
    """Describes an option: what its value is called, its default in words, its name if not the field's, other names."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=default, name=name, aliases=aliases)


def argument(kind: type, field: str) -> Any:
    """Returns how a field of a group of options is described: what `option` returned, or an empty description."""
    annotation = get_type_hints(kind, include_extras=True)[field]
    extras = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((extra for extra in extras if hasattr(extra, "help_behavior_hint")), tyro.conf.arg())


def flag(group: Any, field: str) -> str:
    """Returns the spelling on the command line of a field of a group of options, such as `--hsr-weight`.

    The group may be its class, too.
    """
    kind = group if isinstance(group, type) else type(group)
    return f"--{(argument(kind, field).name or field).replace('_', '-')}"
