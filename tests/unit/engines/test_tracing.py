"""What the engines report to a tracer, and what travels with the message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from stage import RecordingBroker, consuming, foreign, ours, producing, put, settings_of, until
from virtual_time import run_virtually

from backpressure.core.message import Delivery, Message, Metadata

PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


@dataclass
class Span:
    """What was said about one span."""

    begun_ns: int
    about: Message
    traceparent: str = PARENT
    parent: str | None = None
    ends: list[tuple[Any, ...]] = field(default_factory=list)

    def end(self, at_ns: int, *rest: Any) -> None:
        assert at_ns >= self.begun_ns
        self.ends.append(rest)


class Notebook:
    """A tracer that writes everything down."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def sending(self, message: Message, at_ns: int) -> Span:
        self.spans.append(Span(at_ns, message))
        return self.spans[-1]

    @contextmanager
    def processing(self, delivery: Delivery, metadata: Metadata, at_ns: int) -> Iterator[Span]:
        self.spans.append(Span(at_ns, delivery.message, parent=metadata.traceparent))
        yield self.spans[-1]


def test_a_message_carries_its_span_which_ends_with_the_confirm() -> None:
    async def story() -> tuple[RecordingBroker, Notebook]:
        broker, notebook = RecordingBroker(), Notebook()
        settings = settings_of(producer__strategy="unbounded", producer__limit=3)
        async with producing(settings, broker, tracer=notebook) as (_, running):
            await running
        return broker, notebook

    broker, notebook = run_virtually(story())
    assert [Metadata.read(arrival.message).traceparent for arrival in broker.arrivals] == [PARENT] * 3
    assert [span.about.message_id for span in notebook.spans] == [arrival.id for arrival in broker.arrivals]
    assert [span.ends for span in notebook.spans] == [[("",)]] * 3


def test_without_a_tracer_no_header_is_added() -> None:
    async def story() -> RecordingBroker:
        broker = RecordingBroker()
        async with producing(settings_of(producer__limit=1), broker) as (_, running):
            await running
        return broker

    assert "traceparent" not in run_virtually(story()).arrivals[0].message.headers


@pytest.mark.parametrize("given_id", ["order-1", None])
def test_a_requested_message_is_sent_under_the_trace_it_was_asked_for_in(given_id: str | None) -> None:
    above = PARENT.replace("0123", "4567")

    async def story() -> tuple[RecordingBroker, Notebook]:
        broker, notebook = RecordingBroker(), Notebook()
        settings = settings_of(producer__start_paused=True)
        async with producing(settings, broker, tracer=notebook) as (engine, _):
            await engine.submit([(given_id, b"x", None)], traceparent=above)
        return broker, notebook

    broker, notebook = run_virtually(story())
    [span], [arrival] = notebook.spans, broker.arrivals
    assert span.about.headers["traceparent"] == above
    assert arrival.message.headers["traceparent"] == PARENT


def test_a_message_that_is_refused_and_sent_again_has_one_span() -> None:
    async def story() -> tuple[RecordingBroker, Notebook]:
        broker, notebook = RecordingBroker(), Notebook()
        settings = settings_of(
            queue__max_length=2, producer__strategy="aimd", producer__limit=3, producer__drain_timeout_s=1
        )
        async with producing(settings, broker, tracer=notebook):
            await until(lambda: len(broker.arrivals) > 6)
        return broker, notebook

    broker, notebook = run_virtually(story())
    assert [span.about.message_id for span in notebook.spans] == list(dict.fromkeys(a.id for a in broker.arrivals))
    assert [span.ends for span in notebook.spans[:2]] == [[("",)]] * 2
    assert [bool(reason) for ((reason,),) in (span.ends for span in notebook.spans[2:])] == [True]


def test_a_rejected_message_ends_its_span_with_the_reason() -> None:
    async def story() -> Notebook:
        broker, notebook = RecordingBroker(), Notebook()
        settings = settings_of(queue__max_length=1, producer__strategy="bounded", producer__limit=2)
        async with producing(settings, broker, tracer=notebook) as (_, running):
            await running
        return notebook

    assert [span.ends for span in run_virtually(story()).spans] == [[("",)], [("the queue is full",)]]


@pytest.mark.parametrize("traceparent", [PARENT, None])
def test_work_is_a_span_under_the_one_in_the_header_and_knows_the_queue_wait(traceparent: str | None) -> None:
    async def story() -> tuple[Notebook, float]:
        broker, notebook = RecordingBroker(), Notebook()
        settings = settings_of(consumer__expect=1)
        await put(broker, settings, ours(0, sent_ns=1, traceparent=traceparent))
        async with consuming(settings, broker, tracer=notebook) as (engine, running):
            await running
            return notebook, engine.tally.queue_wait.sum_s

    notebook, waited_s = run_virtually(story())
    [span] = notebook.spans
    assert span.parent == traceparent
    [(wait_s, attempt, failure)] = span.ends
    assert wait_s == pytest.approx(waited_s)
    assert (attempt, failure) == (1, None)


def test_each_attempt_is_a_span_of_its_own_and_a_foreign_message_has_no_wait() -> None:
    async def fail(*_: object) -> None:
        raise ValueError("no")

    async def story() -> Notebook:
        broker, notebook = RecordingBroker(), Notebook()
        settings = settings_of(consumer__expect=1, retry__max_attempts=2)
        await put(broker, settings, foreign("x"))
        async with consuming(settings, broker, tracer=notebook, handler=fail) as (_, running):
            await running
        return notebook

    ends = [span.ends for span in run_virtually(story()).spans]
    assert [[(wait, attempt, str(failure)) for wait, attempt, failure in end] for end in ends] == [
        [(None, 1, "no")],
        [(None, 2, "no")],
    ]
