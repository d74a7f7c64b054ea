"""What the consumer hands to its window: the latest messages, in few bytes; and what is said where there is no Tk."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterator

import pytest

from backpressure.core.journal import Outcome
from backpressure.core.message import Delivery, Message, Metadata
from backpressure.dashboards import window
from backpressure.dashboards.consumer_window import MessageFeed
from backpressure.engines.consumer import Consumed


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
