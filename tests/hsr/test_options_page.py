# SPDX-License-Identifier: Apache-2.0
"""docs/options.md: made from the declarations of options and settings, and up to date."""

import dataclasses
from pathlib import Path

from hsr.config import Config
from hsr.options import TrainOptions
from hsr.options.page import COMMAND_OPTIONS, field_texts, options_page, settings_without_option
from hsr.options.sources import SOURCES

PAGE = Path(__file__).parents[2] / "docs/options.md"


def test_the_page_is_up_to_date() -> None:
    message = "docs/options.md is out of date: python -m hsr.options > docs/options.md"
    assert PAGE.read_text(encoding="utf-8") == options_page(), message


def test_every_source_belongs_to_an_option_or_setting() -> None:
    names = {field.name for field in dataclasses.fields(Config)}
    names |= {f"train.{field.name}" for group in TrainOptions().groups() for field in dataclasses.fields(group)}
    names |= {
        f"{command}.{field.name}" for command, kind in COMMAND_OPTIONS.items() for field in dataclasses.fields(kind)
    }
    assert set(SOURCES) <= names


def test_every_setting_without_an_option_is_described() -> None:
    texts = field_texts(Config)
    assert [field.name for field in settings_without_option() if not texts[field.name]] == []
