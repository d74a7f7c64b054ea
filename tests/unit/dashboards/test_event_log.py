"""What a monitor without a screen logs: each event once, and sources that have not answered."""

from __future__ import annotations

import logging

from backpressure.core.snapshot import Event, EventKind, Source
from backpressure.dashboards.lines import EventLines

APPEARED = Event(1, EventKind.APPEARED, "producer \x1balice appeared")
BLOCKED = Event(2, EventKind.BLOCKED, "the broker blocks alice")


def test_each_event_is_reported_once_and_a_bad_one_is_a_warning() -> None:
    lines = EventLines()
    assert list(lines.of([APPEARED], [])) == [(logging.INFO, "producer ·alice appeared")]
    assert list(lines.of([APPEARED, BLOCKED], [])) == [(logging.WARNING, "the broker blocks alice")]
    assert list(lines.of([APPEARED, BLOCKED], [])) == []


def test_events_of_one_moment_are_all_reported() -> None:
    both = [Event(3, EventKind.APPEARED, name) for name in ("alice", "bob")]
    assert [text for _, text in EventLines().of(both, [])] == ["alice", "bob"]


def test_a_source_that_never_answered_is_reported_with_each_reason_and_one_that_did_is_left_to_events() -> None:
    lines = EventLines()

    def told(*sources: Source) -> list[str]:
        return [text for _, text in lines.of([], sources)]

    assert told(Source("broker", ok=False, error="connecting")) == []
    refused = Source("management", ok=False, error="401 not authorised")
    assert told(refused) == ["management: 401 not authorised"]
    assert told(refused) == []
    assert told(Source("management", ok=False, error="timed out")) == ["management: timed out"]
    assert told(Source("management", ok=True)) == []
    assert told(refused) == []
