"""README and docs/ are true: every command, flag, target, path and link in them exists."""

from __future__ import annotations

import itertools
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from backpressure.catalogue import find_field
from backpressure.cli.commands import pace
from backpressure.cli.process_status import HEAD
from backpressure.errors import AccessRefusedError, BrokerUnavailableError, PortTakenError, PreconditionFailedError
from backpressure.experiments.roles import ROLE_KEYS, ROLES

ROOT = Path(__file__).parents[2]
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*FRONT, *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = {"fast_producer.py": "producer", "slow_consumer.py": "consumer", "monitor.py": "monitor"}
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
SHELL_BLOCK = re.compile(r"^```(?:sh|bash|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TEXT_BLOCK = re.compile(r"^```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:(?:\.venv/bin/)?(?:pace|python)|make) [^`\n]+)`(?!`)")
PLACEHOLDER = re.compile(r"[A-Z…]{2,}|…")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every simple command in shell blocks and in the text."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(block.replace("\\\n", " ") for block in SHELL_BLOCK.findall(text))
    for line in [*blocks.splitlines(), *INLINE.findall(text)]:
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words:
            end = next((at for at, word in enumerate(words) if word in {"&&", "||", "|", ";", "&"}), len(words))
            command = words[:end]
            while command and re.fullmatch(r"\w+=.*", command[0]):  # variables set for the command
                command = command[1:]
            if command:
                yield command
            words = words[end + 1 :]


def check_pace(words: list[str]) -> None:
    """Follow the sub-commands, then look each flag up."""
    command: click.Command = pace
    context = click.Context(pace)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if PLACEHOLDER.fullmatch(words[0]):
            return
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]}"
        command, words = found, words[1:]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in known | {"--help", "-h"}, f"{command.name} has no flag {word}"
    for assignment in (value for flag, value in itertools.pairwise(words) if flag == "--set"):
        check_assignment(assignment.partition("=")[0])


def check_assignment(key: str) -> None:
    """A key of --set is a setting, says who plays a role, or is of a phase or an expectation (which runs prove)."""
    section, name = (*key.split("."), "")[:2]
    if key != "key" and section not in {"phase", "expect", "seed"} and (section not in ROLES or name not in ROLE_KEYS):
        find_field(key)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_on_a_page_exists_with_its_flags(page: Path) -> None:
    for program, *words in commands(page):
        match [program.removeprefix(".venv/bin/"), *words]:
            case ["pace", *rest]:
                check_pace(rest)
            case ["make", *rest]:
                wanted = [word for word in rest if "=" not in word and not word.startswith("-")]
                assert set(wanted) <= TARGETS, f"make {' '.join(wanted)}"
            case ["python", script, *rest] if script in SCRIPTS:
                check_pace([SCRIPTS[script], *rest])
            case ["python", script, *_] if script.endswith(".py"):
                assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
        assert "://" in target or (page.parent / target).exists(), target


def exists(path: Path) -> bool:
    """Return whether there is such a file or folder; one with nothing but compiled modules is a leftover."""
    return path.is_file() or (path.is_dir() and any(child.name != "__pycache__" for child in path.iterdir()))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_path_on_a_page_exists(page: Path) -> None:
    folders = "backpressure|docs|tests|benchmarks|compose|examples"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text(encoding="utf-8")):
        assert PLACEHOLDER.search(path) or exists(ROOT / path), path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_name_on_a_page_exists(page: Path) -> None:
    for name in re.findall(r"`(backpressure(?:\.\w+)+)(?:\(.*?\))?`", page.read_text(encoding="utf-8")):
        pkgutil.resolve_name(name)  # raises when there is no such module or attribute


def test_the_commands_of_the_readme_are_found() -> None:
    programs = [words[0].removeprefix(".venv/bin/") for words in commands(ROOT / "README.md")]
    assert programs.count("python") == len(SCRIPTS)
    assert {"make", "pace"} < set(programs)


def test_the_lines_of_status_in_the_labs_are_those_that_the_command_prints() -> None:
    blocks = [block for page in PAGES for block in TEXT_BLOCK.findall(page.read_text(encoding="utf-8"))]
    shown = [block.splitlines() for block in blocks if block.startswith("time ")]
    assert len(shown) >= 8
    for head, *lines in shown:
        assert head == HEAD
        rows = [line for line in lines if re.match(r"\d\d:\d\d:\d\d  ", line)]
        assert rows
        assert [row for row in rows if row.index(" | ") != HEAD.index(" | ")] == []


def test_the_architecture_names_every_layer() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "backpressure").glob("*/__init__.py")}
    assert sorted(folder for folder in folders if f"`backpressure/{folder}/`" not in text) == []
    assert sorted(script for script in SCRIPTS if f"`{script}`" not in text) == []


@pytest.mark.parametrize(
    "message",
    [
        str(BrokerUnavailableError("amqp://localhost:5672", "connection refused")),
        str(AccessRefusedError("amqp://mq:5672", "")),
        str(PortTakenError("127.0.0.1", 5000, "--api-port")),
        str(PreconditionFailedError("work.queue", "x-max-length", "")),
    ],
)
def test_what_the_programs_say_is_what_troubleshooting_explains(message: str) -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### `(.*)`$", page, re.MULTILINE)
    assert any(message.startswith(heading) for heading in headings)
