"""The proxy, before and between programs of others: ``python benchmarks/proxy.py [TABLE …]``.

Tables: ``throughput`` (RabbitMQ's PerfTest, 256 octets, persistent, confirms: directly, through a plain TCP proxy of
asyncio, through `pace proxy` that paces another queue), ``latency`` (the same at 1000 msg/s), ``paced`` (PerfTest at
full speed to a PerfTest consumer of 100 msg/s, both through the proxy), ``proxies`` (two such producers behind a proxy
each, the consumer behind a third), ``steps`` (the same with a consumer of pika
whose capacity changes, and our own processes without a proxy) and ``memory`` (1000 connections, one of which never
reads). PerfTest: ``make perf-test``.

In ``paced`` and ``steps`` a witness between proxy and broker notes when messages are published and acknowledged. The
wait is from leaving the proxy to the start of the work, and *utilisation* the share of the time in which the consumer
did not lack work. The private RabbitMQ node is the one that is installed, or that
RABBITMQ_HOME names; the numbers of one run belong together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import httpx
import pika
import psutil

from backpressure.amqp.frames import ACK, DELIVER, FRAME_METHOD, PROTOCOL_HEADER, PUBLISH, Splitter
from backpressure.core.limiters import ConfirmWindow
from backpressure.transports.rabbitmq_node import private_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PERF_TEST = Path(__file__).parents[1] / ".perf-test"
EXCHANGE = "bench.exchange"
TO_PACED = ["-u", "paced", "-e", EXCHANGE, "-k", "paced", "--predeclared"]
SERVICE_S = 0.01
STEPS = ((100.0, 12.0), (20.0, 12.0), (100.0, 12.0), (300.0, 12.0), (100.0, 12.0))
_METHOD, _TAG = struct.Struct(">I"), struct.Struct(">QB")
_CONFIRM_SELECT = 85 << 16 | 10


class _Pipe(asyncio.Protocol):
    """One side of a plain TCP proxy; ``look`` sees what passes."""

    def __init__(self, other: _Pipe | None, look: Callable[[bytes], None] | None) -> None:
        self.other = other
        self.look = look
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        for data in self._early:
            transport.write(data)

    def write(self, data: bytes) -> None:
        """Send, or keep until there is a connection."""
        if self.transport is None:
            self._early.append(data)
        else:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.look is not None:
            self.look(data)
        assert self.other is not None
        self.other.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class _Look:
    """What a witness sees of one connection."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._client, self._broker = Splitter(), Splitter()
        self._published: dict[int, int] = {}  # channels with confirms, and what they have published
        self._unconfirmed: defaultdict[int, ConfirmWindow[bool]] = defaultdict(lambda: ConfirmWindow(1 << 62))
        self._unacked: defaultdict[int, ConfirmWindow[bool]] = defaultdict(lambda: ConfirmWindow(1 << 62))

    def from_client(self, data: bytes) -> None:
        """Look at what a client sends."""
        witness, now = self._witness, time.monotonic()
        data, frames = self._client.feed(data.removeprefix(PROTOCOL_HEADER))
        for kind, channel, start, end in frames:
            if kind != FRAME_METHOD:
                continue
            method = _METHOD.unpack_from(data, start + 7)[0]
            if method == _CONFIRM_SELECT:
                self._published.setdefault(channel, 0)
            elif method == PUBLISH:
                wanted = witness.route in data[start:end]
                if wanted:
                    witness.published.append(now)
                if channel in self._published:
                    self._published[channel] += 1
                    self._unconfirmed[channel].sent(self._published[channel], wanted)
            elif method == ACK:
                tag, multiple = _TAG.unpack_from(data, start + 11)
                settled = self._unacked[channel].settle(tag, multiple=bool(multiple & 1))
                witness.acked += [now] * len(settled)

    def from_broker(self, data: bytes) -> None:
        """Look at what the broker sends."""
        data, frames = self._broker.feed(data)
        for kind, channel, start, _ in frames:
            method = _METHOD.unpack_from(data, start + 7)[0] if kind == FRAME_METHOD else 0
            if method == DELIVER:
                self._unacked[channel].sent(_TAG.unpack_from(data, start + 12 + data[start + 11])[0], True)
            elif method == ACK:
                tag, multiple = _TAG.unpack_from(data, start + 11)
                self._witness.confirmed += sum(self._unconfirmed[channel].settle(tag, multiple=bool(multiple & 1)))


