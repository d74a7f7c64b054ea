"""What decided a verdict, in one sentence, from figures written by hand and from simulated runs."""

from __future__ import annotations

from typing import Any

import pytest

from backpressure.experiments import library
from backpressure.experiments.analysis import summarise
from backpressure.experiments.sentence import sentence
from backpressure.experiments.simulate import simulate
from backpressure.experiments.summary import (
    Depth,
    Held,
    MessageTotals,
    Percentiles,
    PhaseSummary,
    Summary,
    find_metric,
)

OPS = {"<=": "__le__", ">=": "__ge__", "==": "__eq__"}


def phase(name: str, start_s: float, end_s: float, **figures: Any) -> PhaseSummary:
    waits = {"wait_ms": Percentiles(p99=figures.pop("p99", 20.0)), "strategy": "unbounded"}
    unknown = dict.fromkeys(PhaseSummary.model_fields) | {"fault": ""}
    rates = {"publish_rate": 0.0, "process_rate": 0.0}
    return PhaseSummary(**(unknown | rates | waits | {"name": name, "start_s": start_s, "end_s": end_s} | figures))


def run(*expected: tuple[str, str, float], verdict: str = "failed", **figures: Any) -> Summary:
    """Return a run of 19 500 messages with these figures, whose expectations are checked against them."""
    totals = dict.fromkeys(MessageTotals.model_fields, 0) | {"offered": 19_500, "published": 19_500}
    values: dict[str, Any] = {
        "scenario": "surge",
        "strategy": "unbounded",
        "broker": "b",
        "broker_version": "1",
        "started_at": "",
        "duration_s": 30.0,
        "verdict": verdict,
        "expectations": [],
        "totals": MessageTotals(**(totals | figures.pop("totals", {}))),
        "depth": Depth(),
        "phases": [],
        "processes": [],
    }
    spreads = ("wait_ms", "end_to_end_ms", "confirm_ms", "signal_age_ms", "tick_lateness_ms")
    values |= {name: Percentiles() for name in spreads} | {"utilisation": None, "fairness_jain": None}
    summary = Summary(**(values | figures))
    dumped = summary.model_dump()
    checks = []
    for metric, op, limit in expected:
        value = find_metric(dumped, metric)
        held = value is not None and getattr(float(value), OPS[op])(float(limit))
        checks.append(Held(metric=metric, op=op, limit=limit, value=value, held=held))
    return summary.model_copy(update={"expectations": checks})


OVERLOADED = phase(
    "surge", 10, 20, p99=2517.0, capacity=100.0, offered_rate=900.0, publish_rate=147.7, refused=7523, depth_start=2
)
CALM = phase("calm", 0, 10, capacity=100.0, offered_rate=50.0, publish_rate=50.0, refused=0, depth_start=0)


def test_the_sentence_of_the_issue_is_made_from_figures() -> None:
    failed = run(
        ("wait_ms.p99", "<=", 300),
        ("discarded", "==", 0),
        wait_ms=Percentiles(p99=2517.0),
        totals={"rejected": 7523, "discarded": 7523, "refused": 7523},
        phases=[CALM, OVERLOADED],
    )
    assert sentence(failed) == (
        "failed: p99 wait 2 517 ms > 300 ms, all of it in phase surge: the consumers could do 100 msg/s of 900 offered "
        "and the law unbounded never slowed; 7 523 of 19 500 messages were refused and discarded"
    )


def test_what_was_discarded_is_explained_where_nothing_else_failed() -> None:
    failed = run(
        ("lost", "==", 0),
        ("discarded", "==", 0),
        totals={"rejected": 7523, "discarded": 7523, "refused": 7523, "lost": 0},
        phases=[CALM, OVERLOADED],
    )
    assert sentence(failed) == (
        "failed: 7 523 of 19 500 messages were refused and discarded, all of them in phase surge: the consumers could "
        "do 100 msg/s of 900 offered and the law unbounded never slowed"
    )


