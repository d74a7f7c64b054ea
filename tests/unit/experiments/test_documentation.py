"""The documents match the code: every figure is defined, the example is a scenario, no included one is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from backpressure.experiments.document import parse
from backpressure.experiments.library import shipped
from backpressure.experiments.scenario import build
from backpressure.experiments.summary import (
    Depth,
    Held,
    MessageTotals,
    Percentiles,
    PhaseSummary,
    ProcessSummary,
    Summary,
)

DOCS = Path(__file__).parents[3] / "docs"


def fields() -> Iterator[str]:
    models: list[type[BaseModel]] = [Depth, Held, Percentiles, PhaseSummary, ProcessSummary, Summary, MessageTotals]
    for model in models:
        yield from model.model_fields


@pytest.mark.parametrize("name", sorted(set(fields())))
def test_every_name_in_a_summary_is_documented(name: str) -> None:
    assert f"`{name}`" in (DOCS / "summary.md").read_text()


def test_the_example_is_a_scenario() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", (DOCS / "scenarios.md").read_text(), re.DOTALL)
    scenario = build(parse(example, "example"), "example")
    assert [phase.name for phase in scenario.phases] == ["before", "break", "after"]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_scenario_is_documented(name: str) -> None:
    assert f"| `{name}` |" in (DOCS / "scenarios.md").read_text()
