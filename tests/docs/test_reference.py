"""docs/configuration.md and docs/cli.md match the settings and the commands."""

from __future__ import annotations

import runpy
from pathlib import Path

import click
import pytest

from backpressure.cli.commands import pace
from backpressure.settings import Settings

ROOT = Path(__file__).parents[2]
GENERATOR = runpy.run_path(str(ROOT / "docs" / "generate.py"))


@pytest.mark.parametrize("page", ["configuration", "cli"])
def test_a_generated_page_is_up_to_date(page: str) -> None:
    written = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert written == GENERATOR[page](), f"docs/{page}.md is behind the code: make docs"


@pytest.mark.parametrize("section", Settings.model_fields)
def test_every_setting_is_documented(section: str) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    chapter = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    model = Settings.model_fields[section].annotation
    assert model is not None
    assert [key for key in model.model_fields if f"\n| `{key}` | " not in chapter] == []


@pytest.mark.parametrize("name", pace.list_commands(click.Context(pace)))
def test_every_flag_of_every_command_is_documented(name: str) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    chapter = page.partition(f"\n## pace {name}\n")[2].partition("\n## ")[0]
    command = pace.get_command(click.Context(pace), name)
    assert command is not None
    flags = [flag for parameter in command.params if isinstance(parameter, click.Option) for flag in parameter.opts]
    assert [flag for flag in flags if flag not in chapter] == []
