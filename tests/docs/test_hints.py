"""Every setting, flag, command and file that a message names exists, so advice can be followed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from backpressure.catalogue import find_field
from backpressure.cli.commands import pace
from backpressure.errors import ConfigError, PreconditionFailedError
from backpressure.experiments.roles import ROLE_KEYS, ROLES
from backpressure.settings import Settings

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "backpressure").rglob("*.py"))
SECTIONS = "|".join(Settings.model_fields)
OF_SCENARIOS = {f"{role}.{key}" for role in ROLES for key in ROLE_KEYS}
ELSEWHERE = {"--cluster-id"}  # flags of other programs that messages show
PROSE = {"and", "of", "from", "while", "with", "for", "it", "is", "the", "them"}  # after "pace" or "make" as a word


def messages(path: Path) -> Iterator[str]:
    """Yield the texts of a module that are not docstrings, with {} for what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            inner.add(id(node.value))  # a docstring
        if isinstance(node, ast.JoinedStr):
            inner |= {id(value) for value in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


@cache
def flags_by_command() -> dict[str, set[str]]:
    """Return the flags of each command of `pace`, those of the embedded broker included."""
    context = click.Context(pace)
    found = {}
    for name in pace.list_commands(context):
        command = pace.get_command(context, name)
        assert command is not None
        options = [option for option in command.params if isinstance(option, click.Option)]
        found[name] = {flag for option in options for flag in (*option.opts, *option.secondary_opts)} | {"--help"}
    embedded = [sys.executable, "-m", "backpressure.broker", "--help"]
    text = subprocess.run(embedded, capture_output=True, text=True, check=True).stdout
    found["broker"] |= set(re.findall(r"--[a-z-]+", text))
    return found


def bad_commands(text: str) -> Iterator[str]:
    """Yield the commands that are not there, and flags that another command has."""
    commands = flags_by_command()
    for name, rest in re.findall(r"\bpace ([a-z]+(?:-[a-z]+)?)((?: [\w./:{}-]+)*)", text):
        if name in PROSE:
            continue
        if name not in commands:
            yield f"pace {name}"
        else:
            yield from (f"pace {name} {flag}" for flag in re.findall(r"--[a-z-]+", rest) if flag not in commands[name])


def bad_flags(text: str) -> Iterator[str]:
    """Yield the flags that no command has."""
    known = set().union(*flags_by_command().values(), ELSEWHERE)
    found = re.findall(r"(?<![\w-])--[a-z][a-z-]*", text) if " " in text else []
    yield from (flag for flag in found if flag not in known)


def bad_settings(text: str) -> Iterator[str]:
    """Yield the settings, also as variables of the environment, that are not there."""
    keys = re.findall(rf"(?<![\w./-])((?:{SECTIONS})\.[a-z_]+)(?![\w/(])", text) if " " in text else []
    keys += [".".join(found).lower() for found in re.findall(r"\bPACE_([A-Z]+)__([A-Z_]+)\b", text)]
    for key in keys:
        try:
            find_field(key)
        except ConfigError:
            if not key.endswith((".md", ".py", ".toml", ".json")) and key not in OF_SCENARIOS:
                yield key


def bad_files(text: str) -> Iterator[str]:
    """Yield the pages, scripts, targets of make, services of compose and extras that are not there."""
    for name in re.findall(r"\bdocs/[\w.-]+\.md\b|(?<=\bpython )\w+\.py\b", text):
        if not (ROOT / name).exists():
            yield name
    for pattern, line, file in (
        (r"(?:^|[:,(`] ?)make ([a-z]+)\b", "\n{}:", "Makefile"),
        (r"docker compose up -d ([a-z]+)", "\n  {}:", "docker-compose.yml"),
        (r"pace-matching\[([a-z]+)\]", "\n{} = [", "pyproject.toml"),
    ):
        content = (ROOT / file).read_text(encoding="utf-8")
        yield from (
            name for name in re.findall(pattern, text) if line.format(name) not in content and name not in PROSE
        )


CHECKS: tuple[Callable[[str], Iterator[str]], ...] = (bad_commands, bad_flags, bad_settings, bad_files)


def not_there(text: str) -> set[str]:
    """Return what ``text`` names and is not there."""
    return {name for check in CHECKS for name in check(text)}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT / "backpressure")))
def test_what_a_message_names_is_there(module: Path) -> None:
    if module.is_relative_to(ROOT / "backpressure" / "broker"):
        return  # it speaks of AMQP, where queue.declare is a method; its flags are read from its own help
    assert set().union(*map(not_there, messages(module))) == set()


@pytest.mark.parametrize(
    "argument",
    ["durable", "x-max-length", "x-overflow", "x-message-ttl", "x-queue-mode", "x-queue-type", "x-expires", "type"],
)
def test_the_ways_out_of_other_arguments_name_settings_that_are_there(argument: str) -> None:
    assert not_there(str(PreconditionFailedError("work.queue", argument, "inequivalent arg"))) == set()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("try --no-such-flag at once", "--no-such-flag"),
        ("start one: pace brokers rabbitmq", "pace brokers"),
        ("see pace laws --rate", "pace laws --rate"),
        ("set queue.x_max_length lower", "queue.x_max_length"),
        ("set PACE_QUEUE__MAX lower", "queue.max"),
        ("see docs/nowhere.md", "docs/nowhere.md"),
        ("start python no_consumer.py", "no_consumer.py"),
        ("needs it: make kafkas", "kafkas"),
        ("or docker compose up -d rabbits", "rabbits"),
        ("pip install 'pace-matching[rabbits]'", "rabbits"),
    ],
)
def test_a_name_that_is_not_there_is_found(text: str, name: str) -> None:
    assert not_there(text) == {name}