def test_a_wait_that_an_earlier_phase_left_behind_is_not_blamed_on_the_calm_after_it() -> None:
    after = phase("after", 20, 30, p99=9000.0, capacity=100.0, offered_rate=50.0, publish_rate=50.0, depth_start=900)
    failed = run(("phases.after.wait_ms.p99", "<=", 500), phases=[OVERLOADED, after])
    assert sentence(failed) == (
        "failed: p99 wait 9 000 ms > 500 ms in phase after: it began with 900 messages that phase surge had left "
        "waiting"
    )


def test_a_wait_over_several_phases_names_all_and_the_cause_in_the_first() -> None:
    after = phase("after", 20, 30, p99=9000.0)
    failed = run(("wait_ms.p99", "<=", 300), wait_ms=Percentiles(p99=8000.0), phases=[CALM, OVERLOADED, after])
    assert "in phases surge and after, first in surge: the consumers could do" in sentence(failed)


@pytest.mark.parametrize(
    ("figures", "cause"),
    [
        ({"capacity": 0.0, "offered_rate": 900.0, "publish_rate": 3.0}, "no consumer was at work, and 3 of 900 msg/s"),
        ({"capacity": 100.0, "offered_rate": 900.0, "publish_rate": 151.0}, "law aimd let 151 through"),
        (
            {"capacity": 100.0, "offered_rate": 900.0, "publish_rate": 100.0, "depth_max": 51},
            "and up to 51 messages waited",
        ),
        ({"capacity": 100.0, "offered_rate": 60.0, "publish_rate": 60.0}, "no more than 60 were offered"),
        ({"fault": "consumer-hang"}, "in phase only, under the fault consumer-hang"),
    ],
)
def test_the_cause_of_a_long_wait_is_what_the_figures_show(figures: dict[str, Any], cause: str) -> None:
    only = phase("only", 0, 10, p99=900.0, **({"strategy": "aimd"} | figures))
    assert cause in sentence(run(("phases.only.wait_ms.p99", "<=", 300), phases=[only]))


def test_unknown_figures_give_no_cause_rather_than_a_guess() -> None:
    only = phase("only", 0, 10, p99=900.0)
    told = sentence(run(("phases.only.wait_ms.p99", "<=", 300), phases=[only]))
    assert told == "failed: p99 wait 900 ms > 300 ms in phase only"


@pytest.mark.parametrize(
    ("expected", "figures", "told"),
    [
        (("lost", "==", 0), {"totals": {"lost": 12}}, "12 of 19 500 messages were lost"),
        (("utilisation", ">=", 0.8), {"utilisation": 0.62}, "capacity used 62 % < 80 %"),
        (("utilisation", ">=", 0.8), {}, "capacity used was not measured (>= 0.8 was expected)"),
        (("duplicates", "==", 0), {"totals": {"duplicates": 5}}, "duplicates 5, expected 0"),
        (("depth.max", "<=", 100), {"depth": Depth(max=12_000)}, "deepest queue 12 000 > 100"),
        (
            ("confirm_ms.max", "<=", 10),
            {"confirm_ms": Percentiles(max=11.5)},
            "longest publish to confirm 11.5 ms > 10 ms",
        ),
    ],
)
def test_every_kind_of_expectation_says_figure_and_limit(
    expected: tuple[str, str, float], figures: dict[str, Any], told: str
) -> None:
    assert sentence(run(expected, **figures)) == f"failed: {told}"


def test_capacity_that_a_law_left_unused_is_told_from_consumers_that_were_too_slow() -> None:
    held_back = phase("only", 0, 10, utilisation=0.6, capacity=100.0, publish_rate=62.0, process_rate=60.0)
    slow = held_back.model_copy(update={"publish_rate": 100.0})
    held, late = (sentence(run(("utilisation", ">=", 0.8), utilisation=0.6, phases=[p])) for p in (held_back, slow))
    assert "the law unbounded let only 62 msg/s through where the consumers could do 100" in held
    assert "the consumers did 60 of the 100 msg/s they should manage" in late


def test_a_long_list_of_failures_is_cut_but_counted() -> None:
    expected = [("duplicates", "==", float(n)) for n in range(1, 6)]
    assert sentence(run(*expected)).endswith("; 2 more expectations did not hold")


