"""Proxies as the producers of a large fleet, in virtual time: two hear all reports, and consumers are told."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from virtual_time import VirtualClock, run_virtually

from backpressure.core.reports import ConsumerReport, ProducerReport, decode
from backpressure.core.sums import SUMS_SUFFIX
from backpressure.core.turns import encode_interval
from backpressure.proxy.engine import ProxyConfig, ProxyEngine
from backpressure.proxy.listener import ListenAddress
from backpressure.proxy.watching import QueueTally, WatchedConsumer
from backpressure.settings import Settings
from backpressure.transports.memory import MemoryTransport
from backpressure.transports.memory.memory_broker import MemoryBroker
from backpressure.transports.rabbitmq.reporter import Reporter

PROXIES, CONSUMERS = 24, 60
EXCHANGE = "pace.feedback"


async def a_proxy(broker: MemoryBroker, settings: Settings, *queues: str) -> ProxyEngine:
    """Return a proxy that listens nowhere."""
    config = ProxyConfig(listen=ListenAddress("localhost", 0), queues=queues)
    proxy = ProxyEngine(MemoryTransport(settings, broker), settings, config, VirtualClock())
    await proxy._connect()
    return proxy


async def busy(proxy: ProxyEngine) -> None:
    """Let the proxy work, with messages that come for its queues."""
    reporting = asyncio.create_task(proxy._report_forever())
    try:
        while True:
            for loop in proxy.loops.values():
                loop.queue.arrived += 1
            await asyncio.sleep(0.1)
    finally:
        loops = [loop.task for loop in proxy.loops.values() if loop.task is not None]
        for task in (reporting, *loops):
            task.cancel()


async def report(reporter: Reporter, broker: MemoryBroker, settings: Settings) -> None:
    """Send reports as a consumer that asks does."""
    bus = MemoryTransport(settings, broker).feedback()
    await bus.start(on_answer=reporter.told)
    while True:
        if (due := reporter.due()) is not None:
            bus.send(due.payload, asks=due.asks)
        await asyncio.sleep(0.1)


def test_proxies_of_a_large_fleet_go_by_sums_and_tell_consumers_how_often_to_report() -> None:
    async def story() -> tuple[int, int, set[float], int]:
        settings, broker = Settings.model_validate({"broker": {"port": 1}}), MemoryBroker()
        await MemoryTransport(settings, broker).admin().declare(settings.queue)
        clock = asyncio.get_running_loop().time
        reporters = [Reporter(settings.queue.work, prefetch=1, name=f"c{n}", clock=clock) for n in range(CONSUMERS)]
        proxies = [await a_proxy(broker, settings, settings.queue.work) for _ in range(PROXIES)]
        tasks = [asyncio.create_task(report(reporter, broker, settings)) for reporter in reporters]
        tasks += [asyncio.create_task(busy(proxy)) for proxy in proxies]
        heard: list[ConsumerReport | ProducerReport] = []
        await asyncio.sleep(8)
        monitor = MemoryTransport(settings, broker).feedback()
        await monitor.start(lambda payload: heard.append(decode(payload)))
        await asyncio.sleep(2)
        knowing = sum(isinstance(each, ProducerReport) and not each.knows_sums for each in heard)
        listening = len(broker.listeners[EXCHANGE]) - 1, len(broker.listeners[EXCHANGE + SUMS_SUFFIX])
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        return *listening, {reporter.report_every_s for reporter in reporters}, knowing

    listening, summing, told, not_knowing = run_virtually(story())
    assert (listening, summing, not_knowing) == (2, PROXIES, 0)
    assert min(told) > 0.1


def test_a_proxy_that_only_consumers_pass_asks_how_often_to_report_for_them() -> None:
    async def story() -> tuple[int, int, bool]:
        settings, broker = Settings.model_validate({"broker": {"port": 1}}), MemoryBroker()
        proxy = await a_proxy(broker, settings)
        asked: list[bytes] = []

        def answer(payload: bytes) -> bytes:
            asked.append(payload)
            return encode_interval("others", 4.0)

        heard: list[bytes] = []
        producer = MemoryTransport(settings, broker).feedback()
        await producer.start(heard.append, answer=answer)
        for number in range(5):
            consumer = WatchedConsumer(number, "others", QueueTally(), no_ack=False, prefetch=1)
            proxy.view.consumers[number] = consumer
        reporting = asyncio.create_task(proxy._report_forever())
        await asyncio.sleep(20)
        told = len(heard)
        hears = []
        for _ in range(3000):
            hears.append(proxy._feedback._on_report in broker.listeners[EXCHANGE])
            await asyncio.sleep(0.1)
        reporting.cancel()
        return told, len(asked), sum(hears)

    told, asked, hears = run_virtually(story())
    assert told <= 40  # five every four seconds, after a start
    assert asked <= 18  # one for the queue every half a minute, in more than five
    assert 150 <= hears <= 900  # of 3000 looks: for eight seconds, every half to one and a half minutes


def test_a_proxy_of_a_large_fleet_finds_out_now_and_then_whether_consumers_report_themselves() -> None:
    async def story() -> tuple[bool, bool, bool, int]:
        settings, broker = Settings.model_validate({"broker": {"port": 1}}), MemoryBroker()
        proxy = await a_proxy(broker, settings)
        producer = MemoryTransport(settings, broker).feedback()
        await producer.start(lambda _: None, answer=lambda _: encode_interval("others", 4.0))
        clock = asyncio.get_running_loop().time
        for number in range(5):
            consumer = WatchedConsumer(number, "others", QueueTally(), no_ack=False, prefetch=1)
            proxy.view.consumers[number] = consumer

        async def count(_queue: str) -> float:
            return 5

        setattr(proxy, "_count_consumers", count)  # noqa: B010 - an instance may have another one
        looking = [asyncio.create_task(proxy._report_forever()), asyncio.create_task(proxy._find_doubles_forever())]
        await asyncio.sleep(100)
        before = "others" in proxy._silent_about
        reporters = [Reporter("others", prefetch=1, name=f"c{n}", clock=clock) for n in range(5)]
        reports = [asyncio.create_task(report(reporter, broker, settings)) for reporter in reporters]
        await asyncio.sleep(110)
        meanwhile, hears = "others" in proxy._silent_about, 0
        for _ in range(300):
            hears += proxy._feedback._on_report in broker.listeners[EXCHANGE]
            await asyncio.sleep(1)
        for task in reports:
            task.cancel()
        await asyncio.sleep(210)
        after = "others" in proxy._silent_about
        for task in looking:
            task.cancel()
        return before, meanwhile, after, hears

    *silent, hears = run_virtually(story())
    assert silent == [False, True, False]
    assert hears <= 150  # of 300 looks
