"""The package's public surface, as users import it."""

import subprocess
import sys
from pathlib import Path

import backpressure


def test_every_public_name_can_be_imported() -> None:
    missing = [name for name in backpressure.__all__ if not hasattr(backpressure, name)]
    assert missing == []


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    assert not hasattr(backpressure, "no_such_name")


def test_importing_the_package_loads_no_client_library() -> None:
    code = "import sys, backpressure; print([m for m in ('pika', 'fastapi', 'pydantic') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_surface_is_the_documented_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "library.md").read_text("utf-8")
    names = set(backpressure.__all__) - {"__version__"}
    assert {name for name in names if f"`{name}`" not in text} == set()
