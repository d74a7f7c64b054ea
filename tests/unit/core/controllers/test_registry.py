"""Finding, building and describing laws."""

from __future__ import annotations

import sys
from math import inf
from pathlib import Path
from types import ModuleType

import pytest

from backpressure.core.controllers import (
    LAWS,
    LawConfig,
    LawTraits,
    create,
    describe,
    limit_of,
    traits,
    traits_of,
)
from backpressure.core.signals import Decision, Law, Signals
from backpressure.errors import ConfigError


class HalfLaw:
    """Half of what is offered."""

    def __init__(self, config: LawConfig) -> None:
        self.config = config

    def update(self, signals: Signals, now: float) -> Decision:
        return Decision(signals.demand_per_s / 2, "half")


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("laws_of_a_user")
    module.FixedLaw = FixedLaw  # type: ignore[attr-defined]  # a module made on the spot
    module.HalfLaw = HalfLaw  # type: ignore[attr-defined]  # a module made on the spot
    module.not_a_law = lambda config: object()  # type: ignore[attr-defined]
    module.fails = lambda config: 1 / 0  # type: ignore[attr-defined]
    module.leaves = lambda config: sys.exit(1)  # type: ignore[attr-defined]
    module.number = 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


def test_the_laws_are_listed_from_no_control_to_ours() -> None:
    assert LAWS == (
        "unbounded", "bounded", "rate_limited", "threshold", "aimd", "vegas", "gradient2", "pid", "pace",
    )  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_every_law_is_built_by_name_and_describes_itself_in_one_line(name: str) -> None:
    assert isinstance(create(name), Law)
    description = describe(name)
    assert description.name == name
    assert description.summary.endswith(".")
    for parameter in description.parameters:
        assert parameter.minimum <= parameter.default <= parameter.maximum
        assert parameter.meaning


@pytest.mark.parametrize("name", LAWS)
def test_every_law_states_formula_regimes_parameters_and_source(name: str) -> None:
    text = type(create(name)).__doc__ or ""
    assert all(word in text for word in ("Formula", "Regimes", "Parameters", "Source"))
    assert all(f"``{parameter.name}``" in text for parameter in describe(name).parameters)


def test_an_unknown_law_is_refused_with_all_known_names() -> None:
    with pytest.raises(ConfigError, match=r"producer\.strategy = 'pase'.*unbounded, bounded.*pace, or package\.module"):
        create("pase")


def test_an_unknown_parameter_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"control\.parameters\.aimd\.backof = 0\.9.*backoff, timeout_s"):
        create("aimd", LawConfig(parameters={"backof": 0.9}))


def test_a_law_without_parameters_says_so() -> None:
    with pytest.raises(ConfigError, match="unbounded has no parameters at all"):
        create("unbounded", LawConfig(parameters={"gain": 1.0}))


@pytest.mark.parametrize("value", [1.5, float("nan")])
def test_a_parameter_out_of_range_is_refused_with_its_range(value: float) -> None:
    with pytest.raises(ConfigError, match=r"control\.parameters\.aimd\.backoff = .*expected 0\.5 … 0\.999"):
        create("aimd", LawConfig(parameters={"backoff": value}))


def test_a_dotted_path_builds_a_law_of_the_users_own(own_module: str) -> None:
    law = create(f"{own_module}:HalfLaw", LawConfig(parameters={"anything": 1.0}))
    assert law.update(Signals(demand_per_s=80.0), 0.0) == Decision(40.0, "half")
    assert describe(f"{own_module}:HalfLaw").summary == "Half of what is offered."


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("no_such_module_anywhere:Law", "cannot be imported"),
        ("laws_of_a_user:NoSuchLaw", "cannot be imported"),
        (":Law", "cannot be imported"),
        (".a:b", "cannot be imported: TypeError"),
        ("builtins:list", "cannot be built: TypeError"),
        ("laws_of_a_user:fails", "cannot be built: ZeroDivisionError"),
        ("laws_of_a_user:leaves", "cannot be built: SystemExit"),
        ("laws_of_a_user:number", "expected a class or function"),
        ("laws_of_a_user:not_a_law", "no method update"),
    ],
)
def test_a_dotted_path_that_leads_to_no_law_is_refused(own_module: str, path: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        create(path)


def test_a_module_that_ends_the_process_when_it_is_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "law_that_leaves.py").write_text("raise SystemExit('bye')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be imported: SystemExit: bye"):
        create("law_that_leaves:Law")


class FixedLaw:
    """Twenty a second, whatever happens."""

    TRAITS = LawTraits(adapts=False, retries=False)
    limit_per_s = 20.0

    def __init__(self, config: LawConfig) -> None:
        self.config = config

    def update(self, signals: Signals, now: float) -> Decision:
        return Decision(20.0, "fixed")


def test_a_law_says_about_itself_whether_it_adapts_what_it_decides_at_most_and_whether_refusals_are_retried() -> None:
    fixed, half = FixedLaw(LawConfig()), HalfLaw(LawConfig())
    assert (traits_of(fixed), limit_of(fixed)) == (LawTraits(adapts=False, retries=False), 20.0)
    assert (traits_of(half), limit_of(half)) == (LawTraits(), inf)
    rated = create("rate_limited", LawConfig(parameters={"rate_per_s": 7}))
    assert (limit_of(rated), traits_of(rated).adapts) == (7.0, False)


def test_the_laws_that_ship_adapt_or_are_the_three_modes_of_the_classic_lab() -> None:
    assert [name for name in LAWS if not traits(name).adapts] == ["unbounded", "bounded", "rate_limited"]
    assert [name for name in LAWS if not traits(name).retries] == ["unbounded", "bounded", "rate_limited"]
    assert [name for name in LAWS if traits(name).queue_bound != "as set"] == ["unbounded", "bounded"]


def test_traits_are_known_without_importing_a_users_own_law(own_module: str) -> None:
    assert traits("no_such_module_anywhere:Law") == LawTraits()
    assert describe(f"{own_module}:FixedLaw").traits == FixedLaw.TRAITS
