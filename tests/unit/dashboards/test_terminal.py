"""Output without a reader, or without a character."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from backpressure import program
from backpressure.core.snapshot import Snapshot
from backpressure.dashboards.run_view import RunLive


def test_a_terminal_that_goes_away_does_not_stop_what_it_shows(snapshot: Callable[..., Snapshot]) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        nowhere = program._safe(full, 1, "replace")
        with RunLive(Console(file=nowhere, force_terminal=True)) as live:
            live.began("recovery: a story", "RabbitMQ 4", "work.queue", [("normal", 20.0)])
            live.phase_began(0, lambda _: None)
            live.sampled(snapshot())
            live.noted("consumer-1 appeared")
        nowhere.close()


def test_a_name_cannot_steer_the_terminal() -> None:
    assert program.printable("al\x1b[2Jice\r\n\x07") == "al·[2Jice···"
    assert program.printable("Zoë λ") == "Zoë λ"


PRINTS = """
from backpressure import program
program.prepare(130)
from backpressure.presentation.terminal import new_console
import sys
sys.stdin.read()
for n in range(3):
    print(f"line {n} ✔")
    new_console().print(f"[b]rich[/b] {n} ✔")
print("all was said", file=sys.stderr)
"""


def printing(encoding: str, stdout: int) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", PRINTS]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, text=True
    )


def test_a_reader_that_has_gone_costs_neither_the_rest_nor_the_exit_code() -> None:
    read, write = os.pipe()
    process = printing("utf-8", write)
    os.close(write)
    os.close(read)
    _, errors = process.communicate("go")
    assert (process.returncode, errors) == (0, "all was said\n")


def test_an_encoding_without_a_character_shows_something_else() -> None:
    shown, errors = printing("ascii", subprocess.PIPE).communicate("go")
    assert errors == "all was said\n"
    assert shown.splitlines()[:2] == ["line 0 ?", "rich 0 ?"]
