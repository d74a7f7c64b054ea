"""How the results of other clients' test suites are compared."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def report() -> Any:
    return runpy.run_path(str(Path(__file__).parents[2] / "tools" / "peers" / "run.py"))["report"]


def test_a_test_that_passes_on_the_other_broker_only_is_named(report: Any, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = {"a": {"one": True, "two": False}}, {"a": {"one": True, "two": True, "three": True, "four": False}}
    assert report(here, there, names=["here", "there"]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{'a':24}{3:>24}{1:>16}",
        "fails here: a: two",
        "fails here: a: three",
    ]


def test_brokers_on_which_the_same_tests_pass_are_alike(report: Any) -> None:
    outcomes = {"a": {"one": True, "two": False}}
    assert report(outcomes, outcomes, names=["here", "there"]) == 0