class Witness:
    """A plain TCP proxy; if it watches, it notes when clients publish to ``route`` and acknowledge messages.

    Attributes:
        published, acked: when, by a monotonic clock.
        confirmed: how many of those published.
    """

    def __init__(self, host: str, port: int, *, route: bytes = b"") -> None:
        """Forward to ``host`` and ``port``; ``route`` stands in the method of the messages to be noted."""
        self._broker = (host, port)
        self.route = route
        self.published: list[float] = []
        self.acked: list[float] = []
        self.confirmed = 0
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    def _accept(self) -> _Pipe:
        look = _Look(self) if self.route else None
        client = _Pipe(None, look and look.from_client)
        broker = _Pipe(client, look and look.from_broker)
        client.other = broker
        dialling = asyncio.get_running_loop().create_connection(lambda: broker, *self._broker)
        self._dialling = asyncio.ensure_future(dialling)
        return client

    def __enter__(self) -> Self:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self.start())
            started.set()
            self._loop.run_forever()

        threading.Thread(target=run, daemon=True).start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextmanager
def pace_proxy(port: int, *options: str, management_url: str = "") -> Iterator[tuple[int, psutil.Process]]:
    """Run `pace proxy` in front of a port; yield its own port and its process."""
    with tempfile.TemporaryDirectory() as folder:
        announcement = Path(folder) / "proxy.json"
        command = [sys.executable, "-m", "backpressure", "proxy", "--listen", "127.0.0.1:0", "--no-api"]
        command += ["--upstream", f"amqp://guest:guest@127.0.0.1:{port}/"]
        command += ["--management-url", management_url] if management_url else []
        environment = os.environ | {"PACE_CONFIG": "", "PACE_PROCESS__ANNOUNCE_FILE": str(announcement)}
        process = subprocess.Popen([*command, *options], env=environment, stdout=subprocess.DEVNULL)
        try:
            while not announcement.exists():
                if process.poll() is not None:
                    raise SystemExit("pace proxy did not start")
                time.sleep(0.05)
            yield int(urlsplit(json.loads(announcement.read_text())["url"]).port or 0), psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def plain_proxy(port: int) -> Iterator[tuple[int, psutil.Process]]:
    """Run the plain TCP proxy in a process of its own."""
    with subprocess.Popen(
        [sys.executable, __file__, "--plain", str(port)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), psutil.Process(process.pid)
        finally:
            process.terminate()


def perf_test(port: int, *options: str) -> list[str]:
    """Return a command of PerfTest."""
    java = shutil.which("java")
    if java is None or not PERF_TEST.is_dir():
        raise SystemExit("PerfTest is not here: it needs Java, and `make perf-test` fetches it")
    url = f"amqp://guest:guest@127.0.0.1:{port}/%2f"
    command = [java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m", "-cp", f"{PERF_TEST}/*"]
    return [*command, "com.rabbitmq.perf.PerfTest", "--uri", url, *options]


def run_perf_test(port: int, *options: str) -> str:
    """Run PerfTest to its end; return what it printed."""
    return subprocess.run(perf_test(port, *options), capture_output=True, text=True, check=True).stdout


def average(output: str, what: str) -> float:
    """Return an average rate that PerfTest printed at its end."""
    found = re.findall(rf"{what} rate avg: (\d+) msg/s", output)
    return float(found[-1]) if found else float("nan")


def latencies_ms(output: str) -> tuple[float, float]:
    """Return median and p99 over the seconds of a run, from the lines that PerfTest prints each second."""
    rows = re.findall(
        r"min/median/75th/95th/99th (?:consumer )?latency: [\d.]+/([\d.]+)/[\d.]+/[\d.]+/([\d.]+)", output
    )
    settled = [(float(median), float(p99)) for median, p99 in rows[2:]] or [(float("nan"), float("nan"))]
    middle = len(settled) // 2
    return sorted(m for m, _ in settled)[middle] / 1000, sorted(p for _, p in settled)[middle] / 1000


def ways(port: int, management_url: str, rounds: int) -> Iterator[tuple[str, int, psutil.Process | None]]:
    """Yield each way to the broker with its port and the process on it, several times in turn."""
    with (
        plain_proxy(port) as plain,
        pace_proxy(port, "--queue", "another", management_url=management_url) as proxied,
    ):
        for _ in range(rounds):
            yield "direct", port, None
            yield "plain TCP proxy", *plain
            yield "pace proxy", *proxied


def cpu_s(process: psutil.Process | None) -> float:
    """Return the processor time that a process has used."""
    return sum(process.cpu_times()[:2]) if process is not None else 0.0


def throughput(port: int, management_url: str, seconds: int, rounds: int) -> None:
    """Print what PerfTest reaches on each way, and what the process on it costs."""
    print("\n| way | published msg/s | consumed msg/s | µs of CPU a message |\n|---|---|---|---|", flush=True)
    options = ["-x", "1", "-y", "1", "-u", "bench", "-s", "256", "-f", "persistent", "-c", "2000", "-q", "1000"]
    for way, at, process in ways(port, management_url, rounds):
        before_s = cpu_s(process)
        output = run_perf_test(at, *options, "-A", "100", "-z", str(seconds))
        published = average(output, "sending")
        cost_us = 1e6 * (cpu_s(process) - before_s) / (published * seconds)
        print(f"| {way} | {published:.0f} | {average(output, 'receiving'):.0f} | {cost_us:.1f} |", flush=True)


def latency(port: int, management_url: str, seconds: int, rounds: int) -> None:
    """Print the latency at 1000 msg/s on each way."""
    print("\n| way | median ms | p99 ms |\n|---|---|---|", flush=True)
    options = ["-x", "1", "-y", "1", "-u", "bench", "-s", "256", "-f", "persistent", "-c", "100", "-q", "100"]
    for way, at, _ in ways(port, management_url, rounds):
        median, p99 = latencies_ms(run_perf_test(at, *options, "-r", "1000", "-z", str(seconds)))
        print(f"| {way} | {median:.2f} | {p99:.2f} |", flush=True)


def waits_ms(witness: Witness, service_s: float) -> list[float]:
    """Return the waits in the order of the messages: first in, first out."""
    pairs = zip(witness.published, witness.acked, strict=False)
    return [1000 * max(0.0, acked - service_s - published) for published, acked in pairs]


def quantile(values: Sequence[float], part: float) -> float:
    """Return a quantile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def paced(host: str, port: int, management_url: str, seconds: int) -> None:
    """Print utilisation and wait of PerfTest against PerfTest, both through the proxy."""
    print(
        "\n| prefetch | confirms | from | utilisation | p50 wait ms | p99 ms |\n|---|---|---|---|---|---|", flush=True
    )
    for prefetch, confirms, options in ((1, 0, ()), (10, 0, ()), (10, 1, ()), (100, 0, ("--prefetch", "auto"))):
        with ExitStack() as stack:
            witness = stack.enter_context(Witness(host, port, route=EXCHANGE.encode()))
            declare(port, "paced")
            settings = ("--queue", "paced", *options)
            proxied, _ = stack.enter_context(pace_proxy(witness.port, *settings, management_url=management_url))
            common = [*TO_PACED, "-s", "256", "-z", str(seconds)]
            consumer = ["-x", "0", "-y", "1", *common, "-q", str(prefetch), "-L", str(int(SERVICE_S * 1e6))]
            running = subprocess.Popen(perf_test(proxied, *consumer), stdout=subprocess.DEVNULL)
            stack.callback(running.wait)
            time.sleep(3)
            producer = ["-x", "1", "-y", "0", *common, *(["-c", str(confirms)] if confirms else [])]
            running = subprocess.Popen(perf_test(proxied, *producer), stdout=subprocess.DEVNULL)
            stack.callback(running.wait)
            time.sleep(seconds - 4)
            tell(witness, f"{prefetch}{' → auto' if options else ''} | {confirms or 'none'}")
            stack.callback(running.kill)


def proxies(host: str, port: int, management_url: str, seconds: int) -> None:
    """Print what two producers get behind a proxy each, with the consumer behind a third."""
    print(
        "\n| prefetch | from | utilisation | p50 wait ms | p99 ms | share of the first |\n|---|---|---|---|---|---|",
        flush=True,
    )
    for prefetch in (1, 10):
        with ExitStack() as stack:
            declare(port, "paced")
            watched = [stack.enter_context(Witness(host, port, route=EXCHANGE.encode())) for _ in range(3)]
            ports = [
                stack.enter_context(pace_proxy(one.port, "--queue", "paced", management_url=management_url))[0]
                for one in watched
            ]
            common = [*TO_PACED, "-s", "256", "-z", str(seconds)]
            consumer = ["-x", "0", "-y", "1", *common, "-q", str(prefetch), "-L", str(int(SERVICE_S * 1e6))]
            commands = [perf_test(ports[2], *consumer)]
            commands += [perf_test(at, "-x", "1", "-y", "0", *common, "-c", "100") for at in ports[:2]]
            for command in commands:
                running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                stack.callback(running.wait)
                stack.callback(running.kill)
                time.sleep(3 if command is commands[0] else 0)
            time.sleep(seconds - 5)
            first, second, last = watched
            both = Witness(host, port)
            both.published, both.acked = sorted(first.published + second.published), list(last.acked)
            share = len(first.published) / len(both.published)
            tell(both, str(prefetch), f" | {share:.2f}")


def tell(witness: Witness, title: str, after: str = "") -> None:
    """Print a row for all that was seen, and one without the start."""
    published, acked = list(witness.published), list(witness.acked)
    waits = waits_ms(witness, SERVICE_S)
    for name, since in (("start", 0.0), ("10 s", 10.0)):
        first = bisect_left(acked, acked[0] + since) + 1
        pairs = zip(published[first:], acked[first - 1 :], strict=False)
        lacked_s = sum(max(0.0, sent - done) for sent, done in pairs)
        part = 1 - lacked_s / (acked[-1] - acked[first])
        row = f"{part:.3f} | {quantile(waits[first:], 0.5):.0f} | {quantile(waits[first:], 0.99):.0f}"
        print(f"| {title} | {name} | {row}{after} |", flush=True)


def declare(port: int, queue: str) -> None:
    """Create an empty queue."""
    with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)) as connection:
        channel = connection.channel()
        channel.queue_delete(queue)
        channel.queue_declare(queue, durable=True)
        channel.exchange_declare(EXCHANGE)
        channel.queue_bind(queue, EXCHANGE, queue)


def steps(host: str, port: int, management_url: str, seconds: int) -> None:  # noqa: ARG001 - its own time
    """Print what a consumer of pika gets whose capacity changes, and what our own processes get without a proxy."""
    print("\n| who | capacity | utilisation | p50 wait ms | p99 ms |\n|---|---|---|---|---|", flush=True)
    for who, play in (("PerfTest, pika", _strangers_step), ("our own", _own_step)):
        with Witness(host, port, route=EXCHANGE.encode()) as witness:
            declare(port, "paced")
            play(witness, management_url)
            tell_steps(who, witness)


def tell_steps(who: str, witness: Witness) -> None:
    """Print a row for each capacity, and one for all."""
    published, acked = witness.published, witness.acked
    start, whole, lacked_s = acked[0], [], 0.0
    for rate, duration in STEPS:
        first, last = max(1, bisect_left(acked, start)), bisect_left(acked, start + duration)
        pairs = zip(published[first:last], acked[first:last], strict=False)
        waits = [1000 * max(0.0, done - 1 / rate - sent) for sent, done in pairs]
        followers = zip(published[first:last], acked[first - 1 : last], strict=False)
        lacked = sum(max(0.0, sent - done) for sent, done in followers)
        whole, lacked_s = whole + waits, lacked_s + lacked
        row = f"{1 - lacked / duration:.3f} | {quantile(waits, 0.5):.0f} | {quantile(waits, 0.99):.0f}"
        print(f"| {who} | {rate:.0f} | {row} |", flush=True)
        start += duration
    part = 1 - lacked_s / sum(duration for _, duration in STEPS)
    print(f"| {who} | all | {part:.3f} | {quantile(whole, 0.5):.0f} | {quantile(whole, 0.99):.0f} |", flush=True)


def _strangers_step(witness: Witness, management_url: str) -> None:
    with pace_proxy(witness.port, "--queue", "paced", management_url=management_url) as (proxied, _):
        stop = threading.Event()
        origin: list[float] = []
        consumer = threading.Thread(target=_stepping, args=(proxied, stop, origin))
        consumer.start()
        common = [*TO_PACED, "-s", "256", "-x", "1", "-y", "0"]
        length = sum(duration for _, duration in STEPS)
        producer = subprocess.Popen(perf_test(proxied, *common, "-z", str(int(length + 5))), stdout=subprocess.DEVNULL)
        time.sleep(length + 6)
        stop.set()
        consumer.join()
        producer.kill()
        producer.wait()


def _own_step(witness: Witness, management_url: str) -> None:
    url = f"amqp://guest:guest@127.0.0.1:{witness.port}/"
    common = ["--url", url, "--queue", "paced", "--predeclared"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        told = Path(folder) / "consumer.json"
        environment = os.environ | {"PACE_CONFIG": "", "PACE_BROKER__MANAGEMENT_URL": management_url}

        def start(role: str, *options: str, **more: str) -> None:
            command = [sys.executable, "-m", "backpressure", role, *common, *options]
            process = subprocess.Popen(command, env=environment | more, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        rate = str(STEPS[0][0])
        start("consumer", "--rate", rate, "--api-port", "0", PACE_PROCESS__ANNOUNCE_FILE=str(told))
        while not told.exists():
            time.sleep(0.05)
        api = json.loads(told.read_text())["api_url"]
        start("producer", "--exchange", EXCHANGE, "--routing-key", "paced", "--no-api", "--rate", "max")
        while not witness.acked:
            time.sleep(0.01)
        for rate_per_s, duration_s in STEPS:
            httpx.post(f"{api}/admin/config", json={"rate": rate_per_s}, trust_env=False).raise_for_status()
            time.sleep(duration_s)


def _stepping(port: int, stop: threading.Event, origin: list[float]) -> None:
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=5)
    free_at = 0.0
    for method, _, _ in channel.consume("paced", inactivity_timeout=0.2):
        if stop.is_set():
            break
        if method is None:
            continue
        now = time.monotonic()
        origin[:] = origin or [now]
        since, rate = now - origin[0], STEPS[-1][0]
        for step_rate, duration in STEPS:
            if since < duration:
                rate = step_rate
                break
            since -= duration
        free_at = max(free_at, now) + 1 / rate
        time.sleep(max(0.0, free_at - time.monotonic()))
        channel.basic_ack(method.delivery_tag)
    connection.close()


def memory(port: int, management_url: str) -> None:
    """Print what many connections cost, and a client that never reads."""
    print("\n| | proxy's memory MB |\n|---|---|", flush=True)
    with (
        pace_proxy(port, "--queue", "another", management_url=management_url) as (proxied, process),
        ExitStack() as stack,
    ):
        print(f"| at the start | {process.memory_info().rss / 1e6:.0f} |", flush=True)
        for _ in range(999):
            stack.enter_context(socket.create_connection(("127.0.0.1", proxied))).sendall(b"AMQP\x00\x00\x09\x01")
        time.sleep(3)
        print(f"| 999 connections | {process.memory_info().rss / 1e6:.0f} |", flush=True)
        declare(port, "unread")
        publisher = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))
        channel = publisher.channel()
        for _ in range(3000):
            channel.basic_publish("", "unread", bytes(100_000))
        never = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", proxied, heartbeat=0))
        never.channel().basic_consume("unread", lambda *_: None, auto_ack=True)
        time.sleep(5)
        print(f"| and one that never reads 300 MB | {process.memory_info().rss / 1e6:.0f} |", flush=True)
        channel.queue_delete("unread")


def _plain(port: int) -> None:
    async def serve() -> None:
        proxy = Witness("127.0.0.1", port)
        await proxy.start()
        print(proxy.port, flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="*", help="throughput, latency, paced, proxies, steps, memory; all without any")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--plain", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain:
        _plain(given.plain)
        return
    if given.tables != ["memory"]:
        perf_test(0)  # before anything is started: is it here?
    with private_node() as node:
        at = urlsplit(node.url)
        host, port = at.hostname or "", at.port or 0
        tables: dict[str, Callable[[], None]] = {
            "throughput": lambda: throughput(port, node.management_url, given.seconds, given.rounds),
            "latency": lambda: latency(port, node.management_url, given.seconds, given.rounds),
            "paced": lambda: paced(host, port, node.management_url, given.seconds),
            "proxies": lambda: proxies(host, port, node.management_url, given.seconds),
            "steps": lambda: steps(host, port, node.management_url, given.seconds),
            "memory": lambda: memory(port, node.management_url),
        }
        for name in given.tables or tables:
            tables[name]()


if __name__ == "__main__":
    main()
