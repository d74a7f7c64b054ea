"""docs/reliability.md: every promise names a test, and every named test exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
ROWS = re.findall(r"^\| (?!promise|---)(.+?) \| (.+?) \|$", PAGE.partition("## Soak")[0], re.MULTILINE)


def test_there_are_promises() -> None:
    assert len(ROWS) > 30


@pytest.mark.parametrize(("promise", "shown_by"), ROWS)
def test_every_promise_names_a_test_that_exists(promise: str, shown_by: str) -> None:
    named = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", shown_by)
    assert named is not None, f"{promise}: {shown_by}"
    assert re.search(rf"^def {named[2]}\(", (ROOT / named[1]).read_text("utf-8"), re.MULTILINE), shown_by
