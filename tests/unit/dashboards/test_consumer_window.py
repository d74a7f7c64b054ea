"""What the consumer sends to its window (the latest messages, in few bytes), and the message without Tk."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from backpressure.core.journal import Outcome
from backpressure.core.message import Delivery, Message, Metadata
from backpressure.dashboards import window
from backpressure.dashboards.consumer_window import MessageFeed, WindowLink
from backpressure.engines.clock import Clock
from backpressure.engines.consumer import ConsumerEngine
from backpressure.engines.tally import Consumed
from backpressure.settings import Settings
from backpressure.transports.memory import MemoryBroker, MemoryTransport


def consumed(body: bytes = b"hello", wait_s: float | None = 0.0125, **metadata: object) -> Consumed:
    delivery = Delivery(Message(body), tag=1, epoch=1, redelivered=False)
    return Consumed(delivery, Metadata(**metadata), Outcome.PROCESSED, wait_s, 0.01)  # type: ignore[arg-type]  # as given


@pytest.fixture
def kept_interrupt() -> Iterator[None]:
    """The window's program ignores Ctrl-C; the test's does not."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_message_shows_its_sender_its_age_and_its_body() -> None:
    feed = MessageFeed()
    feed.add(consumed(producer_id="alice", sequence=42))
    (row,) = feed.take()
    assert row[1:] == ("processed", "alice", "42", "12.5 ms", "hello")


def test_what_a_stranger_did_not_tell_is_unknown() -> None:
    feed = MessageFeed()
    feed.add(consumed(wait_s=None))
    (row,) = feed.take()
    assert row[1:] == ("processed", "unknown", "–", "–", "hello")


def test_of_a_large_body_only_the_beginning_is_shown_and_nothing_in_it_is_obeyed() -> None:
    feed = MessageFeed()
    feed.add(consumed(b"\x1b[2J\xff" + b"x" * 1_000_000, producer_id="\x07mallory"))
    (row,) = feed.take()
    assert row[2] == "·mallory"
    assert row[5].startswith("·[2J\N{REPLACEMENT CHARACTER}xxx")
    assert row[5].endswith("… (1000005 bytes)")
    assert len(row[5]) < 200


def test_of_very_many_messages_the_latest_are_kept_and_each_is_handed_over_once() -> None:
    feed = MessageFeed()
    for sequence in range(10_000):
        feed.add(consumed(sequence=sequence))
    rows = feed.take()
    assert [row[3] for row in rows] == [str(n) for n in range(10_000 - window.MOST_ROWS, 10_000)]
    assert feed.take() == []


@pytest.mark.usefixtures("kept_interrupt")
def test_without_tk_the_window_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    asked = io.StringIO()
    assert window.main(io.StringIO(), asked) == 3
    assert "python3-tk" in json.loads(asked.getvalue())["failed"]


class Pipe:
    """The window's end of its input."""

    def __init__(self) -> None:
        self.updates: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.transport = self
        self.waiting_bytes = 0

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.updates.put_nowait(json.loads(data))


def idle_consumer() -> ConsumerEngine:
    return ConsumerEngine(MemoryTransport(Settings(), MemoryBroker()), Settings(), Clock())


async def asked_for(engine: ConsumerEngine, *requests: dict[str, Any]) -> dict[str, Any]:
    """Let the window ask for ``requests`` and return the next update it gets."""
    asked, pipe = asyncio.StreamReader(), Pipe()
    link = WindowLink(engine, MessageFeed(), pipe, asked)  # type: ignore[arg-type]  # the part of a stream it uses
    for request in requests:
        asked.feed_data(json.dumps(request).encode() + b"\n")
    obeying = asyncio.create_task(link.obey())
    showing = asyncio.create_task(link.show())
    update = await pipe.updates.get()
    obeying.cancel()
    showing.cancel()
    await asyncio.gather(obeying, showing, return_exceptions=True)
    return update


def test_the_consumer_does_what_the_window_asks_for() -> None:
    engine = idle_consumer()
    assert asyncio.run(asked_for(engine, {"do": "pause"}))["paused"]
    assert engine.paused
    assert not asyncio.run(asked_for(engine, {"do": "resume"}))["paused"]
    update = asyncio.run(asked_for(engine, {"do": "prefetch", "value": "17"}))
    assert update["notice"] == ""
    assert "prefetch 17" in update["facts"]


def test_a_prefetch_that_is_none_is_refused_with_the_reason_and_nothing_changes() -> None:
    engine = idle_consumer()
    before = engine.settings
    assert "lots" in asyncio.run(asked_for(engine, {"do": "prefetch", "value": "lots"}))["notice"]
    assert engine.settings == before
    update = asyncio.run(asked_for(engine, {"do": "prefetch", "value": "lots"}, {"do": "prefetch", "value": "5"}))
    assert update["notice"] == ""


def test_closing_the_window_is_ctrl_c_and_no_second_one_while_the_consumer_finishes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)

    async def closed(engine: ConsumerEngine) -> None:
        asked = asyncio.StreamReader()
        asked.feed_eof()
        await WindowLink(engine, MessageFeed(), Pipe(), asked).obey()  # type: ignore[arg-type]  # as above

    asyncio.run(closed(idle_consumer()))
    assert raised == [signal.SIGINT]

    finishing = idle_consumer()
    finishing.stop()
    asyncio.run(closed(finishing))
    assert raised == [signal.SIGINT]


def test_a_window_that_has_not_read_the_last_update_gets_no_other() -> None:
    async def story() -> int:
        pipe = Pipe()
        pipe.waiting_bytes = 1
        link = WindowLink(idle_consumer(), MessageFeed(), pipe, asyncio.StreamReader())  # type: ignore[arg-type]  # see above
        showing = asyncio.create_task(link.show())
        for _ in range(10):
            await asyncio.sleep(0)
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
        return pipe.updates.qsize()

    assert asyncio.run(story()) == 0
