"""What a report shows, apart from its looks."""

from __future__ import annotations

from backpressure.experiments.recording import Sample
from backpressure.experiments.report import thinned
from backpressure.experiments.report.comparison_page import side_by_side
from backpressure.experiments.report.sections import expectations, header
from backpressure.experiments.summary import Depth, Held, MessageTotals, Percentiles, Summary, Verdict


def test_thinning_keeps_every_peak_of_the_queue() -> None:
    samples = [Sample(t_s=n, ready=1_000 if n == 777 else 1) for n in range(10_000)]
    kept = thinned(samples, most=100)
    assert len(kept) == 100
    assert max(sample.depth or 0 for sample in kept) == 1_000


def test_few_samples_are_kept_as_they_are() -> None:
    samples = [Sample(t_s=n) for n in range(3)]
    assert thinned(samples, most=100) == samples
    assert thinned([], most=100) == []


def summary(verdict: Verdict, *held: bool) -> Summary:
    return Summary(
        scenario="s",
        strategy="pace",
        broker="b",
        broker_version="1",
        started_at="2026-01-01T00:00:00+00:00",
        duration_s=1.5,
        verdict=verdict,
        expectations=[Held(metric="lost", op="==", limit=0, value=float(not ok), held=ok) for ok in held],
        totals=MessageTotals(**dict.fromkeys(MessageTotals.model_fields, 0)),
        utilisation=None,
        wait_ms=Percentiles(),
        end_to_end_ms=Percentiles(),
        confirm_ms=Percentiles(),
        signal_age_ms=Percentiles(),
        tick_lateness_ms=Percentiles(),
        depth=Depth(),
        fairness_jain=None,
        phases=[],
        processes=[],
    )


def test_no_check_mark_stands_at_none_lost_while_messages_were_refused_or_dropped() -> None:
    clean = summary("passed", True)
    discarding = clean.model_copy(update={"totals": clean.totals.model_copy(update={"rejected": 7523, "dropped": 2})})
    for run, sign in ((clean, "✔"), (discarding, "▲")):
        for page in (expectations(run), side_by_side({"run": run})):
            assert f"{sign} held" in page or f">{sign}</span>" in page
    for page in (expectations(discarding), side_by_side({"run": discarding})):
        assert "✔" not in page
        assert "0 (7\u2009523 rejected, 2 dropped)" in page


def test_a_simulated_run_shows_no_date() -> None:
    simulated = summary("passed").model_copy(update={"started_at": "", "broker_version": ""})
    assert "UTC" not in header(simulated, "a sentence")
    assert "UTC" in header(summary("passed"), "a sentence")
