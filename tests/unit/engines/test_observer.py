"""The observer with a test transport: what it knows, what it calls unknown, and what it survives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from backpressure.core.reports import ConsumerReport, ProducerReport, Report, encode
from backpressure.core.snapshot import EventKind, Glance, QueueState, Snapshot
from backpressure.dashboards.cards_lists import queues
from backpressure.engines.observer import Observer
from backpressure.errors import (
    AccessRefusedError,
    BrokerUnavailableError,
    NotConnectedError,
    QueueNotFoundError,
    TransportError,
)
from backpressure.settings import Settings
from backpressure.transports.base import QueueReading
from backpressure.transports.management_models import (
    ChannelInfo,
    ConnectionInfo,
    ConsumerInfo,
    NodeInfo,
    Overview,
    QueueInfo,
)

PRODUCER = ProducerReport(
    id="alice", session=1, pid=11, host="lab", queue="work.queue", at_ns=0, offered=0, published=0, confirmed=0,
    nacked=0, rejected=0, returned=0, republished=0, in_flight=0, window=9, target_rate_per_s=1000.0,
    pacing_rate_per_s=120.0, weight=1.0, application_limited=False, blocked=False, blocked_events=0, strategy="pace",
    reason="", rss_bytes=0, cpu_s=0.0,
)  # fmt: skip
CONSUMER = ConsumerReport(
    id="slow", pid=7, host="lab", at_ns=0, queue="work.queue", delivered=0, processed=0, failed=0, retried=0,
    dead_lettered=0, redelivered=0, duplicates=0, out_of_order=0, held=0, prefetch=5, paused=False,
    capacity_per_s=100.0, busy_s=0.0, service_sum_s=0.0, service_sum_s2=0.0, rss_bytes=1 << 20, cpu_s=0.0,
)  # fmt: skip


class FakeClock:
    anchor_ns = 0

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now(self) -> float:
        return self.time_s

    def wall_ns(self) -> int:
        return self.to_wall_ns(self.time_s)

    def to_wall_ns(self, now: float) -> int:
        return round(now * 1e9)


class FakeBroker:
    """Probe, feedback and transport in one: a broker whose answers the test decides."""

    address = "amqp://test:5672"
    bounds_queues = True

    def __init__(self) -> None:
        self.created: list[bool] = []
        self.readings: dict[str, QueueReading] = {}
        self.refused: dict[str, TransportError] = {}
        self.failure: TransportError | None = None
        self.refusals = 0
        self.reads: list[str] = []
        self.on_report: Callable[[bytes], None] | None = None
        self.open = 0
        self.is_apis = True

    async def owns(self, _management: object) -> bool:
        return self.is_apis

    def probe(self) -> FakeBroker:
        return self

    def feedback(self, *, create: bool = True) -> FakeBroker:
        self.created.append(create)
        return self

    async def start(self, on_report: Callable[[bytes], None] | None = None) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BrokerUnavailableError(self.address, "connection refused")
        self.open += 1
        self.on_report = on_report

    async def stop(self) -> None:
        self.open = 0

    async def read(self, queue: str, *, exactly: bool = False) -> QueueReading:
        self.reads.append(queue)
        if self.failure is not None:
            raise self.failure
        if queue in self.refused:
            raise self.refused[queue]
        if queue not in self.readings:
            raise QueueNotFoundError(queue)
        return self.readings[queue]

    def report(self, report: Report) -> None:
        assert self.on_report is not None
        self.on_report(encode(report))


class FakeManagement:
    url = "http://other:15672"

    def __init__(self) -> None:
        self.failure: TransportError | None = None
        self.listed = [QueueInfo(name="other.queue", messages_ready=3, messages_unacknowledged=1, consumers=2)]

    async def overview(self) -> Overview:
        if self.failure is not None:
            raise self.failure
        return Overview(version="4.1.0")

    async def nodes(self) -> list[NodeInfo]:
        return [NodeInfo(name="n", memory_bytes=90, memory_limit_bytes=100)]

    async def queues(self) -> list[QueueInfo]:
        return self.listed

    async def connections(self) -> list[ConnectionInfo]:
        return []

    async def consumers(self) -> list[ConsumerInfo]:
        return []

    async def channels(self) -> list[ChannelInfo]:
        return []


class Bench:
    """An observer that is running, and the world it looks at."""

    def __init__(self, management: FakeManagement | None = None, queues: str = "", **broker: object) -> None:
        self.clock = FakeClock()
        self.broker = FakeBroker()
        monitor = {"probe_interval_ms": 10, "queues": queues}
        self.settings = Settings(broker=broker, monitor=monitor, feedback={"interval_ms": 10})  # type: ignore[arg-type]  # pydantic builds the sections
        self.observer = Observer(self.broker, self.settings, self.clock, management)  # type: ignore[arg-type]  # fakes

    async def until(self, holds: Callable[[Snapshot], bool]) -> Snapshot:
        """Let the observer's tasks run until its snapshot is as expected; the test's timeout is the limit."""
        while not holds(seen := self.observer.snapshot()):  # noqa: ASYNC110 - it is pulled, nothing tells of it
            await asyncio.sleep(0)
        return seen

    def run(self, story: Callable[[Bench], object]) -> None:
        async def told() -> None:
            await self.observer.start()
            try:
                await story(self)  # type: ignore[misc]  # every story is a coroutine function
            finally:
                await self.observer.stop()

        asyncio.run(told())


def answering(seen: Snapshot) -> bool:
    return seen.sources[0].ok


def test_depth_is_ready_plus_what_reporting_consumers_hold() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(ready=40, unacked=None, consumers=1)
        seen = await bench.until(lambda s: "work.queue" in s.queues)
        assert seen.queues["work.queue"].unacked is None
        assert seen.queues["work.queue"].depth == 40
        bench.broker.report(replace(CONSUMER, at_ns=1, held=5))
        queue = bench.observer.snapshot().queues["work.queue"]
        assert (queue.ready, queue.unacked, queue.depth, queue.consumers) == (40, 5, 45, 1)

    Bench().run(story)


def test_the_lag_of_each_partition_and_the_worst_one_show() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(9, unacked=3, consumers=1, lag_by_partition=(1, 7, 4))
        bench.broker.readings["work.queue.dlq"] = QueueReading(ready=0, unacked=0, consumers=0)
        seen = await bench.until(lambda s: len(s.queues) == 2)
        work, dead = seen.queues["work.queue"], seen.queues["work.queue.dlq"]
        assert (work.depth, work.lag_by_partition, work.worst_partition) == (12, (1, 7, 4), 1)
        assert dead.worst_partition is None

    Bench().run(story)


def test_unacked_stays_unknown_while_a_foreign_consumer_does_not_report() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(ready=40, unacked=None, consumers=2)
        await bench.until(lambda s: "work.queue" in s.queues)
        bench.broker.report(replace(CONSUMER, at_ns=1, held=5))
        assert bench.observer.snapshot().queues["work.queue"].unacked is None

    Bench().run(story)


def test_rates_and_bottleneck_are_the_brokers_own_while_a_foreign_consumer_does_not_report() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(ready=40, unacked=9, consumers=2)
        bench.broker.readings["side.queue"] = QueueReading(ready=4, unacked=9, consumers=2)
        await bench.until(lambda s: "work.queue" in s.queues and s.broker is not None)
        for tick in range(11):
            bench.clock.time_s += 0.1
            at_ns = bench.clock.wall_ns()
            bench.broker.report(replace(CONSUMER, at_ns=at_ns, delivered=10 * tick, processed=10 * tick))
            bench.broker.report(replace(CONSUMER, id="side", queue="side.queue", at_ns=at_ns, processed=10 * tick))
        seen = await bench.until(lambda s: "side.queue" in s.queues)
        work, side = seen.queues["work.queue"], seen.queues["side.queue"]
        assert (work.delivered_per_s, work.acked_per_s) == (170.0, 160.0)
        assert seen.bottleneck_per_s == 160.0
        assert (side.delivered_per_s, side.acked_per_s) == (None, None)  # not listed: nobody knows

    management = FakeManagement()
    rates = {"deliver_get_details": {"rate": 170.0}, "ack_details": {"rate": 160.0}}
    management.listed = [QueueInfo.model_validate({"name": "work.queue", "message_stats": rates})]
    Bench(management).run(story)


def test_a_queue_nobody_consumes_has_nothing_unacked() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(ready=7, unacked=None, consumers=0)
        seen = await bench.until(lambda s: "work.queue" in s.queues)
        assert seen.queues["work.queue"].unacked == 0
        assert seen.queues["work.queue"].acked_per_s == 0

    Bench().run(story)


def test_rates_and_totals_come_from_the_counters_of_all_processes() -> None:
    async def story(bench: Bench) -> None:
        await bench.until(answering)
        for tick in range(21):
            bench.clock.time_s = 1000 + tick / 10
            at_ns = bench.clock.wall_ns()
            bench.broker.report(replace(PRODUCER, at_ns=at_ns, offered=100 * tick, confirmed=20 * tick))
            bench.broker.report(replace(PRODUCER, id="bob", at_ns=at_ns, offered=50 * tick, confirmed=10 * tick))
            bench.broker.report(replace(CONSUMER, at_ns=at_ns, processed=10 * tick))
            if tick % 4 == 0:  # as often as a program that looks for events
                bench.observer.glance()
        seen = bench.observer.snapshot()
        assert seen.rates.offered_per_s == pytest.approx(1500)
        assert seen.rates.confirmed_per_s == pytest.approx(300)
        assert seen.rates.processed_per_s == pytest.approx(100)
        assert (seen.totals.confirmed, seen.totals.processed) == (600, 200)
        assert seen.target_rate_per_s == 2000
        assert seen.pacing_rate_per_s == 240
        assert seen.bottleneck_per_s == 100

    Bench().run(story)


def test_rates_are_unknown_until_a_process_reports_and_zero_when_all_are_gone() -> None:
    async def story(bench: Bench) -> None:
        await bench.until(answering)
        assert bench.observer.snapshot().rates.processed_per_s is None
        assert bench.observer.snapshot(distributions=True).queue_wait_ever is None
        bench.broker.report(replace(CONSUMER, at_ns=1, processed=10))
        bench.clock.time_s += 60
        seen = bench.observer.snapshot(distributions=True)
        assert seen.consumers == ()
        assert seen.rates.processed_per_s == 0.0
        assert seen.totals.processed == 10
        assert seen.queue_wait_ever is not None
        assert seen.confirm_latency_ever is None
        assert bench.observer.snapshot().queue_wait_ever is None  # a monitor that shows none does not compute it

    Bench().run(story)


def test_the_readings_of_a_broker_that_is_away_age_then_become_unknown_and_come_back() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(ready=1, unacked=0, consumers=0)
        await bench.until(answering)
        bench.broker.failure = NotConnectedError("reconnecting")
        seen = await bench.until(lambda s: s.event_counts.get(EventKind.SOURCE_LOST) == 1)
        assert seen.sources[0].error == "reconnecting"
        bench.clock.time_s += 9
        assert bench.observer.snapshot().queues["work.queue"].age_s >= 9
        bench.clock.time_s += 2
        seen = bench.observer.snapshot()
        assert seen.work is None
        assert [threshold.value for threshold in seen.thresholds if threshold.name == "depth"] == [None]
        bench.broker.failure = None
        seen = await bench.until(lambda s: s.work is not None)
        assert seen.queues["work.queue"].age_s < 9

    Bench().run(story)


def test_a_missing_queue_is_not_asked_for_at_every_reading() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(ready=1, unacked=0, consumers=0)
        await bench.until(lambda _: bench.broker.reads.count("work.queue") == 5)
        assert bench.broker.reads.count("work.queue.dlq") == 1

    Bench().run(story)


def test_a_queue_that_must_not_be_read_is_left_out_and_the_broker_is_not_away() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(ready=1, unacked=0, consumers=0)
        bench.broker.refused["amq.gen-1"] = TransportError("RESOURCE_LOCKED: exclusive")
        await bench.until(answering)
        bench.broker.report(replace(CONSUMER, at_ns=1, queue="amq.gen-1"))
        await bench.until(lambda _: "amq.gen-1" in bench.broker.reads)
        bench.clock.time_s += 0.5
        reads = bench.broker.reads.count("work.queue")
        seen = await bench.until(lambda _: bench.broker.reads.count("work.queue") > reads + 2)
        assert seen.sources[0].ok
        assert seen.queues["work.queue"].age_s == 0
        assert "amq.gen-1" not in seen.queues
        assert bench.broker.reads.count("amq.gen-1") == 1

    Bench().run(story)


def test_a_work_queue_of_the_settings_that_must_not_be_read_is_trouble() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.refused["work.queue"] = TransportError("ACCESS_REFUSED")
        seen = await bench.until(lambda s: s.sources[0].error not in {"", "connecting"})
        assert seen.sources[0].error == "ACCESS_REFUSED"

    Bench().run(story)


def test_a_loop_that_fails_unexpectedly_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(ready=1, unacked=0, consumers=0)
        await bench.until(answering)
        bench.broker.refused["work.queue"] = ValueError("pika knows why")  # type: ignore[assignment]  # that is the point
        await bench.until(lambda _: "pika knows why" in caplog.text)

    Bench().run(story)


def test_queues_beside_the_work_are_read_once_a_second() -> None:
    async def story(bench: Bench) -> None:
        work, dead = bench.settings.queue.work, bench.settings.queue.dead_letter
        bench.broker.readings = dict.fromkeys((work, dead), QueueReading(ready=1, unacked=0, consumers=0))
        await bench.until(lambda _: bench.broker.reads.count(work) == 3)
        assert bench.broker.reads.count(dead) == 1
        bench.clock.time_s += 1.0
        await bench.until(lambda _: bench.broker.reads.count(dead) == 2)

    Bench().run(story)


def test_the_queue_a_consumer_reports_is_read_as_well() -> None:
    async def story(bench: Bench) -> None:
        await bench.until(answering)
        bench.broker.readings["side.queue"] = QueueReading(ready=9, unacked=None, consumers=1)
        bench.broker.report(replace(CONSUMER, at_ns=1, queue="side.queue"))
        await bench.until(lambda s: "side.queue" in s.queues)

    Bench().run(story)


def test_a_broker_that_is_not_there_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        bench.broker.refusals = 2
        seen = await bench.until(lambda s: "refused" in s.sources[0].error)
        assert not seen.sources[0].ok
        await bench.until(answering)

    monkeypatch.setattr("backpressure.engines.observer._RETRY_S", 0)
    Bench().run(story)


def test_without_waiting_a_missing_broker_is_an_error_at_once() -> None:
    bench = Bench(wait=False)
    bench.broker.refusals = 1

    async def story() -> None:
        with pytest.raises(BrokerUnavailableError):
            await bench.observer.start()
        await bench.observer.stop()

    asyncio.run(story())


def test_reports_of_strangers_are_counted_and_ignored() -> None:
    async def story(bench: Bench) -> None:
        await bench.until(answering)
        assert bench.broker.on_report is not None
        bench.broker.on_report(b"\xff not json")
        seen = bench.observer.snapshot()
        assert seen.unreadable_reports == 1
        assert seen.producers == ()

    Bench().run(story)


def test_what_a_short_report_does_not_tell_is_unknown() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(ready=40, unacked=None, consumers=1)
        await bench.until(lambda s: "work.queue" in s.queues)
        short = {"v": 2, "role": "consumer", "id": "in-go", "queue": "work.queue", "prefetch": 9, "busy_s": 1.5}
        assert bench.broker.on_report is not None
        for tick in (0, 1):
            counted = {"at_ns": 10**9 + tick * 10**8, "processed": 100 + 10 * tick, "held": 4}
            bench.broker.on_report(json.dumps(short | counted).encode())
            seen = bench.observer.snapshot()
        [process] = seen.processes
        assert (process.id, process.rss_bytes, process.cpu_share) == ("in-go", None, None)
        assert process.rate_per_s == pytest.approx(100.0)
        assert seen.queues["work.queue"].unacked == 4
        assert seen.bottleneck_per_s == pytest.approx(100.0)

    Bench().run(story)


def test_only_the_newest_report_of_a_process_is_read_and_every_one_of_strangers() -> None:
    async def story(bench: Bench) -> None:
        await bench.until(answering)
        assert bench.broker.on_report is not None
        newest = replace(PRODUCER, at_ns=PRODUCER.at_ns + 1, confirmed=PRODUCER.confirmed + 7)
        damaged = encode(PRODUCER).replace(b'"offered":', b'"offerings":')
        for payload in (damaged, encode(newest), b"strange", b"stranger"):
            bench.broker.on_report(payload)
        seen = bench.observer.snapshot()
        assert [report.confirmed for report in seen.producers] == [7]
        assert seen.unreadable_reports == 2
        for number in range(1500):  # reports nobody looks at do not pile up
            bench.broker.on_report(b"stranger %d" % number)
        assert bench.observer.snapshot().unreadable_reports == 1502

    Bench().run(story)


def test_the_management_api_adds_other_queues_and_the_brokers_memory() -> None:
    async def story(bench: Bench) -> None:
        seen = await bench.until(lambda s: s.broker is not None)
        assert seen.broker is not None
        assert seen.broker.version == "4.1.0"
        assert seen.queues["other.queue"].depth == 4
        assert [(t.name, t.value) for t in seen.thresholds if t.breached] == [("broker memory", 90.0)]

    Bench(FakeManagement()).run(story)


def test_a_management_api_that_fails_leaves_its_part_unknown() -> None:
    management = FakeManagement()
    management.failure = TransportError("management API: 401 not authorised")

    async def story(bench: Bench) -> None:
        seen = await bench.until(lambda s: len(s.sources) == 2 and s.sources[0].ok)
        assert seen.sources[1].error == "management API: 401 not authorised"
        assert seen.broker is None

    Bench(management).run(story)


def test_a_token_of_the_control_apis_is_mentioned_and_not_shown() -> None:
    bench = Bench()
    assert not bench.observer.snapshot().token_needed
    guarded = Observer(bench.broker, Settings(api={"token": "s3cret"}), bench.clock)  # type: ignore[arg-type]  # fakes
    assert guarded.snapshot().token_needed
    assert "s3cret" not in repr(guarded.snapshot())


def test_a_glance_is_a_part_of_the_snapshot_of_the_same_moment() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(ready=6000, unacked=0, consumers=1)
        await bench.until(lambda s: s.work is not None and s.broker is not None)
        bench.broker.report(replace(PRODUCER, at_ns=1))
        bench.broker.report(replace(CONSUMER, at_ns=1))
        glance, seen = bench.observer.glance(), bench.observer.snapshot()
        for spec in fields(Glance):
            assert getattr(glance, spec.name) == getattr(seen, spec.name)
        assert [threshold.name for threshold in glance.thresholds if threshold.breached] == ["depth", "broker memory"]

    Bench(FakeManagement()).run(story)


def test_stopping_closes_what_was_opened() -> None:
    bench = Bench()

    async def story(bench: Bench) -> None:
        await bench.until(answering)
        assert bench.broker.open == 2

    bench.run(story)
    assert bench.broker.open == 0


def stranger(**counts: object) -> QueueInfo:
    rates = {"publish": 900, "publish_details": {"rate": 30.0}, "ack_details": {"rate": 20.0}}
    return QueueInfo.model_validate({"name": "orders", "message_stats": rates, **counts})


def test_a_queue_of_others_is_told_from_the_statistics_of_the_broker_and_their_age_is_said() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["orders"] = QueueReading(ready=70, unacked=None, consumers=1)
        seen = await bench.until(lambda s: "orders" in s.queues and s.sources[1].ok)
        orders = seen.queues["orders"]
        assert (orders.ready, orders.unacked, orders.published_per_s, orders.acked_per_s) == (70, 40, 30.0, 20.0)
        assert orders.outlook is not None
        assert orders.outlook.wait_s == 5.0  # 60 ready and 40 unacked of one moment, 20 a second
        assert orders.outlook.growth_per_s == 10.0
        assert orders.outlook.statistics_age_s == 10.0
        assert seen.work_queue == "orders"
        assert bench.broker.created == [False]
        assert set(bench.broker.reads) == {"orders"}

    management = FakeManagement()
    management.listed = [
        stranger(messages_ready=60, messages_unacknowledged=40, consumers=1, messages_details={"rate": 10.0})
    ]
    Bench(management, queues="orders").run(story)


def test_patterns_stand_for_the_queues_that_match_and_what_is_absent_is_said_why() -> None:
    async def story(bench: Bench) -> None:
        for name in ("orders.eu", "orders.us"):
            bench.broker.readings[name] = QueueReading(ready=1, unacked=None, consumers=0)
        seen = await bench.until(lambda s: len(s.queues) == 3 and "ordres" in s.absent)
        assert seen.asked == ("ordres", "orders.eu", "orders.us")
        assert seen.absent == {"ordres": "queue 'ordres' does not exist", "none.*": "no queue matches"}

    management = FakeManagement()
    management.listed = [QueueInfo(name=name) for name in ("orders.us", "orders.eu", "borders.eu")]
    Bench(management, queues="ordres, none.*, orders.*").run(story)


def test_a_pattern_that_matches_nothing_shows_nothing_instead_of_every_queue() -> None:
    async def story(bench: Bench) -> None:
        seen = await bench.until(lambda s: bool(s.queues) and "none.*" in s.absent)
        assert seen.asked == ("none.*",)
        assert not queues(seen).rows

    management = FakeManagement()
    management.listed = [QueueInfo(name="orders.eu", messages_ready=9, messages_unacknowledged=0, consumers=0)]
    Bench(management, queues="none.*").run(story)


def test_without_a_management_api_a_pattern_cannot_be_resolved_and_rates_are_unknown() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["orders"] = QueueReading(ready=7, unacked=None, consumers=1)
        seen = await bench.until(lambda s: "orders" in s.queues)
        assert seen.absent == {"o*": "a pattern needs the management API, which lists the queues"}
        assert [(source.name, source.ok) for source in seen.sources] == [("broker", True), ("management", False)]
        outlook = seen.queues["orders"].outlook
        assert outlook is not None
        assert (outlook.wait_s, outlook.growth_per_s) == (None, None)

    Bench(queues="orders,o*").run(story)


def test_a_missing_queue_of_others_costs_their_broker_a_refusal_each_ten_seconds() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["orders"] = QueueReading(ready=7, unacked=None, consumers=1)
        await bench.until(lambda _: bench.broker.reads.count("orders") == 3)
        for elapsed_s, asked in ((1.0, 2), (9.0, 2), (1.0, 3)):
            bench.clock.time_s += elapsed_s
            before = bench.broker.reads.count("orders")
            await bench.until(lambda _, before=before: bench.broker.reads.count("orders") > before + 2)  # type: ignore[misc]  # bound at once
            assert bench.broker.reads.count("ordres") == asked

    Bench(queues="orders,ordres").run(story)


def test_a_user_who_may_see_queues_only_sees_them() -> None:
    async def story(bench: Bench) -> None:
        seen = await bench.until(lambda s: s.broker is not None)
        assert "other.queue" in seen.queues
        assert seen.broker is not None
        assert seen.broker.memory_bytes is None

    class QueuesOnly(FakeManagement):
        async def nodes(self) -> list[NodeInfo]:
            raise AccessRefusedError("http://test:15672", "Not monitor user")

    Bench(QueuesOnly()).run(story)


def test_a_broker_without_statistics_tells_its_queues_all_the_same() -> None:
    async def story(bench: Bench) -> None:
        seen = await bench.until(lambda s: s.broker is not None)
        assert seen.broker is not None
        assert seen.broker.statistics_off
        assert (seen.queues["other.queue"].ready, seen.queues["other.queue"].acked_per_s) == (3, None)
        assert all(source.ok for source in seen.sources if source.name == "management")

    class Disabled(FakeManagement):
        async def overview(self) -> Overview:
            return Overview(version="3.10.8", statistics_off=True)

        async def consumers(self) -> list[ConsumerInfo]:
            raise TransportError("Stats in management UI are disabled on this node")

        async def channels(self) -> list[ChannelInfo]:
            raise TransportError("Stats in management UI are disabled on this node")

    Bench(Disabled(), queues="other.queue").run(story)


def test_a_monitor_that_must_not_create_the_exchange_for_reports_shows_the_queues_and_listens_later() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["work.queue"] = QueueReading(ready=1, unacked=None, consumers=0)
        await bench.until(lambda s: "work.queue" in s.queues)
        assert bench.broker.created == [True, False]

    bench = Bench()
    start = bench.broker.start

    async def refusing(on_report: Callable[[bytes], None] | None = None) -> None:
        if bench.broker.created == [True] and on_report is not None:
            raise AccessRefusedError(bench.broker.address, "access to exchange 'pace.feedback' refused")
        await start(on_report)

    bench.broker.start = refusing  # type: ignore[method-assign]  # refuses once
    bench.run(story)


def test_a_management_api_of_another_broker_is_not_believed_and_told() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.is_apis = False
        bench.broker.readings["other.queue"] = QueueReading(ready=7, unacked=None, consumers=1)
        seen = await bench.until(lambda s: any(source.foreign for source in s.sources) and "other.queue" in s.queues)
        assert "the management API at http://other:15672 is another broker's" in seen.sources[1].error
        assert seen.broker is None
        assert seen.queues["other.queue"].unacked is None
        bench.broker.is_apis = True
        await bench.until(lambda s: s.broker is not None)

    Bench(FakeManagement(), queues="other.queue").run(story)


async def reporting(bench: Bench, seconds: int, *reports: Callable[[int], Report]) -> QueueState:
    """Let programs report what each of ``reports`` returns for each second, and return their queue."""
    for second in range(seconds):
        bench.clock.time_s += 1.0
        for report in reports:
            bench.broker.report(replace(report(second), queue="orders", at_ns=bench.clock.wall_ns()))
        bench.observer.glance()
        reads = len(bench.broker.reads)
        await bench.until(lambda _, reads=reads: len(bench.broker.reads) > reads)  # type: ignore[misc]  # bound at once
    return bench.observer.snapshot().queues["orders"]


def counting(publish: float, ack: float) -> FakeManagement:
    management = FakeManagement()
    rates = {"publish": 900, "publish_details": {"rate": publish}, "ack": 700, "ack_details": {"rate": ack}}
    management.listed = [QueueInfo.model_validate({"name": "orders", "messages_ready": 1500, "message_stats": rates})]
    return management


def paced(per_s: int, **changes: object) -> Callable[[int], Report]:
    return lambda second: replace(PRODUCER, confirmed=per_s * second, **changes)  # type: ignore[arg-type]  # the values of a test


def working(per_s: int, **changes: object) -> Callable[[int], Report]:
    return lambda second: replace(CONSUMER, processed=per_s * second, **changes)  # type: ignore[arg-type]  # the values of a test


@pytest.mark.parametrize("queues", ["orders", ""])
def test_what_enters_a_queue_is_not_only_what_producers_that_report_send(queues: str) -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["orders"] = QueueReading(ready=1500, unacked=None, consumers=1)
        await bench.until(lambda s: s.broker is not None)
        orders = await reporting(bench, 12, paced(20))
        assert (orders.published_per_s, orders.acked_per_s) == (150.0, 80.0)
        if queues:
            assert orders.outlook is not None
            assert orders.outlook.statistics_age_s == 10.0

    Bench(counting(publish=150.0, ack=80.0), queues=queues).run(story)


def test_reports_tell_what_enters_as_long_as_they_explain_what_the_broker_counted_some_seconds_ago() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["orders"] = QueueReading(ready=1500, unacked=None, consumers=1)
        await bench.until(lambda s: s.broker is not None)
        await reporting(bench, 8, paced(150))
        orders = await reporting(bench, 4, lambda second: replace(PRODUCER, confirmed=150 * 7 + 10 * (second + 1)))
        assert orders.published_per_s == pytest.approx(10.0)

    Bench(counting(publish=150.0, ack=80.0), queues="orders").run(story)


def test_what_a_full_queue_refuses_does_not_enter_it_though_the_broker_counts_it() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["orders"] = QueueReading(ready=1500, unacked=None, consumers=1)
        await bench.until(lambda s: s.broker is not None)

        def refused(second: int) -> Report:
            return replace(PRODUCER, confirmed=80 * second, nacked=70 * second)

        assert (await reporting(bench, 12, refused)).published_per_s == pytest.approx(80.0)
        management.listed = counting(publish=250.0, ack=80.0).listed  # somebody sends another hundred
        bench.observer._take_listing(management.listed, counted=True)
        orders = await reporting(bench, 2, lambda second: refused(second + 12))
        assert orders.published_per_s == pytest.approx(180.0)

    management = counting(publish=150.0, ack=80.0)
    Bench(management, queues="orders").run(story)


@pytest.mark.parametrize("consumer", [working(8000), working(0, paused=True)])
def test_what_leaves_a_queue_is_what_the_broker_counts_where_reports_contradict_it(
    consumer: Callable[[int], Report],
) -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["orders"] = QueueReading(ready=1500, unacked=None, consumers=1)
        await bench.until(lambda s: s.broker is not None)
        orders = await reporting(bench, 30, consumer)
        assert orders.acked_per_s == 80.0
        assert orders.outlook is not None
        assert orders.outlook.wait_s == pytest.approx(1500 / 80)

    Bench(counting(publish=150.0, ack=80.0), queues="orders").run(story)


def test_without_statistics_what_enters_is_what_leaves_and_what_is_left_if_all_consumers_report() -> None:
    async def story(bench: Bench) -> None:
        def counted(second: int) -> Report:
            bench.broker.readings["orders"] = QueueReading(ready=70 * second, unacked=None, consumers=1)
            return replace(CONSUMER, processed=80 * second)

        counted(0)
        await bench.until(lambda s: "orders" in s.queues)
        orders = await reporting(bench, 14, paced(20), counted)
        assert orders.published_per_s == pytest.approx(150.0, rel=0.05)
        assert orders.acked_per_s == pytest.approx(80.0)

    Bench(queues="orders").run(story)


def test_where_nobody_tells_what_others_send_a_part_of_it_is_not_shown_as_all() -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["orders"] = QueueReading(ready=1500, unacked=None, consumers=1)
        await bench.until(lambda s: "orders" in s.queues)
        assert (await reporting(bench, 12, paced(20))).published_per_s is None

    Bench(queues="orders").run(story)


@pytest.mark.parametrize("asked", ["orders", "or*,missing"])
def test_programs_of_queues_that_nobody_asked_for_are_not_shown(asked: str) -> None:
    async def story(bench: Bench) -> None:
        bench.broker.readings["orders"] = QueueReading(ready=15, unacked=None, consumers=1)
        await bench.until(lambda s: s.broker is not None)
        for second in range(10):
            bench.clock.time_s += 1.0
            at_ns = bench.clock.wall_ns()
            for queue, per_s in (("orders", 20), ("tmp", 500)):
                sent, cut = per_s * second, 8.0 if second > 5 else 84.0
                bench.broker.report(
                    replace(PRODUCER, id=queue, queue=queue, at_ns=at_ns, confirmed=sent, pacing_rate_per_s=cut)
                )
                bench.broker.report(replace(CONSUMER, id=queue, queue=queue, at_ns=at_ns, processed=sent))
            bench.observer._watch.observe(bench.observer.glance(), bench.clock.now())
        seen = bench.observer.snapshot()
        assert [(process.role, process.id, process.queue) for process in seen.processes] == [
            ("producer", "orders", "orders"), ("consumer", "orders", "orders"),
        ]  # fmt: skip
        assert (seen.totals.confirmed, seen.totals.processed) == (180, 180)
        assert seen.rates.confirmed_per_s == pytest.approx(20.0)
        assert seen.pacing_rate_per_s == 8.0
        name = "orders" if asked == "orders" else "orders of orders"
        told = [event.text for event in seen.events if event.kind is EventKind.RATE_CUT]
        assert told == [f"{name} cut its pace from 84 to 8 msg/s: "]
        assert not any("tmp" in event.text for event in seen.events)

    Bench(counting(publish=20.0, ack=20.0), queues=asked).run(story)
