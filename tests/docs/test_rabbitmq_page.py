"""The commands of docs/rabbitmq.md, run unchanged on a private RabbitMQ node."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from backpressure.transports.rabbitmq_node import find_rabbitmq, private_node

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rabbitmq.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(rabbitmq(?:ctl|-diagnostics) .*)$", PAGE, re.MULTILINE)

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def shell(
    tmp_path_factory: pytest.TempPathFactory, go_without: Callable[[str, str], NoReturn]
) -> Iterator[Callable[[str], str]]:
    """Return a function that runs a command with the tools of a node that a producer has used."""
    if find_rabbitmq() is None:
        go_without("rabbitmq", "rabbitmq-server is not installed")
    folder = tmp_path_factory.mktemp("tools")
    with private_node() as node:
        *variables, rabbitmqctl, _, name = node.control_command.split()
        for tool in ("rabbitmqctl", "rabbitmq-diagnostics"):
            script = folder / tool
            program = Path(rabbitmqctl).with_name(tool)
            script.write_text(f'#!/bin/sh\nexec env {" ".join(variables)} {program} -n {name} "$@"\n')
            script.chmod(0o755)
        producer = [sys.executable, "-m", "backpressure", "producer", "--count", "20", "--no-api"]
        subprocess.run([*producer, "--url", node.url, "--strategy", "unbounded"], cwd=ROOT, check=True, timeout=60)
        environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}

        def run(command: str) -> str:
            done = subprocess.run(
                command, shell=True, env=environment, capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
            return done.stdout

        yield run


def test_every_command_of_the_page_works_in_its_order(shell: Callable[[str], str]) -> None:
    said = {command: shell(command) for command in COMMANDS}
    depths = next(output for command, output in said.items() if "list_queues --quiet name type" in command)
    assert re.search(r"^work\.queue\s+classic\s+20\s+0\s+0\s", depths, re.MULTILINE)
    exchanges = next(output for command, output in said.items() if "list_exchanges" in command)
    assert re.search(r"^direct\.exchange\s+direct\s+true", exchanges, re.MULTILINE)
    assert re.search(r"^pace\.feedback\s+fanout", exchanges, re.MULTILINE)
    bindings = next(output for command, output in said.items() if "list_bindings" in command)
    assert re.search(r"^direct\.exchange\s+work\s+work\.queue", bindings, re.MULTILINE)


def test_the_page_shows_a_command_for_each_question() -> None:
    sections = re.split(r"^### ", PAGE.partition("## rabbitmqctl, by question")[2], flags=re.MULTILINE)[1:]
    assert all(re.search(r"^rabbitmq", section, re.MULTILINE) for section in sections)
