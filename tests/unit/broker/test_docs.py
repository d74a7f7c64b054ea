"""The broker's page names every option and every fault."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from backpressure.broker.__main__ import main
from backpressure.broker.faults import FaultSettings
from backpressure.broker.handshake import RABBITMQ_VERSION
from backpressure.cli.broker import broker

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "embedded-broker.md").read_text(encoding="utf-8")


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


def test_the_version_whose_behaviour_it_has_is_told_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert f"the version whose behaviour it has,\n{RABBITMQ_VERSION}." in PAGE
    with pytest.raises(SystemExit):
        main(["--help"])
    [own_name] = [
        option.help for option in broker.params if isinstance(option, click.Option) and option.name == "own_name"
    ]
    for help_text in (" ".join(capsys.readouterr().out.split()), str(own_name)):
        assert f"RabbitMQ {RABBITMQ_VERSION.rpartition('.')[0]}, whose behaviour it has" in help_text


def test_every_difference_to_rabbitmq_3_is_documented_by_its_name() -> None:
    suite = ast.parse((ROOT / "tests/contract/amqp/conftest.py").read_text(encoding="utf-8"))
    [names] = [
        ast.literal_eval(node.value)
        for node in suite.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SINCE_4"
    ]
    table = PAGE[PAGE.index("| difference |") : PAGE.index("RabbitMQ 4.0 still permits")]
    assert re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)[1:] == list(names)
