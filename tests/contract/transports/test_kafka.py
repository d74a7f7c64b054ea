"""What Kafka does differently, where `DIFFERENCES` says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from backpressure.cli.commands import pace
from backpressure.errors import (
    BrokerUnavailableError,
    NotConnectedError,
    PreconditionFailedError,
    QueueNotFoundError,
    TransportError,
)
from backpressure.settings import Settings
from backpressure.transports.base import Cause, QueueReading
from backpressure.transports.factory import connect
from backpressure.transports.kafka.group import _OPTIONS

Play = Callable[..., None]

pytestmark = [pytest.mark.kafka, pytest.mark.parametrize("kind", ["kafka"])]

NUMBERS = [b"%d" % number for number in range(10)]


def settings_at(url: str, **broker: Any) -> Settings:
    return Settings.model_validate({"broker": {"url": url, "reconnect_min_s": 0.05, "reconnect_max_s": 0.1} | broker})


def foreign(bench: Any, **options: Any) -> dict[str, Any]:
    """A configuration for clients of other programs."""
    return {"bootstrap.servers": bench.transport.address.removeprefix("kafka://"), "log_level": 0} | options


async def probe_of(bench: Any, group: str) -> Any:
    """A probe that follows a group of others."""
    settings = bench.settings.model_copy(update={"queue": bench.queue.model_copy(update={"consumer_group": group})})
    return await bench.started(connect(settings).probe())


async def when(probe: Any, queue: str, condition: Callable[[QueueReading], bool]) -> QueueReading:
    """Read until it is so."""
    async with asyncio.timeout(60):
        while not condition(reading := await probe.read(queue)):  # noqa: ASYNC110 -- the broker tells nobody
            await asyncio.sleep(0.05)
    return reading


async def fill(bench: Any, *counts: int) -> None:
    """Put this many messages into each partition."""
    producer = Producer(foreign(bench))
    for partition, count in enumerate(counts):
        for _ in range(count):
            producer.produce(bench.queue.work, b"x", partition=partition)
    await asyncio.to_thread(producer.flush)


async def limit_to(bench: Any, size_bytes: int) -> None:
    """Let the work topic take no larger batch."""
    topic = ConfigResource(ConfigResource.Type.TOPIC, bench.queue.work)
    limit = ConfigEntry("max.message.bytes", str(size_bytes), incremental_operation=AlterConfigOpType.SET)
    topic.add_incremental_config(limit)
    client = AdminClient(foreign(bench))
    for future in client.incremental_alter_configs([topic]).values():
        await asyncio.wrap_future(future)


def test_a_bound_is_refused_with_the_way_out(play: Play) -> None:
    async def story(bench: Any) -> None:
        with pytest.raises(TransportError, match=r"Kafka has no bounded queues.*a strategy that adapts"):
            await bench.admin.set_bound(bench.queue.work, max_length=5, overflow="reject-publish")
        with pytest.raises(QueueNotFoundError, match=r"no\.such\.queue"):
            await bench.admin.set_bound("no.such.queue", max_length=5, overflow="reject-publish")
        await bench.admin.set_bound(bench.queue.work, max_length=None, overflow="reject-publish")

    play(story)


@pytest.mark.parametrize(
    ("change", "argument"), [({"partitions": 3}, "partitions"), ({"message_ttl_ms": 5000}, "retention.ms")]
)
def test_a_topic_that_is_otherwise_is_refused_by_argument(play: Play, change: dict[str, int], argument: str) -> None:
    async def story(bench: Any) -> None:
        with pytest.raises(PreconditionFailedError) as caught:
            await bench.admin.declare(bench.queue.model_copy(update=change))
        assert (caught.value.argument, caught.value.name) == (argument, bench.queue.work)

    play(story)


def test_a_topic_with_the_retention_that_was_asked_for_is_accepted_again(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.admin.declare(bench.queue)

    play(story, message_ttl_ms=60_000, partitions=2)


def test_what_is_in_flight_when_the_line_is_cut_is_written_exactly_once(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, log = await bench.publisher()
        for number in range(200):
            bench.send(publisher, b"%d" % number)
            if number == 100:
                bench.cut()
        await bench.until(lambda: log.confirmed == set(range(1, 201)))
        assert log.count("lost") == log.count("nacked") == 0
        assert await bench.contents() == [b"%d" % number for number in range(200)]

    play(story)


@pytest.mark.parametrize("size", [2_000_000, 990_000])
def test_a_message_that_is_too_large_is_refused_for_that_and_others_get_through(play: Play, size: int) -> None:
    async def story(bench: Any) -> None:
        await limit_to(bench, 500_000)
        publisher, log = await bench.publisher()
        bench.send(publisher, b"x" * size)  # too large for the client, or for the broker alone
        await bench.until(lambda: log.settled == {1})
        bench.send(publisher, b"small")
        await bench.until(lambda: log.settled == {1, 2})
        [refusal] = log.refusals
        assert (log.nacked, refusal.cause) == ({1}, Cause.TOO_LARGE)
        assert "too large" in refusal.reason
        assert await bench.contents() == [b"small"]

    play(story)


def test_a_message_in_a_batch_that_is_too_large_may_try_again(play: Play) -> None:
    async def story(bench: Any) -> None:
        await limit_to(bench, 500_000)
        publisher, log = await bench.publisher()
        for _ in range(2):
            bench.send(publisher, b"x" * 400_000)
        await bench.until(lambda: log.settled == {1, 2})
        assert {refusal.cause for refusal in log.refusals} == {Cause.FAILED}
        for tag in (3, 4):
            bench.send(publisher, b"x" * 400_000)
            await bench.until(lambda tag=tag: tag in log.confirmed)

    play(story)


def test_an_outage_blocks_the_publisher_and_costs_no_message(
    play: Play, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An outage longer than the group's patience would be another story.
    monkeypatch.setitem(_OPTIONS, "session.timeout.ms", 120_000)

    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS[:3])
        publisher, published = await bench.publisher()
        subscriber, consumed = await bench.subscriber()
        hasty = bench.settings.broker.model_copy(update={"connect_timeout_s": 1.0})
        probe = await bench.started(connect(bench.settings.model_copy(update={"broker": hasty})).probe())
        feedback = await bench.started(bench.transport.feedback())
        await bench.until(lambda: len(consumed.deliveries) == 3)
        caplog.clear()
        await bench.proxy.leave()
        await bench.until(lambda: published.count("blocked") == 1)
        bench.send(publisher, b"3")
        with pytest.raises(NotConnectedError, match=r"^lost the broker at kafka://"):
            await probe.read(bench.queue.work)
        await bench.until(lambda: not feedback.send(b"stale"))
        assert subscriber.ack(consumed.deliveries[0])
        await bench.proxy.listen()
        await bench.until(lambda: published.confirmed == {1})
        await bench.until(lambda: published.count("unblocked") == 1)
        await bench.until(lambda: consumed.bodies == NUMBERS[:4])
        assert subscriber.ack(consumed.deliveries[3], multiple=True)
        await bench.until(lambda: feedback.send(b"fresh"))
        assert (published.count("lost"), consumed.losses, consumed.ready) == (0, [], 1)
        assert "lost the broker at kafka://" in caplog.text
        assert "connected to the broker at kafka://" in caplog.text
        await subscriber.stop()
        assert await bench.contents() == []

    with caplog.at_level(logging.INFO, logger="backpressure"):
        play(story)


def test_a_broker_that_hangs_blocks_the_publisher_until_it_goes_on(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, log = await bench.publisher()
        bench.broker.suspend()
        try:
            bench.send(publisher, b"asked meanwhile")
            await bench.until(lambda: log.count("blocked") == 1)
        finally:
            bench.broker.go_on()
        await bench.until(lambda: log.count("unblocked") == 1 and log.confirmed == {1})
        assert ("blocked", "no answer in time") in log.events
        assert log.count("lost") == log.count("nacked") == 0
        assert await bench.contents() == [b"asked meanwhile"]

    play(story)


def test_a_consumer_whose_broker_is_away_ends_and_says_what_is_not_known_there(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS[:3])
        subscriber, consumed = await bench.subscriber()
        await bench.until(lambda: len(consumed.deliveries) == 3)
        await bench.proxy.leave()
        assert subscriber.ack(consumed.deliveries[1], multiple=True)
        async with asyncio.timeout(60):  # closing its client would take for ever
            await subscriber.stop()
        assert "that 2 messages were settled" in caplog.text
        await bench.proxy.listen()
        assert NUMBERS[2] in await bench.contents()

    play(story)


def test_after_a_fatal_error_a_new_producer_begins_with_tag_one(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, log = await bench.publisher()
        bench.send(publisher, b"before")
        await bench.until(lambda: log.confirmed == {1})
        publisher._on_fatal(publisher._epoch, KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER))
        with pytest.raises(NotConnectedError):
            bench.send(publisher, b"too early")
        await bench.until(lambda: log.count("ready") == 2)
        assert [event[0] for event in log.events] == ["ready", "confirmed", "lost", "ready"]
        assert bench.send(publisher, b"after") == 1
        await bench.until(lambda: log.confirmed == {1})
        assert await bench.contents() == [b"before", b"after"]

    play(story)


def test_without_waiting_a_broker_that_is_away_is_an_error_at_once(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.proxy.leave()
        probe = connect(settings_at(bench.proxy.url, wait=False)).probe()
        with pytest.raises(
            BrokerUnavailableError, match=r"^no broker at kafka://127\.0\.0\.1:\d+: connection refused$"
        ):
            await probe.start()
        await bench.proxy.listen()

    play(story)


def test_what_does_not_speak_kafka_is_not_a_broker(play: Play) -> None:
    async def story(_bench: Any) -> None:
        visitors: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda _reader, writer: visitors.append(writer), "127.0.0.1", 0)
        url = f"kafka://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        with pytest.raises(BrokerUnavailableError):
            await connect(settings_at(url, wait=False, connect_timeout_s=0.5)).admin().start()
        for visitor in visitors:
            visitor.close()
        silent.close()

    play(story)


def test_waiting_for_a_broker_ends_when_it_appears(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def story(bench: Any) -> None:
        await bench.proxy.leave()
        caplog.clear()
        starting = asyncio.create_task(bench.started(connect(settings_at(bench.proxy.url)).probe()))
        await bench.until(lambda: "waiting for one" in caplog.text)
        assert not starting.done()
        await bench.proxy.listen()
        await starting

    with caplog.at_level(logging.INFO, logger="backpressure"):
        play(story)


def test_consumers_share_the_partitions_and_give_them_back_when_they_leave(play: Play) -> None:
    async def story(bench: Any) -> None:
        first, first_log = await bench.subscriber(prefetch=10_000)
        _second, second_log = await bench.subscriber(prefetch=10_000)
        publisher, _ = await bench.publisher()
        numbers = [b"%d" % number for number in range(60)]
        while not (first_log.deliveries and second_log.deliveries):
            bench.send(publisher, b"warm-up")
            await asyncio.sleep(0.01)
        for number in numbers:
            bench.send(publisher, number)
        await bench.until(lambda: {*numbers} <= {*first_log.bodies, *second_log.bodies})
        shared = {*first_log.bodies} & {*second_log.bodies}
        assert shared <= {b"warm-up"}
        for delivery in first_log.deliveries[::2]:
            first.ack(delivery)
        left = [delivery.message.body for delivery in first_log.deliveries[1::2]]
        before = len(second_log.deliveries)
        await first.stop()
        await bench.until(lambda: len(second_log.deliveries) == before + len(left))
        again = second_log.deliveries[before:]
        assert sorted(delivery.message.body for delivery in again) == sorted(left)
        assert all(delivery.redelivered for delivery in again)

    play(story, partitions=4)


def test_a_rebalance_waits_until_what_is_held_is_settled(play: Play) -> None:
    async def story(bench: Any) -> None:
        await fill(bench, 5, 5)
        first, first_log = await bench.subscriber()
        await bench.until(lambda: len(first_log.deliveries) == 10)
        joining = asyncio.create_task(bench.subscriber())
        await bench.until(lambda: bool(first._going))
        assert all(first.ack(delivery) for delivery in first_log.deliveries)
        _second, second_log = await joining
        await fill(bench, 1, 1)
        await bench.until(lambda: len(first_log.deliveries) + len(second_log.deliveries) == 12)
        assert not any(delivery.redelivered for delivery in first_log.deliveries + second_log.deliveries)
        assert first_log.losses == []

    play(story, partitions=2)


def test_a_delivery_of_a_partition_that_was_taken_away_settles_nothing(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS)
        subscriber, log = await bench.subscriber(prefetch=3)
        await bench.until(lambda: len(log.deliveries) == 3)
        commits = subscriber.hand_back([0])  # as the group does when it takes the partition away
        assert commits[0].offset == 0
        assert isinstance(log.losses[0], NotConnectedError)
        assert not any(subscriber.ack(delivery) for delivery in log.deliveries)
        assert not subscriber.nack(log.deliveries[0], requeue=True)

    play(story)


def test_the_worst_partition_shows(play: Play) -> None:
    async def story(bench: Any) -> None:
        await fill(bench, 1, 7)
        probe = await bench.started(bench.transport.probe())
        reading = await probe.read(bench.queue.work)
        assert (reading.ready, reading.lag_by_partition) == (8, (1, 7))
        assert reading.round_trip_s is not None
        assert 0 < reading.round_trip_s < 1

    play(story, partitions=2)


def test_messages_are_dealt_out_over_the_partitions_in_turn(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS[:9])
        probe = await bench.started(bench.transport.probe())
        assert (await probe.read(bench.queue.work)).lag_by_partition == (3, 3, 3)

    play(story, partitions=3)


def test_messages_held_by_a_vanished_consumer_are_ready_again(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS)
        group = {"group.id": f"pace.{bench.queue.work}"}
        ghost = Consumer(foreign(bench, **group))  # what is left of one of ours that was killed: its last commit
        place = TopicPartition(bench.queue.work, 0, 2, "held 5 ")
        await asyncio.to_thread(ghost.commit, offsets=[place], asynchronous=False)
        await asyncio.to_thread(ghost.close)
        probe = await bench.started(bench.transport.probe())
        reading = await probe.read(bench.queue.work)
        assert (reading.ready, reading.unacked, reading.consumers) == (8, 0, 0)
        _subscriber, log = await bench.subscriber()
        await bench.until(lambda: log.bodies == NUMBERS[2:])
        assert [delivery.redelivered for delivery in log.deliveries] == [True] * 3 + [False] * 5

    play(story)


def test_a_foreign_consumers_lag_is_known_and_what_it_holds_is_not(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS)
        stranger = Consumer(foreign(bench, **{"group.id": f"pace.{bench.queue.work}", "auto.offset.reset": "earliest"}))
        stranger.subscribe([bench.queue.work])
        taken = await asyncio.to_thread(stranger.consume, 4, 60)
        assert len(taken) == 4
        await asyncio.to_thread(stranger.commit, message=taken[-1], asynchronous=False)
        probe = await bench.started(bench.transport.probe())
        reading = await probe.read(bench.queue.work)
        assert (reading.ready, reading.unacked, reading.consumers) == (6, None, 1)
        await asyncio.to_thread(stranger.close)

    play(story)


def test_a_group_of_others_is_followed_by_its_commits(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS)
        stranger = Consumer(foreign(bench, **{"group.id": "billing", "auto.offset.reset": "earliest"}))
        stranger.subscribe([bench.queue.work])
        taken = await asyncio.to_thread(stranger.consume, 3, 60)
        await asyncio.to_thread(stranger.commit, message=taken[-1], asynchronous=False)
        reading = await (await probe_of(bench, "billing")).read(bench.queue.work)
        assert reading.offsets is not None
        assert (reading.offsets.ends, reading.offsets.committed) == ((10,), (3,))
        assert (reading.ready, reading.unacked, reading.consumers) == (7, None, 1)
        await asyncio.to_thread(stranger.close)

    play(story)


def test_a_group_of_others_without_a_commit_is_taken_to_begin_at_the_end(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS)
        probe = await probe_of(bench, "console-1")
        alone = await probe.read(bench.queue.work)
        assert (alone.ready, alone.consumers) == (10, 0)
        stranger = Consumer(foreign(bench, **{"group.id": "console-1", "enable.auto.commit": False}))
        stranger.subscribe([bench.queue.work])
        async with asyncio.timeout(60):
            while (reading := await probe.read(bench.queue.work)).consumers != 1:
                await asyncio.to_thread(stranger.poll, 0.5)  # it joins the group while it is polled
        assert reading.ready == 0
        await bench.publish(b"new")
        assert (await when(probe, bench.queue.work, lambda reading: reading.ready > 0)).ready == 1
        await asyncio.to_thread(stranger.close)

    play(story)


def test_a_foreign_record_is_delivered_with_its_headers_as_bytes_and_its_own_time(play: Play) -> None:
    async def story(bench: Any) -> None:
        producer = Producer(foreign(bench))
        producer.produce(bench.queue.work, b"from afar", headers=[("trace", b"\xff"), ("none", None)], timestamp=12_345)
        await asyncio.to_thread(producer.flush)
        _subscriber, log = await bench.subscriber()
        await bench.until(lambda: len(log.deliveries) == 1)
        message = log.deliveries[0].message
        assert (message.body, message.timestamp_s, message.message_id) == (b"from afar", 12, None)
        assert message.headers == {"trace": b"\xff", "none": b""}

    play(story)


def test_a_drain_waits_for_consumers_to_leave(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backpressure.transports.kafka.admin._CLAIM_WITHIN_S", 0.5)

    async def story(bench: Any) -> None:
        await bench.publish(b"1")
        subscriber, _log = await bench.subscriber()
        with pytest.raises(TransportError, match="while it has consumers"):
            await bench.contents()
        draining = asyncio.create_task(bench.contents())
        await subscriber.stop()
        assert await draining == [b"1"]

    play(story)


def test_only_what_is_ours_by_name_or_by_its_group_is_taken_for_ours(play: Play) -> None:
    async def story(bench: Any) -> None:
        client = AdminClient(foreign(bench))
        for future in client.create_topics([NewTopic("orders", 1), NewTopic("pace.run.work.dlq", 1)]).values():
            await asyncio.wrap_future(future)
        subscriber, _log = await bench.subscriber()
        await subscriber.stop()
        assert await bench.admin.queues() == [bench.queue.work, "pace.run.work.dlq"]
        command = ["--url", bench.proxy.url, "--yes"]
        cleaned = await asyncio.to_thread(CliRunner().invoke, pace, ["cleanup", "--all", *command])
        assert (cleaned.exit_code, "deleted: 2 queue(s)" in cleaned.output) == (0, True), cleaned.output
        assert await bench.admin.queues() == []
        assert "orders" in (await asyncio.to_thread(client.list_topics, timeout=15)).topics
        await bench.admin.delete("orders")

    play(story)


def test_a_bound_that_means_nothing_is_said_to_mean_nothing_once(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def story(bench: Any) -> None:
        await bench.admin.declare(bench.queue)
        assert caplog.text.count(f"{bench.queue.work} has no bound: queue.max_length means nothing to Kafka") == 1

    with caplog.at_level(logging.INFO, logger="backpressure"):
        play(story, max_length=7)


def test_the_doctor_knows_what_earlier_runs_left_on_the_cluster(play: Play) -> None:
    async def story(bench: Any) -> None:
        queue = bench.queue.model_copy(update={"work": f"pace.{bench.queue.work}"})
        await bench.admin.declare(queue)
        environment = {"COLUMNS": "300", "PACE_QUEUE__WORK": bench.queue.work}
        command = ["doctor", "--url", bench.proxy.url]
        seen = await asyncio.to_thread(CliRunner().invoke, pace, command, env=environment)
        assert f"1 left by other runs: pace.{bench.queue.work}" in seen.output
        assert "Apache Kafka 4." in seen.output
        assert "management" not in seen.output
        await bench.admin.delete(queue.work)

    play(story)
