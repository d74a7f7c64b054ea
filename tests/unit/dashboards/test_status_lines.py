"""The monitor where there is no terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from backpressure.core.snapshot import Event, EventKind, Snapshot, Source
from backpressure.dashboards.lines import StatusLines

Make = Callable[..., Snapshot]


def test_a_line_says_how_the_loop_is(snapshot: Make) -> None:
    (line,) = StatusLines().of(snapshot(events=()))
    assert line.endswith(" work.queue depth=45 (5 unacked) in=101/s out=98/s allowed=100/s wait_p99=120 ms")


def test_each_event_is_reported_once(snapshot: Make) -> None:
    lines = StatusLines()
    first = Event(1, EventKind.BLOCKED, "the broker blocks alice")
    second = Event(2, EventKind.UNBLOCKED, "alice may publish again")
    assert [line.split(" ", 1)[1] for line in lines.of(snapshot(events=(first,)))][:-1] == [first.text]
    assert [line.split(" ", 1)[1] for line in lines.of(snapshot(events=(first, second)))][:-1] == [second.text]


def test_a_missing_broker_or_queue_is_said_instead(snapshot: Make) -> None:
    lines = StatusLines()
    (away,) = lines.of(snapshot(events=(), sources=(Source("broker", ok=False, error="connecting"),)))
    (empty,) = lines.of(snapshot(events=(), queues={}))
    assert away.endswith("waiting for amqp://lab:5672")
    (refused,) = StatusLines().of(snapshot(sources=(Source("broker", ok=False, refused=True),), events=()))
    assert refused.endswith("refused by amqp://lab:5672")
    assert empty.endswith("work.queue does not exist yet")


def test_queues_of_others_are_told_with_what_is_absent(strangers: Make) -> None:
    (line,) = StatusLines().of(replace(strangers(absent={"x*": "no queue matches"}), events=()))
    told = "orders depth=450 in=100/s out=100/s wait=about 4.5 s steady consumers=1; x*: no queue matches"
    assert line.endswith(told)
