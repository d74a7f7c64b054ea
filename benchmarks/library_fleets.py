"""A fleet that uses the library alone: ``python benchmarks/library_fleets.py [--consumers 200] [--producers 50]``.

On a private RabbitMQ, `Reporter` beside each consumer and `Paced` before each producer, in ``--processes`` processes of
each role. Each has connections of its own, as if it were a process: a `Paced` gets an address of its own, so it does
not share the thread that watches the queue. A monitor hears all reports. All consumers together do ``--rate`` messages
a second, and five times as much is offered. The output is deliveries a second (to producers, to the monitor, and
answers to consumers), processor time, utilisation, wait and Jain's index: in the first ``--warm`` seconds, when nobody
knows yet how many there are, and in ``--seconds`` after that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from typing import Any

import psutil

from backpressure import Paced, Reporter
from backpressure.core.histogram import Histogram
from backpressure.core.message import Delivery
from backpressure.errors import PaceError
from backpressure.integrations.watcher import QueueWatcher
from backpressure.settings import Settings
from backpressure.transports.factory import connect
from backpressure.transports.rabbitmq_node import find_rabbitmq, private_node

QUEUE = "library.fleet"
PREFETCH = 3


def counting(kind: type, name: str, counted: list[int]) -> None:
    """Let ``kind`` count the calls of its method ``name``."""
    method = getattr(kind, name, None)
    if method is None:  # of an older version, to compare with
        return

    def count(self: object, payload: bytes) -> None:
        counted[0] += 1
        method(self, payload)

    setattr(kind, name, count)


class Consumer:
    """Works on one message at a time, and reports it; a `SubscriberListener`."""

    def __init__(self, url: str, service_s: float) -> None:
        self.done = 0
        self.waits = Histogram()
        self._url = url
        self._reporter: Reporter
        self._service_s = service_s
        self._waiting: asyncio.Queue[Delivery] = asyncio.Queue()

    def on_ready(self) -> None:
        """Begin."""

    def on_delivery(self, delivery: Delivery) -> None:
        """Keep it until its turn."""
        self._reporter.received()
        self._waiting.put_nowait(delivery)

    def on_lost(self, error: Exception) -> None:
        """The benchmark is of no use then."""
        raise error

    async def run(self) -> None:
        """Consume until cancelled."""
        subscriber = connect(Settings.model_validate({"broker": {"url": self._url}})).subscriber()
        reporter = self._reporter = Reporter(QUEUE, self._url, prefetch=PREFETCH)
        await subscriber.start(self, queue=QUEUE, prefetch=PREFETCH)
        while True:
            delivery = await self._waiting.get()
            self.waits.record(max(0.0, (time.monotonic_ns() - int(delivery.message.body)) / 1e9))
            with reporter.work():
                await asyncio.sleep(self._service_s)
                subscriber.ack(delivery)
            self.done += 1


class Producer:
    """Sends as fast as it may, and at most ``most_per_s``."""

    def __init__(self, url: str, address: str, most_per_s: float) -> None:
        self.done = 0
        self.waits = Histogram()
        self._paced = Paced(url, QUEUE, url=address, max_per_s=most_per_s)

    async def run(self) -> None:
        """Publish until cancelled."""
        async with self._paced:
            while True:
                with suppress(PaceError):
                    await self._paced.publish(b"%d" % time.monotonic_ns())
                    self.done += 1


def stand_in(make: Callable[[int], Consumer | Producer], numbers: list[int], line: Connection) -> None:
    """Run those of these numbers, and tell their counts whenever asked."""
    asyncio.run(_stand_in(make, numbers, line))


async def _stand_in(make: Callable[[int], Consumer | Producer], numbers: list[int], line: Connection) -> None:
    heard = [0]
    counting(QueueWatcher, "_on_report", heard)
    counting(Reporter, "told", heard)
    members = [make(number) for number in numbers]
    running = [asyncio.create_task(member.run()) for member in members]
    loop = asyncio.get_running_loop()
    while (await loop.run_in_executor(None, line.recv)) != "stop":
        waits: dict[int, int] = {}
        for member in members:
            for bucket, count in member.waits.counts.items():
                waits[bucket] = waits.get(bucket, 0) + count
        line.send(([member.done for member in members], waits, heard[0]))
    for task in running:
        task.cancel()
    os._exit(0)  # hundreds of connections need not say goodbye


class Role:
    """All stand-ins of one role."""

    def __init__(self, make: Callable[[int], Consumer | Producer], count: int, processes: int) -> None:
        self.lines: list[Connection] = []
        self.children: list[Process] = []
        for part in range(processes):
            ours, theirs = Pipe()
            child = Process(target=stand_in, args=(make, list(range(part, count, processes)), theirs), daemon=True)
            child.start()
            self.lines.append(ours)
            self.children.append(child)

    def counts(self) -> tuple[list[int], dict[int, int], int]:
        """Return what each has done, the waits, and how much they heard."""
        for line in self.lines:
            line.send("counts")
        answers = [line.recv() for line in self.lines]
        waits: dict[int, int] = {}
        for _, told, _ in answers:
            for bucket, count in told.items():
                waits[bucket] = waits.get(bucket, 0) + count
        return [one for done, _, _ in answers for one in done], waits, sum(heard for _, _, heard in answers)

    def stop(self) -> None:
        """End all."""
        for line, child in zip(self.lines, self.children, strict=True):
            line.send("stop")
            child.join(10)
            child.kill()


async def measure(url: str, broker_pid: int, args: argparse.Namespace) -> None:
    """Start the fleet and print what it costs and does."""
    service_s, offered = args.consumers / args.rate, 5 * args.rate / args.producers
    transport = connect(Settings.model_validate({"broker": {"url": url}}))
    monitored, monitor, admin = [0], transport.feedback(), transport.admin()

    def hear(_payload: bytes) -> None:
        monitored[0] += 1

    await monitor.start(hear)
    await admin.start()
    await admin.declare(Settings.model_validate({"queue": {"work": QUEUE}}).queue)
    consumers = Role(lambda _number: Consumer(url, service_s), args.consumers, args.processes)
    producers = Role(lambda number: Producer(url, f"{url}?number={number}", offered), args.producers, args.processes)
    broker, ours = (
        [psutil.Process(broker_pid)],
        [psutil.Process(child.pid) for child in (*consumers.children, *producers.children)],
    )

    def seen() -> tuple[Any, ...]:
        spent = [sum(sum(process.cpu_times()[:2]) for process in group) for group in (broker, ours)]
        return time.monotonic(), consumers.counts(), producers.counts(), monitored[0], spent

    async def phase(name: str, seconds: float) -> None:
        begun, worked, sent, told, spent = await asyncio.to_thread(seen)
        await asyncio.sleep(seconds)
        ended, worked_then, sent_then, told_then, spent_then = await asyncio.to_thread(seen)
        span_s = ended - begun
        used = (sum(worked_then[0]) - sum(worked[0])) * service_s / span_s / args.consumers
        waits = Histogram({bucket: count - worked[1].get(bucket, 0) for bucket, count in worked_then[1].items()})
        shares = [new - old for new, old in zip(sent_then[0], sent[0], strict=True)]
        jain = sum(shares) ** 2 / len(shares) / max(1, sum(share * share for share in shares))
        to_producers, answers = (
            (then[2] - now[2]) / span_s for then, now in ((sent_then, sent), (worked_then, worked))
        )
        to_monitor = (told_then - told) / span_s
        busy = [(then - now) / span_s for then, now in zip(spent_then, spent, strict=True)]
        print(f"  {name}: {to_producers + answers + to_monitor:.0f} deliveries/s ({to_producers:.0f} to producers, "
              f"{to_monitor:.0f} to a monitor, {answers:.0f} answers), broker {busy[0]:.2f}, "
              f"stand-ins {busy[1]:.2f} cores, used {used:.3f}, wait p50 {1e3 * (waits.quantile_s(0.5) or 0):.0f}, "
              f"p99 {1e3 * (waits.quantile_s(0.99) or 0):.0f} ms, Jain {jain:.4f}", flush=True)  # fmt: skip

    print(f"{args.consumers} Reporter, {args.producers} Paced, {args.rate:.0f} msg/s")
    try:
        await phase(f"first {args.warm:.0f} s", args.warm)
        for _ in range(args.repeat):
            await phase(f"next {args.seconds:.0f} s", args.seconds)
    finally:
        producers.stop()
        consumers.stop()
        await monitor.stop()
        await admin.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--consumers", type=int, default=200)
    parser.add_argument("--producers", type=int, default=50)
    parser.add_argument("--rate", type=float, default=400.0, help="messages a second of all consumers together")
    parser.add_argument("--warm", type=float, default=25.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="of each role")
    args = parser.parse_args()
    if find_rabbitmq() is None:
        raise SystemExit("rabbitmq-server is not installed")
    with private_node() as node:
        asyncio.run(measure(node.url, node.pid, args))


if __name__ == "__main__":
    os.environ.setdefault("PACE_CONFIG", "")
    main()
