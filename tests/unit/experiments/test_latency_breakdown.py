"""The breakdown of the wait: parts that add up, in any order of confirm and delivery, and a fair sample."""

from __future__ import annotations

import pytest

from backpressure.core.journal import ConsumerRecord, Outcome, ProducerRecord
from backpressure.experiments.accounts import PARTS, LatencyBreakdown
from backpressure.experiments.report.sections import latency_breakdown

MS = 1_000_000


def produced(sequence: int, confirmed_ms: int) -> ProducerRecord:
    return ProducerRecord(1, sequence, Outcome.CONFIRMED, 100 * MS, 110 * MS, confirmed_ms * MS)


def consumed(sequence: int, *, work_ms: int = 40) -> ConsumerRecord:
    intended, sent, received, started = 100 * MS, 110 * MS, 130 * MS, 160 * MS
    return ConsumerRecord(1, sequence, Outcome.PROCESSED, intended, sent, received, started, started + work_ms * MS)


@pytest.mark.parametrize(
    ("confirmed_ms", "parts"),
    [
        (115, (10, 5, 15, 30, 40)),
        (150, (10, 20, 0, 30, 40)),  # delivered before the producer heard that it was taken
        (None, (10, 20, 0, 30, 40)),  # its producer was killed
    ],
)
def test_the_parts_follow_one_another_and_add_up(confirmed_ms: int | None, parts: tuple[float, ...]) -> None:
    breakdown = LatencyBreakdown()
    breakdown.processed(consumed(7))
    if confirmed_ms is not None:
        breakdown.confirmed(produced(7, confirmed_ms))
    [band] = breakdown.bands()
    assert band.parts_ms == parts
    assert band.total_ms == 100


def test_bands_go_from_the_fastest_messages_to_the_slowest() -> None:
    breakdown = LatencyBreakdown()
    for sequence in range(1, 101):
        breakdown.processed(consumed(sequence, work_ms=sequence))
    bands = breakdown.bands()
    assert [band.messages for band in bands] == [50, 25, 15, 5, 4, 1]
    assert (bands[0].parts_ms[-1], bands[-1].parts_ms[-1]) == (25.5, 100)
    assert (bands[-1].lower, bands[-1].upper) == (0.99, 1.0)


def test_of_duplicates_the_first_counts_and_messages_of_strangers_do_not() -> None:
    breakdown = LatencyBreakdown()
    breakdown.processed(consumed(1, work_ms=5))
    breakdown.processed(consumed(1, work_ms=50))
    breakdown.processed(ConsumerRecord(1, 2, Outcome.PROCESSED, 0, 0, 1, 2, 3))
    [band] = breakdown.bands()
    assert (band.messages, band.parts_ms[-1]) == (1, 5)


def test_a_sample_takes_the_same_messages_at_both_ends_and_about_its_share() -> None:
    breakdown = LatencyBreakdown(0.1)
    for sequence in range(1, 10_001):
        breakdown.processed(consumed(sequence))
        breakdown.confirmed(produced(sequence, 115))
    bands = breakdown.bands()
    assert 900 <= sum(band.messages for band in bands) <= 1100
    assert all(band.parts_ms == (10, 5, 15, 30, 40) for band in bands)


def test_the_report_draws_a_bar_for_each_band_and_names_every_part() -> None:
    breakdown = LatencyBreakdown()
    for sequence in range(1, 101):
        breakdown.processed(consumed(sequence, work_ms=sequence))
    page = latency_breakdown(breakdown.bands())
    assert page.count("<tr>") == 1 + 6
    assert all(part in page for part in PARTS)
    assert 'title="worked on: 100\u202fms"' in page
    assert "No message" in latency_breakdown([])
