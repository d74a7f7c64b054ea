"""Ranking laws: medians, the front, and how the oracle's figures are used."""

import pytest

from backpressure.experiments import library
from backpressure.experiments.analysis import summarise
from backpressure.experiments.comparison import oracle, rank
from backpressure.experiments.simulate import simulate
from backpressure.experiments.summary import Depth, MessageTotals, Percentiles, PhaseSummary, ProcessSummary, Summary

TOTALS = MessageTotals(
    offered=100,
    published=90,
    confirmed=90,
    rejected=0,
    returned=0,
    delivered=90,
    processed=90,
    redelivered=0,
    duplicates=0,
    out_of_order=0,
    lost=0,
    dead_lettered=0,
    dropped=0,
    left_in_queue=0,
)


def played(utilisation: float | None, p99_ms: float | None, *, settle_s: float | None = 1.0, **totals: int) -> Summary:
    waits = Percentiles(p50=p99_ms, p95=p99_ms, p99=p99_ms, max=p99_ms)
    phase = PhaseSummary(
        name="only",
        start_s=0,
        end_s=10,
        publish_rate=9,
        process_rate=9,
        utilisation=utilisation,
        wait_ms=waits,
        wait_bound_ms=None,
        depth_max=5,
        settle_s=settle_s,
        fairness_jain=None,
        reached=None,
    )
    return Summary(
        scenario="s",
        strategy="law",
        broker="b",
        broker_version="1",
        started_at="",
        duration_s=10,
        verdict="passed",
        expectations=[],
        totals=TOTALS.model_copy(update=totals),
        utilisation=utilisation,
        wait_ms=waits,
        end_to_end_ms=waits,
        confirm_ms=waits,
        signal_age_ms=Percentiles(),
        tick_lateness_ms=Percentiles(),
        depth=Depth(mean=3, max=5),
        fairness_jain=1.0,
        phases=[phase],
        processes=[ProcessSummary(role="producer", id="p", pid=1, cpu_s=2.0, rss_max_mb=50)],
    )


ORACLE = [played(1.0, 10.0)]


def test_a_law_is_on_the_front_unless_another_uses_more_and_waits_less() -> None:
    comparison = rank(
        "s", "b", {"good": [played(0.99, 50)], "fast": [played(0.9, 20)], "bad": [played(0.9, 60)]}, ORACLE
    )
    assert [(standing.law, standing.on_front) for standing in comparison.standings] == [
        ("fast", True),
        ("good", True),
        ("bad", False),
    ]


def test_two_laws_with_the_same_figures_are_both_on_the_front() -> None:
    comparison = rank("s", "b", {"a": [played(0.9, 20)], "b": [played(0.9, 20)]}, ORACLE)
    assert all(standing.on_front for standing in comparison.standings)


def test_figures_are_medians_and_counts_the_worst_of_all_runs() -> None:
    runs = [played(0.8, 30, rejected=0), played(0.9, 10, rejected=7), played(1.0, 20, rejected=2)]
    standing = rank("s", "b", {"law": runs}, ORACLE).standings[0]
    assert (standing.utilisation, standing.wait_p99_ms, standing.rejected) == (0.9, 20, 7)


def test_shares_of_the_achievable_are_against_the_oracle_of_the_same_scenario() -> None:
    standing = rank("s", "b", {"law": [played(0.98, 40)]}, [played(0.99, 10)]).standings[0]
    assert standing.of_achievable == round(0.98 / 0.99, 4)
    assert standing.wait_ratio == 4


def test_a_phase_that_never_settles_leaves_the_settle_time_unknown() -> None:
    assert rank("s", "b", {"law": [played(0.98, 40, settle_s=None)]}, ORACLE).standings[0].settle_s is None


def test_a_figure_that_one_run_lacks_is_not_made_up_from_the_others() -> None:
    standing = rank("s", "b", {"law": [played(0.98, 40), played(None, None)]}, ORACLE).standings[0]
    assert standing.utilisation is None
    assert standing.wait_p99_ms is None


def test_runs_of_different_scenarios_are_each_held_against_what_their_own_allows() -> None:
    own = {"easy": [played(1.0, 10.0)], "hard": [played(0.5, 100.0)]}
    runs = {"easy": [played(0.5, 40)], "hard": [played(0.4, 200)]}
    comparison = rank("s", "b", runs, [], own=own, oracle_note="they differ")
    assert {(s.law, s.of_achievable, s.wait_ratio) for s in comparison.standings} == {
        ("easy", 0.5, 4),
        ("hard", 0.8, 2),
    }
    assert (comparison.oracle.utilisation, comparison.oracle.lost, comparison.oracle.rejected) == (None, None, None)


def test_the_sentence_names_the_law_that_waits_least_of_those_that_use_the_capacity() -> None:
    runs = {"idle": [played(0.6, 1)], "slow": [played(1.0, 422)], "quick": [played(0.97, 30)]}
    assert rank("s", "b", runs, ORACLE).sentence == (
        "quick: 97.0 % of capacity at a fourteenth of the next law's p99 wait (30.0 ms; slow 422 ms); "
        "one run each, so repeat it (--repeat 3) before relying on it."
    )


@pytest.mark.parametrize(
    ("wait_ms", "part"),
    [
        (31, "about the next"), (45, "67 % of the next"), (60, "half of the next"), (90, "a third of the next"),
        (240, "an eighth of the next"), (600, "a twentieth of the next"), (3000, "1/100 of the next"),
    ],
)  # fmt: skip
def test_the_sentence_says_how_much_less_in_words(wait_ms: float, part: str) -> None:
    assert f"at {part} law's p99 wait" in rank("s", "b", {"a": [played(1, 30)], "b": [played(1, wait_ms)]}, []).sentence


def test_repeats_tell_how_sure_the_sentence_is() -> None:
    apart = {"a": [played(1, n) for n in (10, 12, 11)], "b": [played(1, n) for n in (40, 20, 30)]}
    comparison = rank("s", "b", apart, ORACLE)
    assert comparison.sentence.endswith(", in every one of 3 runs (by chance: 1 in 20).")
    assert comparison.standings[0].wait_p99_range == (10, 12)
    overlapping = {"a": [played(1, n) for n in (10, 12, 25)], "b": [played(1, n) for n in (40, 20, 30)]}
    assert "runs overlap, so this is not certain" in rank("s", "b", overlapping, ORACLE).sentence


def test_a_sentence_needs_what_it_compares() -> None:
    assert rank("s", "b", {"a": [played(None, None)]}, ORACLE).sentence == ""
    alone = rank("s", "b", {"a": [played(0.9, 30)]}, ORACLE).sentence
    assert alone == "a: 90.0 % of capacity at a p99 wait of 30.0 ms."
    worse = rank("s", "b", {"a": [played(0.9, 30)], "b": [played(0.5, 3)]}, ORACLE).sentence
    assert worse.startswith("a: 90.0 % of capacity at a p99 wait of 30.0 ms; b, the next, 50.0 % at 3.0 ms")


def test_no_law_uses_more_of_the_capacity_than_the_oracle() -> None:
    scenario = library.load("normal", ("phase.normal.duration_s=5",))
    summary = summarise(simulate(library.load("normal", ("phase.normal.duration_s=5",), "pace")))
    most = oracle(scenario).utilisation
    assert summary.utilisation is not None
    assert most is not None
    assert summary.utilisation <= most + 0.002  # a message more or less at the end
