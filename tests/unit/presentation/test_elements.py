"""What the pages share of their scripts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import backpressure
from backpressure.presentation import SHARED

PACKAGE = Path(backpressure.__file__).parent
SCRIPTS = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.js"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports_what_it_uses_of_the_shared_elements(name: str) -> None:
    """A browser finds a missing import only when the line is reached."""
    exported = re.findall(r"^export const (\w+)", SHARED["elements.js"].read_text(encoding="utf-8"), re.MULTILINE)
    assert "make" in exported
    script = (PACKAGE / name).read_text(encoding="utf-8")
    imported = set(re.findall(r"\w+", " ".join(re.findall(r"^import \{([^}]*)\}", script, re.MULTILINE))))
    own = set(re.findall(r"(?:const|let|function) (\w+)", script))
    used = {function for function in exported if re.search(rf"(?<![\w.]){function}\(", script)}
    assert used <= imported | own
