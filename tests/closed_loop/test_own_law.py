"""The example law of docs/laws.md is what the page says: short, found by its dotted path, able to hold a queue."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from backpressure.core.controllers import LAWS, describe
from backpressure.testing import CONFORMANCE

PAGE = (Path(__file__).parents[2] / "docs" / "laws.md").read_text(encoding="utf-8")


def test_the_example_of_the_page_runs_and_holds_the_queue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    law, program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(law.splitlines()) < 30
    module = ModuleType("my_laws")
    exec(compile(law, "docs/laws.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "my_laws", module)
    exec(compile(program, "docs/laws.md", "exec"), {})
    used, deepest = re.fullmatch(r"([\d.]+) of capacity, deepest (\d+)\n", capsys.readouterr().out).groups()  # type: ignore[union-attr]  # no match is a failure
    assert float(used) >= 0.9
    assert int(deepest) <= 60


def test_the_law_of_the_page_passes_the_test_kit_of_the_page(pytester: pytest.Pytester) -> None:
    law, _program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    [kit] = re.findall(r"```text\n# test_my_laws.py\n(.*?)```", PAGE, re.DOTALL)
    pytester.makepyfile(my_laws=law, test_my_laws=kit)
    pytester.syspathinsert()
    outcome = pytester.runpytest("-p", "no:cacheprovider")
    outcome.assert_outcomes(passed=len(CONFORMANCE) + 1)


@pytest.mark.parametrize("name", LAWS)
def test_the_page_lists_every_law_and_every_parameter(name: str) -> None:
    assert f"`{name}`" in PAGE
    for parameter in describe(name).parameters:
        assert f"`{parameter.name}`" in PAGE
