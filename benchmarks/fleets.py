"""What reports of a fleet cost: ``python benchmarks/fleets.py [--consumers 200] [--producers 50] [--seconds 15]``.

First the octets of a report and the time to decode it, compact and as JSON. Then, on a private RabbitMQ, what a message
costs: the processor time of the broker, one producer and one consumer at a steady rate, divided by the messages. Then
stand-ins that only listen: two producers and a monitor that hear all reports, and all producers as they hear sums, get
what the whole fleet sends at its own intervals, through the real feedback bus and decoder. The output is deliveries and
processor time a second, of the broker and of all listeners together, and their part of what the fleet's messages cost
(``--messages`` a second).

``--pace`` runs stand-ins that keep pace instead: the engines of all producers and consumers, each with connections of
its own, in ``--processes`` processes of each role, for ``--rate`` messages a second of all consumers together. The
output is utilisation, wait, Jain's index and deliveries in ``--seconds`` after ``--warm`` seconds, and then after all
consumers have become five times slower; before it the same of five producers and five consumers. Producers are told the
management API of the private broker, which is at no usual port, unless ``--no-management``. ``--model`` does this
in virtual time, for fixed and exponential service, with a rise to three times the rate after the fall; and also for the
same consumers before five producers, all reporting ten times a second without a bound (``--model --rate 2000``). A
thousand producers begin one after the other: ``--model --rate 100000 --consumers 1000 --producers 1000 --join 20
--prefetch 5 --service fixed --seeds 1``, a few minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
import timeit
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from math import inf
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, cast, get_args
from unittest.mock import patch

import psutil

from backpressure.core import reports
from backpressure.core.controllers import LawConfig, create
from backpressure.core.histogram import Histogram
from backpressure.core.journal import read_records
from backpressure.core.plant import Network, Plant, Workers
from backpressure.core.plant.sources import PlantProducer
from backpressure.core.reports import ConsumerReport, ProducerReport, Report, decode, encode, encode_compact
from backpressure.core.sums import SEATS, FleetSize, FleetSum, decode_sum, encode_sum, is_sum
from backpressure.engines.clock import Clock
from backpressure.engines.consumer import ConsumerEngine
from backpressure.engines.producer import ProducerEngine
from backpressure.settings import Settings
from backpressure.transports.base import FeedbackBus, Transport
from backpressure.transports.factory import connect
from backpressure.transports.rabbitmq_node import PrivateNode, find_rabbitmq, private_node

USUAL_S = 0.1
FULL_EVERY = 10
MESSAGE_RATE = 2000
WARM_S = 4.0


def sample(number: int = 1) -> ConsumerReport:
    waits = Histogram({bucket: bucket for bucket in range(200, 280)}, 12.5)
    return ConsumerReport(
        id=f"consumer-{number}", pid=4711, host="worker-07.example", at_ns=time.time_ns(), queue="orders",
        delivered=120_710, processed=120_705, held=5, prefetch=20, busy_s=1207.5, service_sum_s=1200.5,
        service_sum_s2=12.1, rss_bytes=48 << 20, cpu_s=44.1, queue_wait=waits, message_age=waits, service=waits,
        api_url="http://127.0.0.1:8001", interval_s=6.4, recent_s=1.0, recent=100, recent_busy_s=0.98,
    )  # fmt: skip


def show_codec() -> None:
    report = sample()
    print(f"{'report':<24}{'octets':>8}{'decode, µs':>12}")
    for name, data in (
        ("compact, brief", encode_compact(report, brief=True)),
        ("compact, full", encode_compact(report)),
        ("JSON, full", encode(report)),
    ):
        best_s = min(timeit.repeat(partial(decode, data, histograms=False), number=2000, repeat=10)) / 2000
        print(f"{name:<24}{len(data):>8}{best_s * 1e6:>12.1f}")
    data = encode_sum(sample_sum())
    best_s = min(timeit.repeat(lambda: decode_sum(data), number=2000, repeat=10)) / 2000
    print(f"{'sum':<24}{len(data):>8}{best_s * 1e6:>12.1f}")


def sample_sum() -> FleetSum:
    return FleetSum(
        queue="orders", session=1, first=1, second=2, at_ns=time.time_ns(), confirmed=10**9, departed=1e9,
        observed_s=1e6, busy_s=1e6, told_s=1e6, reporting=200, working=200, held=600, producers=50, counted_ready=40,
        counted_unacked=600, counted_age_s=0.05, departed_age_s=0.25, newest_s=0.01, interval_s=0.55,
        service_mean_s=0.1, service_cv2=1.0, flow_per_s=2000.0, left_per_s=2000.0, weights=50.0,
        bottleneck_per_s=2000.0, extra=0.0, next_s=0.1, report_s=0.55,
    )  # fmt: skip


async def hear_fleet(url: str, pid: int, consumers: int, producers: int, seconds: float) -> tuple[int, float, float]:
    """Return deliveries, and seconds of processor time of the broker and of this process."""
    settings = Settings.model_validate({"broker": {"url": url}})
    heard: list[Report | FleetSum] = []
    deliveries = 0

    def on_report(payload: bytes) -> None:
        heard[:] = [decode_sum(payload) if is_sum(payload) else decode(payload, histograms=False)]
        nonlocal deliveries
        deliveries += 1

    report_s, sum_s = FleetSize(consumers, producers).intervals_s(USUAL_S)
    async with AsyncExitStack() as stack:
        for number in range(producers + 1):
            bus = connect(settings).feedback()
            stack.push_async_callback(bus.stop)
            await bus.start(on_report)
            bus.listen(reports=number <= SEATS, sums=number < producers)  # the last one to hear reports is a monitor
        speaker = connect(settings).feedback()
        stack.push_async_callback(speaker.stop)
        await speaker.start(lambda _payload: None)
        speaker.listen(reports=False, sums=True)
        every_s = report_s / (consumers + producers)
        sums_every_s = sum_s / 1.25  # those of the second one too
        broker, us = psutil.Process(pid), psutil.Process()
        await asyncio.sleep(2)
        deliveries, before = 0, [sum(process.cpu_times()[:2]) for process in (broker, us)]
        begun = time.monotonic()
        number = sums = 0
        while (now := time.monotonic()) - begun < seconds:
            while begun + number * every_s <= now:
                speaker.send(encode_compact(sample(number), brief=number % FULL_EVERY != 0))
                number += 1
            while begun + sums * sums_every_s <= now:
                speaker.send(encode_sum(sample_sum()), is_sum=True)
                sums += 1
            await asyncio.sleep(min(0.02, every_s))
        await asyncio.sleep(0.5)
        spent = [sum(process.cpu_times()[:2]) for process in (broker, us)]
    return deliveries, spent[0] - before[0], spent[1] - before[1]


def spent_s(processes: list[psutil.Process]) -> float:
    """Return the processor time that they have used."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def message_cost_us(url: str, broker_pid: int, broker_idle: float, seconds: float) -> tuple[float, float]:
    """Return the processor time of a message, of broker, producer and consumer together, and the rate of messages."""
    program = [sys.executable, "-m", "backpressure"]
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder, "producer.journal")
        environment = os.environ | {"PACE_CONFIG": "", "PACE_API__ENABLED": "false", "PACE_LOG__LEVEL": "ERROR"}
        start = partial(subprocess.Popen[bytes], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        consumer = start([*program, "consumer", "--url", url, "--rate", "max"], env=environment)
        rate = ["--rate", str(MESSAGE_RATE), "--strategy", "bounded"]
        environment["PACE_PROCESS__JOURNAL_FILE"] = str(journal)
        producer = start([*program, "producer", "--url", url, *rate], env=environment)
        try:
            time.sleep(WARM_S)
            processes = [psutil.Process(pid) for pid in (broker_pid, producer.pid, consumer.pid)]
            begun, before_s = time.time_ns(), spent_s(processes)
            time.sleep(seconds)
            ended, after_s = time.time_ns(), spent_s(processes)
        finally:
            for process in (producer, consumer):
                process.terminate()
                process.wait()
        sent = sum(begun <= record.sent_ns < ended for record in read_records(journal.read_bytes()))
    span_s = (ended - begun) / 1e9
    if not sent:
        raise SystemExit("the producer sent nothing")
    return 1e6 * (after_s - before_s - broker_idle * span_s) / sent, sent / span_s


class Counting:
    """A transport whose feedback buses count what they hear."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.heard = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def feedback(self) -> FeedbackBus:
        """Return a bus as the transport has, that counts."""
        bus = self._inner.feedback()
        start = bus.start

        async def counting(on_report: Callable[[bytes], None] | None = None, **others: Any) -> None:
            def count(payload: bytes) -> None:
                self.heard += 1
                if on_report is not None:
                    on_report(payload)

            await start(count if on_report is not None else None, **others)

        setattr(bus, "start", counting)  # noqa: B010 - an instance may have another one
        return bus


def stand_in(broker: dict[str, str], role: str, names: list[int], rate: float, line: Connection) -> None:
    """Run the engines of several processes of one role; tell counts whenever asked, and slow down on demand."""
    asyncio.run(_stand_in(broker, role, names, rate, line))


async def _stand_in(broker: dict[str, str], role: str, names: list[int], rate: float, line: Connection) -> None:
    clock, transports = Clock(), []
    engines: list[ProducerEngine | ConsumerEngine] = []
    async with asyncio.TaskGroup() as group:
        for name in names:
            settings = Settings.model_validate(
                {
                    "broker": broker,
                    "producer": {"rate": rate, "producer_id": f"producer-{name}"},
                    "consumer": {"rate": rate, "name": f"consumer-{name}", "prefetch": 3},
                    "process": {"seed": name + 1},
                }
            )
            transports.append(Counting(connect(settings)))
            transport = cast("Transport", transports[-1])
            make = ProducerEngine if role == "producer" else ConsumerEngine
            engines.append(make(transport, settings, clock))
            await engines[-1].start()
            group.create_task(engines[-1].run())
        line.send("started")
        orders: asyncio.Queue[object] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(line.fileno(), lambda: orders.put_nowait(line.recv()))
        while (order := await orders.get()) != "stop":
            if order == "counts":
                line.send((*_told(engines), sum(transport.heard for transport in transports)))
            else:
                for engine in engines:
                    if isinstance(engine, ConsumerEngine) and isinstance(order, float):
                        engine.slow_down(order)
        for engine in engines:
            engine.stop()
    for engine in engines:
        await engine.close()


def _told(engines: list[ProducerEngine | ConsumerEngine]) -> tuple[list[int], Counter[int]]:
    """Return what each has done, and the waits of all."""
    done: list[int] = []
    waits: Counter[int] = Counter()
    for engine in engines:
        report = engine.report()
        done.append(report.confirmed if isinstance(report, ProducerReport) else report.processed)
        if isinstance(report, ConsumerReport):
            waits.update(report.queue_wait.counts)
    return done, waits


class Fleet:
    """Stand-ins of both roles, in a few processes."""

    def __init__(self, node: PrivateNode, consumers: int, producers: int, args: argparse.Namespace) -> None:
        broker = {"url": node.url} | ({"management_url": node.management_url} if args.management else {})
        self.lines: dict[str, list[Connection]] = {"consumer": [], "producer": []}
        self._children = []
        rates = {"consumer": args.rate / consumers, "producer": 5 * args.rate / producers}
        for role, count in (("consumer", consumers), ("producer", producers)):
            parts = min(count, args.processes)
            for part in range(parts):
                ours, theirs = Pipe()
                names = list(range(part, count, parts))
                child = Process(target=stand_in, args=(broker, role, names, rates[role], theirs), daemon=True)
                child.start()
                self._children.append(child)
                self.lines[role].append(ours)
            for line in self.lines[role]:
                line.recv()

    def counts(self, role: str) -> tuple[list[int], Counter[int], int]:
        """Return what each of a role has done, all waits, and how many reports and sums they heard."""
        for line in self.lines[role]:
            line.send("counts")
        answers = [line.recv() for line in self.lines[role]]
        waits: Counter[int] = Counter()
        for _, told, _ in answers:
            waits.update(told)
        return [one for done, _, _ in answers for one in done], waits, sum(heard for _, _, heard in answers)

    def stop(self) -> None:
        """End all."""
        for line in [*self.lines["producer"], *self.lines["consumer"]]:
            line.send("stop")
        for child in self._children:
            child.join(20)
            child.kill()


def keep_pace(node: PrivateNode, consumers: int, producers: int, args: argparse.Namespace) -> None:
    """Run a fleet of stand-ins and print how well it kept pace."""
    fleet = Fleet(node, consumers, producers, args)
    time.sleep(args.warm)
    print(f"{consumers} consumers, {producers} producers, {args.rate:.0f} msg/s")
    for factor in (1.0, 5.0):
        if factor > 1:
            for line in fleet.lines["consumer"]:
                line.send(factor)
        begun = time.monotonic()
        done, waited, _ = fleet.counts("consumer")
        sent, _, heard = fleet.counts("producer")
        time.sleep(args.seconds)
        done_then, waited_then, _ = fleet.counts("consumer")
        sent_then, _, heard_then = fleet.counts("producer")
        span_s = time.monotonic() - begun
        used = (sum(done_then) - sum(done)) * factor / span_s / args.rate
        waits = Histogram(dict(waited_then - waited), 0.0)
        shares = [new - old for new, old in zip(sent_then, sent, strict=True)]
        jain = sum(shares) ** 2 / len(shares) / max(1, sum(share * share for share in shares))
        print(f"  {'after a fall to a fifth: ' if factor > 1 else ''}used {used:.3f}, "
              f"wait p50 {1e3 * (waits.quantile_s(0.5) or 0):.0f}, p99 {1e3 * (waits.quantile_s(0.99) or 0):.0f} ms, "
              f"Jain {jain:.4f}, {(heard_then - heard) / span_s:.0f} deliveries/s", flush=True)  # fmt: skip
    fleet.stop()


PHASES = (
    ("first 5 s", 5.0, 1.0),
    ("next 8 s", 8.0, 1.0),
    ("6 s after a fall to a fifth", 6.0, 0.2),
    ("5 s after a rise to three times that", 5.0, 0.6),
)
Service = Literal["fixed", "exponential", "uniform"]
FEW = 5
JOINING = 10  # groups in which the producers of a large fleet begin


def worked_s(plant: Plant) -> float:
    """Return the consumer-seconds of work until now: the plant counts work when it begins."""
    ahead = sum(consumer.done_s - plant.now for consumer in plant.queue.consumers if consumer.busy)
    return plant.queue.busy_s - ahead


def play(
    consumers: int, producers: int, distribution: Service, seed: int, args: argparse.Namespace
) -> list[list[float]]:
    """Return of each phase: utilisation, p50 and p99 wait in ms, Jain's index, and deliveries a second."""
    workers = Workers(
        count=consumers, rate_per_s=args.rate / consumers, distribution=distribution, prefetch=args.prefetch
    )
    network = Network(counted=args.management)
    plant = Plant(random.Random(seed).random, workers=workers, network=network, step_s=0.01)
    fleet: list[PlantProducer] = []
    groups = JOINING if args.join else 1
    for group in range(groups):
        joining = len(range(group, producers, groups))
        fleet += [plant.add_producer(create("pace", LawConfig()), 10 * args.rate / producers) for _ in range(joining)]
        plant.run(args.join / groups)
    told = []
    for _, seconds, factor in PHASES:
        plant.set_workers(replace(workers, rate_per_s=workers.rate_per_s * factor))
        busy_s, served = worked_s(plant), len(plant.queue.waits_s)
        sent, heard = [each.arrived for each in fleet], sum(each.heard for each in fleet)
        plant.run(seconds)
        waits = sorted(plant.queue.waits_s[served:])
        shares = [each.arrived - before for each, before in zip(fleet, sent, strict=True)]
        told.append(
            [
                (worked_s(plant) - busy_s) / consumers / seconds,
                1e3 * waits[len(waits) // 2],
                1e3 * waits[int(0.99 * len(waits))],
                sum(shares) ** 2 / len(shares) / sum(share * share for share in shares),
                (sum(each.heard for each in fleet) - heard) / seconds,
            ]
        )
    return told


def simulate(args: argparse.Namespace) -> None:
    """Print how well a fleet keeps pace in the model, beside ten processes, and beside its consumers without a bound.

    Figures are means over the seeds.
    """
    services: list[Service] = args.service
    for distribution in services:
        for consumers, producers, always in (
            (FEW, FEW, False),
            (args.consumers, FEW, True),
            (args.consumers, args.producers, False),
        ):
            most = inf if always else reports.MOST_DELIVERIES_PER_S
            with patch.object(reports, "MOST_DELIVERIES_PER_S", most):
                runs = [play(consumers, producers, distribution, seed, args) for seed in range(1, args.seeds + 1)]
            print(f"{consumers} consumers, {producers} producers, {args.rate:.0f} msg/s, {distribution} service"
                  f"{', reports always ten times a second' if always else ''}")  # fmt: skip
            for number, (name, _, _) in enumerate(PHASES):
                used, half, most, jain, told = (
                    fmean(column) for column in zip(*(run[number] for run in runs), strict=True)
                )
                print(f"  {name:<37}used {used:.4f}, wait p50 {half:.0f}, p99 {most:.0f} ms, Jain {jain:.4f},"
                      f" {told:.0f} deliveries/s", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--consumers", type=int, default=200)
    parser.add_argument("--producers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--messages", type=float, default=20_000.0, help="a second, of the whole fleet")
    parser.add_argument("--pace", action="store_true", help="stand-ins that keep pace, instead of the cost")
    parser.add_argument("--rate", type=float, default=500.0, help="messages a second of all consumers together")
    parser.add_argument(
        "--management",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether producers find the management API, which tells a fleet what its consumers hold",
    )
    parser.add_argument("--warm", type=float, default=15.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--model", action="store_true", help="the same in the model, in virtual time")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--service", nargs="+", choices=get_args(Service), default=["fixed", "exponential"], help="times in the model"
    )
    parser.add_argument("--prefetch", type=int, default=3, help="of each consumer in the model")
    parser.add_argument("--join", type=float, default=0.0, help="seconds until the last producer begins in the model")
    args = parser.parse_args()
    if args.model:
        simulate(args)
        return
    show_codec()
    if find_rabbitmq() is None:
        print("rabbitmq-server is not installed: no fleet")
        return
    if args.pace:
        for consumers, producers in ((5, 5), (args.consumers, args.producers)):
            with private_node() as node:
                keep_pace(node, consumers, producers, args)
        return
    with private_node() as node:
        idle = psutil.Process(node.pid)
        before = sum(idle.cpu_times()[:2])
        time.sleep(5)
        idle_share = (sum(idle.cpu_times()[:2]) - before) / 5
        message_us, per_s = message_cost_us(node.url, node.pid, idle_share, args.seconds)
        deliveries, broker_s, ours_s = asyncio.run(
            hear_fleet(node.url, node.pid, args.consumers, args.producers, args.seconds)
        )
    span_s = args.seconds + 0.5
    interval_s, sum_s = FleetSize(args.consumers, args.producers).intervals_s(USUAL_S)
    all_s = max(0.0, broker_s / span_s - idle_share) + ours_s / span_s
    print(
        f"{args.consumers} consumers, {args.producers} producers: "
        f"a report every {interval_s:.2f} s, a sum every {sum_s:.1f} s"
    )
    print(f"{deliveries / args.seconds:.0f} deliveries/s (ten a second each would be "
          f"{(args.consumers + args.producers) * (args.producers + 1) / USUAL_S:.0f})")  # fmt: skip
    print(f"processor: broker {broker_s / span_s:.3f} ({idle_share:.3f} idle), listeners {ours_s / span_s:.3f} cores")
    messages = args.messages * message_us * 1e-6
    print(f"a message costs {message_us:.0f} µs of processor time, of broker, producer and consumer at {per_s:.0f}/s")
    print(f"{all_s / messages:.1%} of the {messages:.2f} cores of {args.messages:.0f} messages/s")


if __name__ == "__main__":
    os.environ.setdefault("PACE_CONFIG", "")
    main()
