"""A broker that is short of memory blocks publishers, and only them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Play = Callable[..., None]


def test_a_publisher_is_told_about_the_alarm_and_its_messages_wait_for_the_end(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, log = await bench.publisher()
        async with bench.alarm():
            bench.send(publisher, b"1")
            await bench.until(lambda: log.count("blocked") == 1)
            bench.send(publisher, b"2")
            assert publisher.ready
            assert log.count("unblocked") == 0
        await bench.until(lambda: log.confirmed == {1, 2})
        await bench.until(lambda: log.count("unblocked") == 1)
        assert (log.count("blocked"), log.count("lost")) == (1, 0)
        assert await bench.contents() == [b"1", b"2"]

    play(story)


def test_consuming_and_probing_go_on_during_an_alarm(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(b"1", b"2", b"3")
        probe = await bench.started(bench.transport.probe())
        subscriber, log = await bench.subscriber(prefetch=1)
        publisher, publisher_log = await bench.publisher()
        async with bench.alarm():
            bench.send(publisher, b"4")
            await bench.until(lambda: publisher_log.count("blocked") == 1)
            for number in range(3):
                await bench.until(lambda number=number: len(log.deliveries) == number + 1)
                assert subscriber.ack(log.deliveries[number])
            assert (await probe.read(bench.queue.work)).consumers == 1
            assert log.bodies[:3] == [b"1", b"2", b"3"]

    play(story)


def test_reports_are_dropped_during_an_alarm_and_flow_again_after_it(play: Play) -> None:
    async def story(bench: Any) -> None:
        heard: list[bytes] = []
        feedback = await bench.started(bench.transport.feedback(), heard.append)
        async with bench.alarm():
            await bench.until(lambda: not feedback.send(b"stale"))
        await bench.until(lambda: feedback.send(b"fresh"))
        await bench.until(lambda: b"fresh" in heard)

    play(story)


def test_stopping_does_not_wait_for_the_end_of_an_alarm(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, log = await bench.publisher()
        async with bench.alarm():
            bench.send(publisher, b"1")
            await bench.until(lambda: log.count("blocked") == 1)
            await publisher.stop()
        assert log.count("lost") == 0

    play(story)
