"""What reports of a fleet cost: ``python benchmarks/fleets.py [--consumers 200] [--producers 50] [--seconds 15]``.

First the octets of a report and the time to decode it, compact and as JSON. Then, on a private RabbitMQ, what a message
costs: the processor time of the broker, one producer and one consumer at a steady rate, divided by the messages. Then
stand-ins: as many listeners as there are producers (and one monitor) hear the reports that the whole fleet sends at its
own interval, through the real feedback bus and decoder. The output is deliveries and processor time a second, of the
broker and of all listeners together, and their part of what the fleet's messages cost (``--messages`` a second).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import timeit
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

from backpressure.core.histogram import Histogram
from backpressure.core.journal import read_records
from backpressure.core.reports import ConsumerReport, Report, decode, encode, encode_compact, report_interval_s
from backpressure.settings import Settings
from backpressure.transports.factory import connect
from backpressure.transports.rabbitmq_node import find_rabbitmq, private_node

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
        best_s = min(timeit.repeat(lambda data=data: decode(data, histograms=False), number=2000, repeat=10)) / 2000
        print(f"{name:<24}{len(data):>8}{best_s * 1e6:>12.1f}")


async def hear_fleet(url: str, pid: int, consumers: int, producers: int, seconds: float) -> tuple[int, float, float]:
    """Return deliveries, and seconds of processor time of the broker and of this process."""
    settings = Settings.model_validate({"broker": {"url": url}})
    heard: list[Report] = []

    def on_report(payload: bytes) -> None:
        heard[:] = [decode(payload, histograms=False)]
        nonlocal deliveries
        deliveries += 1

    deliveries = 0
    async with AsyncExitStack() as stack:
        for listening in (*([True] * (producers + 1)), False):
            bus = connect(settings).feedback()
            stack.push_async_callback(bus.stop)
            await bus.start(on_report if listening else None)
        every_s = report_interval_s(consumers, producers, USUAL_S) / (consumers + producers)
        broker, us = psutil.Process(pid), psutil.Process()
        await asyncio.sleep(2)
        deliveries, before = 0, [sum(process.cpu_times()[:2]) for process in (broker, us)]
        begun = time.monotonic()
        number = 0
        while (now := time.monotonic()) - begun < seconds:
            while begun + number * every_s <= now:
                bus.send(encode_compact(sample(number), brief=number % FULL_EVERY != 0))
                number += 1
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
        quiet = {"stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        consumer = subprocess.Popen([*program, "consumer", "--url", url, "--rate", "max"], env=environment, **quiet)
        rate = ["--rate", str(MESSAGE_RATE), "--strategy", "bounded"]
        environment["PACE_PROCESS__JOURNAL_FILE"] = str(journal)
        producer = subprocess.Popen([*program, "producer", "--url", url, *rate], env=environment, **quiet)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--consumers", type=int, default=200)
    parser.add_argument("--producers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--messages", type=float, default=20_000.0, help="a second, of the whole fleet")
    args = parser.parse_args()
    show_codec()
    if find_rabbitmq() is None:
        print("rabbitmq-server is not installed: no fleet")
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
    interval_s = report_interval_s(args.consumers, args.producers, USUAL_S)
    all_s = max(0.0, broker_s / span_s - idle_share) + ours_s / span_s
    print(f"{args.consumers} consumers, {args.producers} producers: each reports every {interval_s:.2f} s")
    print(f"{deliveries / args.seconds:.0f} deliveries/s (ten a second each would be "
          f"{(args.consumers + args.producers) * (args.producers + 1) / USUAL_S:.0f})")  # fmt: skip
    print(f"processor: broker {broker_s / span_s:.3f} ({idle_share:.3f} idle), listeners {ours_s / span_s:.3f} cores")
    messages = args.messages * message_us * 1e-6
    print(f"a message costs {message_us:.0f} µs of processor time, of broker, producer and consumer at {per_s:.0f}/s")
    print(f"{all_s / messages:.1%} of the {messages:.2f} cores of {args.messages:.0f} messages/s")


if __name__ == "__main__":
    os.environ.setdefault("PACE_CONFIG", "")
    main()
