# SPDX-License-Identifier: Apache-2.0
"""The page docs/options.md: tables of all options and settings, made from their declarations."""

import ast
import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from ..commands import COMMANDS, first_sentence
from ..config import PRESETS, Config, preset
from .sources import OWN_SOURCE, REFERENCES, SOURCES
from .spelling import PRESET_DEFAULT, argument, flag
from .train import TrainOptions

# The options of `hsr train` have a part of the page to themselves.
COMMAND_OPTIONS = {name: command.options for name, command in COMMANDS.items() if name != "train"}
# Presets whose defaults the tables of `hsr train` show.
DEFAULT_PRESETS = ("digits", "auto", "paper256")
# Resolution and device of the presets in the tables; only `auto` depends on them.
RESOLUTION, DEVICE = 256, "cuda"
SMALL_RESOLUTION, SMALL_DEVICE = 64, "cpu"
# Settings in which options of other names are recorded.
RECORDS = {"cfg": "preset", "resume": "start", "hsr_from": "start"}

# The mark of positional arguments in their annotations.
_POSITIONAL = get_args(tyro.conf.Positional[int])[1]

_INTRODUCTION = f"""\
# Options

Every option of the `hsr` commands. `python -m hsr.options > docs/options.md` writes this page from their declarations;
`hsr COMMAND --help` says more of each, and the [tutorial](tutorial.md) shows when to use them.

A setting is a value in a run's `config.json`. `hsr train --dry-run` prints all of them, and `--cfg config.json` repeats
them. The defaults of `hsr train` are those of its preset (`--cfg`): where presets differ, the tables show a few, with
`auto`, which goes by resolution and device, for images {RESOLUTION} pixels wide on a GPU; [Presets](#presets) has all.

"{OWN_SOURCE.capitalize()}" is what this project chose or added; "code" is what the authors of a paper released with it.
The papers are listed at the [end](#sources).
"""
_PRESETS_TEXT = f"""\
The settings that presets differ in. `auto` is shown for images {RESOLUTION} pixels wide on a GPU and for images
{SMALL_RESOLUTION} pixels wide on a CPU. Where a preset has none, the tables of options and settings say what applies.
"""
_SETTINGS_TEXT = """\
A configuration file that `--cfg` names, such as a copy of a run's `config.json`, may have other values than these
defaults, and so may presets. "None" is written as `null`.
"""


def options_page() -> str:
    """Returns the page as Markdown text."""
    parts = [_INTRODUCTION, "## hsr train", *_train_sections(), "## Presets", _PRESETS_TEXT, _presets_table()]
    parts += ["## Settings without an option", _SETTINGS_TEXT, _settings_table()]
    for command, kind in COMMAND_OPTIONS.items():
        parts += [f"## hsr {command}", first_sentence(inspect.getdoc(kind) or ""), _command_table(command, kind)]
    parts += ["## Sources", "\n".join(f"- {name}: *{title}*" for name, title in REFERENCES.items())]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _train_sections() -> Iterable[str]:
    presets = {name: preset(name, RESOLUTION, DEVICE) for name in DEFAULT_PRESETS}
    settings = {field.name for field in dataclasses.fields(Config)}
    for group in TrainOptions().groups():
        kind = type(group)
        texts = field_texts(kind)
        rows = []
        for field in dataclasses.fields(kind):
            name = field.name
            setting = name if name in settings else RECORDS.get(name, "")
            values = {key: getattr(config, name) for key, config in presets.items()} if name in settings else {}
            rows.append(
                [
                    _flags(kind, name),
                    _values(kind, name),
                    _default(argument(kind, name).help_behavior_hint, values),
                    first_sentence(texts[name]),
                    f"`{setting}`" if setting else "—",
                    source("train", name),
                ]
            )
        yield f"### {first_sentence(inspect.getdoc(kind) or '').rstrip('.')}"
        yield _table(["option", "value", "default", "meaning", "setting", "source"], rows)


