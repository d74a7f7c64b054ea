"""The broker's page names every option and every fault."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from backpressure.broker.__main__ import main
from backpressure.broker.faults import FaultSettings
from backpressure.cli.broker import broker

PAGE = (Path(__file__).parents[3] / "docs" / "embedded-broker.md").read_text(encoding="utf-8")


def test_every_option_is_documented_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    options |= {name for parameter in broker.params for name in parameter.opts}
    table = PAGE[PAGE.index("| option |") : PAGE.index("SIGINT")]
    assert set(re.findall(r"--[a-z-]+", table)) >= options
    assert set(re.findall(r"^\| `(--[a-z-]+)", table, re.MULTILINE)) == options


def test_every_fault_is_documented_and_nothing_else() -> None:
    table = PAGE[PAGE.index("## Faults on demand") : PAGE.index("`GET /api/faults`")]
    assert re.findall(r"^\| `([a-z_]+)", table, re.MULTILINE) == [field.name for field in fields(FaultSettings)]
