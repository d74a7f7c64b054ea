"""The ten thousand messages of docs/by-hand.md, with its commands unchanged, on the embedded broker."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "by-hand.md").read_text(encoding="utf-8")
PATIENCE_S = 60.0


@pytest.fixture
def port(tmp_path: Path) -> Iterator[str]:
    announce = tmp_path / "broker.json"
    command = [sys.executable, "-m", "backpressure.broker", "--port", "0", "--management-port", "0"]
    process = subprocess.Popen([*command, "--announce", str(announce)], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not announce.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield str(json.loads(announce.read_text())["port"])
    finally:
        process.terminate()
        process.wait()


def test_ten_thousand_are_published_and_then_consumed_as_the_page_shows(port: str) -> None:
    section = PAGE.partition("## Ten thousand\n")[2]
    commands = re.findall(r"^\.venv/bin/python (.*)$", section, re.MULTILINE)[:2]
    closing_lines = re.findall(r"^((?:published|consumed)=.*)$", section, re.MULTILINE)[:2]
    for command, expected in zip(commands, closing_lines, strict=True):
        done = subprocess.run(
            [sys.executable, *shlex.split(command), "--port", port, "--no-api"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE_S,
        )  # fmt: skip
        *_, said = done.stdout.splitlines()
        assert _counts(said) == _counts(expected)


def _counts(line: str) -> list[str]:
    """Return the figures that do not depend on the speed of the machine."""
    return re.findall(r"\b\w+[=≈]\d+(?=,)", line)