def _command_table(command: str, kind: type) -> str:
    texts = field_texts(kind)
    rows = [
        [
            _flags(kind, field.name),
            _values(kind, field.name),
            _default(argument(kind, field.name).help_behavior_hint, {}),
            first_sentence(texts[field.name]),
            source(command, field.name),
        ]
        for field in dataclasses.fields(kind)
    ]
    return _table(["option", "value", "default", "meaning", "source"], rows)


def _presets_table() -> str:
    configs = {}
    for name in PRESETS:
        configs[f"`{name}`"] = preset(name, RESOLUTION, DEVICE)
        if name == "auto":
            configs["`auto`, CPU"] = preset(name, SMALL_RESOLUTION, SMALL_DEVICE)
    rows = []
    for field in dataclasses.fields(Config)[1:]:
        values = [getattr(config, field.name) for config in configs.values()]
        if any(value != field.default for value in values):
            rows.append([f"`{field.name}`", *(_word(value) for value in values)])
    return _table(["setting", *configs], rows)


def _settings_table() -> str:
    texts = field_texts(Config)
    rows = [
        [f"`{field.name}`", _word(field.default), texts[field.name], source("train", field.name)]
        for field in settings_without_option()
    ]
    return _table(["setting", "default", "meaning", "source"], rows)


def settings_without_option() -> list[dataclasses.Field]:
    """Returns the settings that no option of `hsr train` determines."""
    names = {field.name for group in TrainOptions().groups() for field in dataclasses.fields(group)}
    names |= set(RECORDS.values())
    return [field for field in dataclasses.fields(Config) if field.name not in names]


def source(command: str, name: str) -> str:
    """Returns where an option of a command, or a setting of `hsr train`, comes from."""
    shared = SOURCES.get(name, OWN_SOURCE) if command == "train" else OWN_SOURCE
    return SOURCES.get(f"{command}.{name}", shared)


def field_texts(kind: type) -> dict[str, str]:
    """Returns what the code of a dataclass says on each field: a docstring below it, or else the comments above it."""
    code = inspect.getsource(kind)
    lines = code.splitlines()
    body = ast.parse(code).body[0].body  # type: ignore[attr-defined]
    texts = {}
    for statement, successor in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        comments: list[str] = []
        for line in reversed(lines[: statement.lineno - 1]):
            if not line.strip().startswith("#"):
                break
            comments.insert(0, line.strip().lstrip("# "))
        text = " ".join(comments)
        if isinstance(successor, ast.Expr) and isinstance(successor.value, ast.Constant):
            text = str(successor.value.value)
        texts[statement.target.id] = " ".join(text.split())
    return texts


def _flags(kind: type, field: str) -> str:
    """Returns how a field is spelled on the command line; positional ones are called by their values."""
    described = argument(kind, field)
    if _POSITIONAL in get_args(get_type_hints(kind, include_extras=True)[field]):
        return f"`{described.metavar}`"
    return ", ".join(f"`{name}`" for name in [flag(kind, field), *(described.aliases or ())])


def _values(kind: type, field: str) -> str:
    """Returns the choices of a field, or else what its value is called."""
    metavar = argument(kind, field).metavar
    choices = _choices(get_type_hints(kind)[field])
    text = "\\|".join(choices) if choices else metavar.replace("|", "\\|")
    return f"`{text}`" if text else "—"


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return next((choices for part in get_args(annotation) if (choices := _choices(part))), [])


def _default(hint: str, values: dict[str, Any]) -> str:
    """Returns a default in words: the values of presets where they have different ones, and what else the help says."""
    words, preset_words = (text.strip("()").removeprefix("default: ") for text in (hint, PRESET_DEFAULT))
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        if value is not None:
            names.setdefault(_word(value), []).append(name)
    if not words.startswith(preset_words):
        return words
    if len(names) == 1 and words == preset_words:
        return next(iter(names))
    listed = ", ".join(f"{value} (`{'`, `'.join(keys)}`)" for value, keys in names.items())
    return listed + words.removeprefix(preset_words)


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    # Words in angle brackets would be taken for HTML.
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines).replace("<", "\\<")