def test_a_passed_run_says_how_well_and_what_was_closest_to_its_limit() -> None:
    passed = run(
        ("lost", "==", 0),
        ("wait_ms.p99", "<=", 300),
        ("utilisation", ">=", 0.5),
        verdict="passed",
        utilisation=0.985,
        wait_ms=Percentiles(p99=200.0, max=250.0, count=19_000),
        totals={"refused": 3},
    )
    assert sentence(passed) == (
        "passed: p99 wait 200 ms, longest 250 ms, over 19 000 messages; 98.5 % of the capacity used while more was "
        "offered; nothing lost or discarded, 3 times refused and sent again; closest to its limit: p99 wait 200 ms "
        "(≤ 300 ms)"
    )


def test_discarded_work_is_never_hidden_behind_a_passed_verdict() -> None:
    passed = run(("lost", "==", 0), verdict="passed", totals={"dropped": 2, "discarded": 2})
    assert sentence(passed) == (
        "passed: nothing lost, but 2 of 19 500 messages were dropped by the queue's bound or a time-to-live"
    )


def test_a_run_that_did_not_finish_says_when_where_and_why() -> None:
    unfinished = run(verdict="interrupted", phases=[OVERLOADED], duration_s=12.34)
    assert sentence(unfinished) == "interrupted after 12.3 s in phase surge"
    broken = run(verdict="error", phases=[OVERLOADED], duration_s=12.34)
    assert sentence(broken, "consumer-1 died\nits last words") == "error after 12.3 s in phase surge: consumer-1 died"
    cut = "consumer-1 was killed by signal 9; its last output:\n  ready"
    assert sentence(broken, cut) == "error after 12.3 s in phase surge: consumer-1 was killed by signal 9"


@pytest.mark.parametrize(
    ("name", "law", "told"),
    [
        (
            "burst",
            "unbounded",
            "in phase burst: the consumers could do 100 msg/s of 991 offered and the law unbounded never",
        ),
        ("burst", "pace", "nothing lost or discarded"),
        ("recovery", "unbounded", "of 59 895 messages were refused and discarded"),
    ],
)
def test_simulated_runs_explain_themselves(name: str, law: str, told: str) -> None:
    assert told in summarise(simulate(library.load(name, (), law))).sentence


KILLED = phase("kill", 10, 20, fault="consumer-kill")
CUT = phase("cut", 30, 40, fault="partition")


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ({"before": 3}, "last seen in phase before; which of the faults consumer-kill in phase kill and partition in"),
        ({"kill": 3}, "last seen in phase kill; which of the faults consumer-kill in phase kill and partition in"),
        ({"between": 3}, "last seen in phase between; the only fault since then is partition in phase cut"),
        ({"cut": 3}, "last seen in phase cut, under the fault partition"),
        ({"between": 1, "cut": 2}, "last seen in phases between and cut; the only fault since then is partition in"),
        ({"after": 3}, "last seen in phase after, after the last fault"),
        (
            None,
            "were lost; which of the faults consumer-kill in phase kill and partition in phase cut lost them cannot",
        ),
    ],
)
def test_a_loss_is_not_blamed_on_a_fault_that_was_over_when_the_messages_were_last_seen(
    lost: dict[str, int] | None, told: str
) -> None:
    phases = [phase("before", 0, 10), KILLED, phase("between", 20, 30), CUT, phase("after", 40, 50)]
    phases = [one.model_copy(update={"lost": None if lost is None else lost.get(one.name, 0)}) for one in phases]
    failed = run(("lost", "==", 0), totals={"lost": 3}, phases=phases)
    assert "3 of 19 500 messages were lost" in sentence(failed)
    assert told in sentence(failed)


def test_a_loss_without_a_fault_names_the_phase_alone() -> None:
    failed = run(("lost", "==", 0), totals={"lost": 3}, phases=[CALM, OVERLOADED.model_copy(update={"lost": 3})])
    assert sentence(failed).endswith("3 of 19 500 messages were lost")
    phases = [CALM.model_copy(update={"lost": 0}), OVERLOADED.model_copy(update={"lost": 3})]
    assert sentence(failed.model_copy(update={"phases": phases})).endswith("were lost, last seen in phase surge")
