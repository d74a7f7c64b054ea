"""The output that README shows is what `pace run` prints: its lines, whatever the numbers in them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
MASKS = (  # what differs between two runs, and what stands for it
    (r"report: \S+", "report: …"),
    (r"at amqp://\S+", "at …"),
    (r"PASSED|FAILED", "verdict"),
    (r"[✔✘]", "mark"),
    (r"closest to its limit: .*", "closest"),
    (r"(?<![\w-])–(?![\w-])", "#"),  # an unknown value
    (r"\d[\d.]*(?: (?:ms|s)\b)?", "#"),
    (r"#K\b", "#"),
    (r"\s+", " "),
)


def shape(line: str) -> str:
    """Return ``line`` without what differs between two runs."""
    for pattern, replacement in MASKS:
        line = re.sub(pattern, replacement, line)
    return line.strip()


def shown() -> list[str]:
    """Return the lines of the output in README."""
    (block,) = re.findall(r"^```text\n(broker: .*?)^```", README, re.MULTILINE | re.DOTALL)
    return [line for line in block.splitlines() if line != "…"]


def test_two_lines_that_differ_in_numbers_have_one_shape() -> None:
    lines = [line for line in shown() if " offered " in line]
    assert len(lines) > 5
    assert {shape(line).replace("normal", "recovery").replace("stopped", "recovery") for line in lines} == {
        "# recovery depth # offered # published # processed # msg/s allowed # wait p# #"
    }


@pytest.mark.slow
def test_every_line_that_readme_shows_is_printed_by_a_run(tmp_path: Path) -> None:
    scenario = (ROOT / "backpressure" / "scenarios" / "recovery.toml").read_text("utf-8")
    for long, short in (("20", "7"), ("10", "5"), ("30", "9")):
        scenario = scenario.replace(f"duration_s = {long}\n", f"duration_s = {short}\n")
    (tmp_path / "recovery.toml").write_text(scenario, "utf-8")
    command = [sys.executable, "-m", "backpressure", "run", "recovery.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280)
    printed = {shape(line) for line in done.stdout.splitlines()}
    assert [line for line in shown() if shape(line) not in printed] == [], done.stdout
