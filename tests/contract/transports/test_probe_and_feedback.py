"""What probe and feedback do on every transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from backpressure.core.message import Message
from backpressure.errors import QueueNotFoundError

Play = Callable[..., None]


def test_a_probe_counts_what_is_ready_and_who_consumes(play: Play) -> None:
    async def story(bench: Any) -> None:
        probe = await bench.started(bench.transport.probe())
        empty = await probe.read(bench.queue.work)
        assert (empty.ready, empty.consumers) == (0, 0)
        await bench.publish(*[b"x"] * 7)
        await bench.subscriber(prefetch=2)
        await bench.quiet(probe, ready=5)
        reading = await probe.read(bench.queue.work)
        assert reading.consumers == 1
        assert reading.unacked in {2, None}  # AMQP does not tell

    play(story)


def test_a_probe_names_a_missing_queue_and_continues_to_read(play: Play) -> None:
    async def story(bench: Any) -> None:
        probe = await bench.started(bench.transport.probe())
        for _ in range(3):
            with pytest.raises(QueueNotFoundError, match=r"no\.such\.queue"):
                await probe.read("no.such.queue")
            assert (await probe.read(bench.queue.work)).ready == 0

    play(story)


def test_every_listener_gets_every_report_once_and_the_sender_its_own(play: Play) -> None:
    async def story(bench: Any) -> None:
        heard: list[list[bytes]] = [[], [], []]
        listeners = [await bench.started(bench.transport.feedback(), mine.append) for mine in heard]
        mute = await bench.started(bench.transport.feedback())
        reports = [b"%d" % number for number in range(20)]
        assert all(mute.send(report) for report in reports)
        assert listeners[0].send(b"own")
        await bench.until(lambda: all(len(mine) == 21 for mine in heard))
        assert all(sorted(mine) == sorted([*reports, b"own"]) for mine in heard)
        assert all([report for report in mine if report != b"own"] == reports for mine in heard)

    play(story)


def test_a_report_without_a_connection_is_dropped(play: Play) -> None:
    async def story(bench: Any) -> None:
        feedback = bench.transport.feedback()
        assert not feedback.send(b"too early")
        await bench.started(feedback)
        assert feedback.send(b"in time")
        await feedback.stop()
        assert not feedback.send(b"too late")

    play(story)


@pytest.mark.parametrize("kind", ["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def test_what_silent_consumers_hold_is_counted_now_together_with_what_is_ready(play: Play) -> None:
    async def story(bench: Any) -> None:
        probe = await bench.started(bench.transport.probe())
        await bench.publish(*[b"x"] * 7)
        _, log = await bench.subscriber(prefetch=2)
        await bench.until(lambda: len(log.deliveries) == 2)
        counted = None
        while counted is None:  # asked no more often than answers are cheap
            counted = (await probe.read(bench.queue.work, exactly=True)).statistics
        assert (counted.ready, counted.unacked, counted.fresh) == (5, 2, True)
        terms = None
        while terms is None or not terms.count:  # the list of consumers is some seconds late
            await asyncio.sleep(0.1)
            terms = (await probe.read(bench.queue.work, exactly=True)).terms
        assert (terms.count, terms.auto_ack) == (1, 0)
        entered = None
        while entered != 7:  # likewise
            await asyncio.sleep(0.1)
            entered = (await probe.read(bench.queue.work, exactly=True)).entered

    play(story)


@pytest.mark.parametrize(
    "kind",
    [
        *("memory", "embedded"),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
        pytest.param("kafka", marks=pytest.mark.kafka),
    ],
)
def test_sums_go_to_those_alone_who_hear_them_and_reports_may_be_left_out(play: Play) -> None:
    async def story(bench: Any) -> None:
        both: list[bytes] = []
        alone: list[bytes] = []
        reports: list[bytes] = []
        adder = await bench.started(bench.transport.feedback(), both.append)
        member = await bench.started(bench.transport.feedback(), alone.append)
        await bench.started(bench.transport.feedback(), reports.append)
        assert adder.carries_sums
        adder.listen(reports=True, sums=True)
        member.listen(reports=False, sums=True)
        await bench.until(lambda: adder.send(b"sum", is_sum=True) and b"sum" in both and b"sum" in alone)
        await bench.until(lambda: adder.send(b"report") and b"report" in reports)
        alone.clear()
        assert adder.send(b"report")
        assert adder.send(b"sum", is_sum=True)
        await bench.until(lambda: b"sum" in alone)
        assert b"report" not in alone
        assert b"sum" not in reports
        member.listen(reports=True, sums=False)
        await bench.until(lambda: adder.send(b"again") and b"again" in alone)

    play(story)


@pytest.mark.parametrize("kind", ["memory", "embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def test_a_report_that_asks_is_answered_to_its_sender_alone(play: Play) -> None:
    async def story(bench: Any) -> None:
        heard: list[bytes] = []
        answers: list[list[bytes]] = [[], []]

        def answer(report: bytes) -> bytes | None:
            return None if report == b"mute" else b"to " + report

        await bench.started(bench.transport.feedback(), heard.append, answer=answer)
        first, second = [await bench.started(bench.transport.feedback(), on_answer=mine.append) for mine in answers]
        await bench.until(lambda: first.send(b"first", asks=True) and answers[0])
        assert set(answers[0]) == {b"to first"}
        for payload, asks in ((b"mute", True), (b"unasked", False), (b"last", True)):
            assert second.send(payload, asks=asks)
        await bench.until(lambda: answers[1])
        assert answers[1] == [b"to last"]
        assert set(answers[0]) == {b"to first"}
        assert heard[-3:] == [b"mute", b"unasked", b"last"]

    play(story)


@pytest.mark.parametrize("kind", ["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def test_nobody_can_have_an_answer_sent_to_a_queue(play: Play) -> None:
    async def story(bench: Any) -> None:
        heard: list[bytes] = []
        answers: list[bytes] = []
        await bench.started(bench.transport.feedback(), heard.append, answer=lambda _: b"told")
        honest = await bench.started(bench.transport.feedback(), on_answer=answers.append)
        publisher, _ = await bench.publisher()
        probe = await bench.started(bench.transport.probe())
        exchange, queue = bench.settings.feedback.exchange, bench.queue.work
        await bench.until(lambda: honest.send(b"report", asks=True) and answers)
        for name in (None, "amq.rabbitmq.reply-to.not-mine"):
            trick = Message(b"trick", reply_to=queue, message_id=name)
            publisher.publish(trick, exchange=exchange, routing_key="")
        await bench.until(lambda: heard.count(b"trick") == 2)
        answers.clear()
        await bench.until(lambda: honest.send(b"report", asks=True) and answers)
        assert (await probe.read(queue)).ready == 0

    play(story)


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        pytest.param("rabbitmq", "amq.not.for.us", marks=pytest.mark.rabbitmq),
        pytest.param("kafka", "not a topic", marks=pytest.mark.kafka),
    ],
)
def test_a_user_who_may_not_make_the_exchange_for_sums_hears_reports(play: Play, refused: str) -> None:
    async def story(bench: Any) -> None:
        heard: list[bytes] = []
        bus = await bench.started(bench.transport.feedback(), heard.append)
        bus._sums = refused  # a name that the broker refuses
        bus.listen(reports=True, sums=True)
        await bench.until(lambda: not bus.carries_sums)
        await bench.until(lambda: bus.send(b"report") and b"report" in heard)

    play(story)
