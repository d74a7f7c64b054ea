"""The law `pace` before consumers that are not ours: ``python benchmarks/strangers.py [TABLE …]``.

A producer of ours is offered ten times what a consumer can do that knows nothing of this project: pika, RabbitMQ's
PerfTest (``make perf-test``), confluent-kafka, each with 10 ms of work a message. Several pairs work at the same time,
each on a queue of its own. Before the producer starts, the consumer works off a few hundred messages; that tells what
it can do at most, and *of possible* is measured against it. The wait is from the moment at which the producer sent a
message until work on it begins; PerfTest's begins 10 ms before its acknowledgement, seen by a proxy.

Tables: ``pika`` (prefetch 1 to unlimited, both kinds of service), ``perftest``, ``steps`` (5× down, stop, 3× up),
``kafka`` (commits every 5 s and every 100 ms), ``kafka-steps``. The private RabbitMQ node is the one that is installed,
or that RABBITMQ_HOME names; with ``--nodes 3`` it is a cluster, whose producers know all nodes, and whose queues and
consumers are spread over them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from math import nan
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

import pika

from backpressure.core.controllers.pace import wait_bound_s
from backpressure.core.journal import read_records
from backpressure.errors import TransportError
from backpressure.transports.kafka_node import private_kafka
from backpressure.transports.rabbitmq_cluster import private_cluster
from backpressure.transports.rabbitmq_node import private_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PLAIN = Path(__file__).parent / "clients" / "plain_consumers.py"
PERF_TEST = Path(__file__).parents[1] / ".perf-test"
RECORD = struct.Struct("<qqq")  # sent, began, ended, as a plain consumer writes them
RATE = 100.0
START = 50.0  # the law's rate of a cold start
FILL = 300
WARM_S = 10.0
UNLIMITED = 0
_AGE_S = 0.05  # of what is known when a law uses it
_QUORUM_TICK_S = 5.0
_STEADY_S = 5.0
CONSUMED_AT = 1  # the node beside the one that leads the queue, where there are several
STEPS = ((100.0, 25.0), (20.0, 20.0), (100.0, 25.0), (0.0, 10.0), (100.0, 25.0), (300.0, 25.0))


@dataclass(frozen=True)
class Cell:
    """One pair of a producer and a stranger."""

    client: str
    prefetch: int = UNLIMITED
    service: str = "fixed"
    auto_ack: bool = False
    commit_ms: int = 0
    steps: Sequence[tuple[float, float]] = ()

    @property
    def title(self) -> str:
        """What a row calls it."""
        if self.client == "kafka":
            return f"commits every {self.commit_ms or 5000} ms"
        return "auto-ack" if self.auto_ack else f"prefetch {self.prefetch or 'unlimited'}"

    @property
    def goal(self) -> tuple[float, float | None, float]:
        """Utilisation, p50 and p99 wait in ms."""
        if self.client == "kafka":
            return (0.98, None, 250) if self.commit_ms == 100 else (0.97, None, 1500)
        return (0.98, 100, 400) if 0 < self.prefetch <= 20 else (0.97, 300, 1000)

    def counted_every_s(self, by_broker_s: float) -> float:
        """How often is counted what is left: ``by_broker_s``, or by each commit; 0: whenever asked."""
        return (self.commit_ms or 5000) / 1000 if self.client == "kafka" else by_broker_s

    def start_bound(self, rate_per_s: float, counted_every_s: float, seconds: float) -> float:
        """The utilisation that theory allows with a cold start, if no consumer is to wait longer than the p99 goal.

        See docs/pace-law.md: until the first count no more goes out than the start rate, until the second no more than
        consumers that can do just that have then done, and what they may have to wait for.
        """
        every_s, part = self.counted_every_s(counted_every_s), min(1.0, START / rate_per_s)
        if 0 < self.prefetch <= START:
            every_s = 0.0  # what does not fit is ready, and seen at once
        lost_s = (1 - part) * (every_s / 2 + _AGE_S)
        if every_s:
            lost_s += max(0.0, 1 - part * (1 + self.goal[2] / 1000 / every_s)) * every_s
        return 1 - lost_s / seconds

    def bound_ms(self, rate_per_s: float, counted_every_s: float) -> float:
        """The p99 wait that theory allows at this capacity, where the broker counts so often; 0: whenever asked."""
        every_s = self.counted_every_s(counted_every_s)
        cv2 = 1.0 if self.service == "exponential" else 0.0
        bound_s = wait_bound_s(rate_per_s, cv2, _AGE_S, utilisation=self.goal[0], counted_every_s=every_s)
        return 1000 * bound_s


@dataclass
class Found:
    """What was measured, in seconds since the producer's first message."""

    sent: list[float]
    began: list[float]
    ended: list[float]
    cost_s: float  # of a message besides its service
    changes: list[tuple[float, float]] = field(default_factory=list)  # since when it works at which rate

    def waits_ms(self, since_s: float = 0.0) -> list[float]:
        """Return the waits of what was begun after ``since_s``, sorted. The queue is first in, first out."""
        pairs = zip(self.sent, self.began, strict=False)
        return sorted(1000 * (began - sent) for sent, began in pairs if began >= since_s)

    def utilisation(self, start_s: float, end_s: float) -> tuple[float, float]:
        """Return messages of nominal capacity, and the share of the time in which the consumer did not lack work.

        It lacked work when the next message was sent only after the end of the one before.
        """
        first, last = max(1, bisect_right(self.began, start_s)), bisect_right(self.began, end_s)
        lacked_s = 0.0
        for sent, ended, began in zip(self.sent[first:last], self.ended[first - 1 :], self.began[first:], strict=False):
            if sent > ended:
                lacked_s += max(0.0, began - ended - self.cost_s)
        return (last - first) / RATE / (end_s - start_s), 1 - lacked_s / (end_s - start_s)

    def depth(self, at_s: float) -> int:
        """Return how many messages had been sent and not begun."""
        return bisect_right(self.sent, at_s) - bisect_right(self.began, at_s)

    def deepest(self, start_s: float, end_s: float) -> int:
        """Return the greatest depth in a span."""
        return max(self.depth(at_s) for at_s in [start_s, *(at for at in self.sent if start_s <= at <= end_s)])


class AckWatch:
    """A proxy in a thread that notes when the clients of a broker acknowledge messages."""

    def __init__(self, host: str, port: int) -> None:
        """Forward to ``host`` and ``port``."""
        self._broker = (host, port)
        self._loop = asyncio.new_event_loop()
        self.at_ns: list[int] = []
        self.port = 0

    def __enter__(self) -> Self:
        started = threading.Event()
        threading.Thread(target=self._run, args=(started,), daemon=True).start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._forward, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(*self._broker)

        async def answers() -> None:
            while data := await broker_reader.read(1 << 16):
                writer.write(data)
                await writer.drain()

        back = asyncio.create_task(answers())
        rest, tag = b"", 0
        broker_writer.write(await reader.readexactly(8))
        while data := await reader.read(1 << 16):
            broker_writer.write(data)
            await broker_writer.drain()
            now_ns = time.time_ns()
            rest += data
            while len(rest) >= 7 and len(rest) >= (size := 8 + struct.unpack_from(">BHI", rest)[2]):
                if rest[0] == 1 and rest[7:11] == b"\x00\x3c\x00\x50":  # basic.ack
                    acked, multiple = struct.unpack_from(">QB", rest, 11)
                    self.at_ns += [now_ns] * (acked - tag if multiple else 1)
                    tag = acked
                rest = rest[size:]
        broker_writer.close()
        back.cancel()


class Bench(ABC):
    """Where the pairs work: one broker for all of them."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, url: str) -> None:
        """``url`` is the broker's."""
        self.url = url
        self.seconds = arguments.seconds
        self.at_once = arguments.at_once
        self.folder = folder
        self._arguments = arguments
        self.counted_every_s = 0.0
        self._count = 0
        self._lock = threading.Lock()

    def measure(self, cells: Sequence[Cell]) -> list[Found]:
        """Measure all cells, a few at a time, and return what was found in their order."""
        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(self._one, cells))

    def _one(self, cell: Cell) -> Found:
        with self._lock:
            self._count += 1
            name = f"orders-{self._count}"
        with ExitStack() as stack:
            return self._pair(cell, name, stack)

    def _pair(self, cell: Cell, name: str, stack: ExitStack) -> Found:
        out = self.folder / f"{name}.records"
        self.create(name)
        self.fill(name)
        watch = None
        if cell.client == "perftest":
            watch = stack.enter_context(self.watched())
            stack.enter_context(child(perf_test(watch.port, name, cell.prefetch)))
            done: Callable[[], int] = lambda: len(watch.at_ns)  # noqa: E731 -- short, and of one of two kinds
            say = None
        else:
            options: tuple[str, ...] = ("--service", cell.service, "--prefetch", str(cell.prefetch))
            options += ("--commit-ms", str(cell.commit_ms))
            options += ("--auto-ack",) if cell.auto_ack else ()
            command = [sys.executable, str(PLAIN), *self.stranger(cell, name, out), *options]
            consumer = stack.enter_context(child(command, stdin=subprocess.PIPE))
            say = consumer.stdin
            done = lambda: out.stat().st_size // RECORD.size if out.exists() else 0  # noqa: E731 -- see above
        while done() < FILL:
            time.sleep(0.1)
        time.sleep(1.0)  # the broker's view of the queue has time to become what it usually is
        journal = self.folder / f"{name}.journal"
        changes: list[tuple[float, float]] = []
        with child(self.producer(name), environment=self.environment(name, journal)):
            while done() == FILL:  # the program starts
                time.sleep(0.05)
            for rate, seconds in cell.steps or ((RATE, self.seconds),):
                if say is not None and cell.steps:
                    say.write(f"{rate}\n".encode())
                    say.flush()
                changes.append((time.time(), rate))
                time.sleep(seconds)
        if watch is not None:
            return found_by_acks(watch.at_ns, journal)
        return found_by_records(out, journal, changes)

    def environment(self, name: str, journal: Path) -> dict[str, str]:
        """Return the settings of the producer."""
        return {
            "PACE_CONFIG": "",
            "PACE_PROCESS__JOURNAL_FILE": str(journal),
            "PACE_FEEDBACK__EXCHANGE": f"pace.feedback.{name}",
            "PACE_API__ENABLED": "false",
            "PACE_LOG__LEVEL": self._arguments.log_level,
        } | dict(setting.split("=", 1) for setting in self._arguments.environment)

    def producer(self, name: str) -> list[str]:
        """Return the producer's command."""
        command = [sys.executable, "-m", "backpressure", "producer", "--url", self.url, "--queue", name]
        return [*command, "--predeclared", "--rate", str(10 * RATE), "--strategy", self._arguments.law]

    @abstractmethod
    def create(self, name: str) -> None:
        """Declare the queue as its owner would."""

    @abstractmethod
    def fill(self, name: str) -> None:
        """Put messages into it that tell how fast the consumer is."""

    @abstractmethod
    def watched(self) -> AckWatch:
        """Return a proxy."""

    @abstractmethod
    def stranger(self, cell: Cell, name: str, out: Path) -> list[str]:
        """Return the arguments of the plain consumer."""


class RabbitBench(Bench):
    """A private node of RabbitMQ, or several."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, node: Any) -> None:
        super().__init__(arguments, folder, node.url)
        self._nodes = getattr(node, "nodes", [node])
        self._management_url = node.management_url
        self._prometheus_url = self._nodes[0].prometheus_url
        rare = arguments.queue_type == "quorum" and not arguments.prometheus
        self.counted_every_s = _QUORUM_TICK_S if rare else 0.0

    def environment(self, name: str, journal: Path) -> dict[str, str]:
        """See `Bench.environment`."""
        api = {} if self._arguments.no_management else {"PACE_BROKER__MANAGEMENT_URL": self._management_url}
        live = {"PACE_BROKER__PROMETHEUS_URL": self._prometheus_url} if self._prometheus_url else {}
        return api | live | super().environment(name, journal)

    def create(self, name: str) -> None:
        """See `Bench.create`."""
        kind = {"x-queue-type": self._arguments.queue_type}
        with closing(pika.BlockingConnection(pika.URLParameters(self._at(name)))) as connection:
            connection.channel().queue_declare(name, durable=True, arguments=kind)

    def fill(self, name: str) -> None:
        """See `Bench.fill`."""
        with closing(pika.BlockingConnection(pika.URLParameters(self._at(name)))) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for _ in range(FILL):
                channel.basic_publish("", name, b"x" * 20)

    def watched(self) -> AckWatch:
        """See `Bench.watched`."""
        parameters = pika.URLParameters(self._nodes[0].url)
        return AckWatch(parameters.host, parameters.port)

    def stranger(self, cell: Cell, name: str, out: Path) -> list[str]:
        """See `Bench.stranger`."""
        return [cell.client, self._at(name, CONSUMED_AT), name, str(out)]

    def _at(self, name: str, offset: int = 0) -> str:
        """Return the address of one node: queues are declared at one after the other."""
        return str(self._nodes[(int(name.rpartition("-")[2]) + offset) % len(self._nodes)].url)


class KafkaBench(Bench):
    """A private Kafka broker."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, node: Any) -> None:
        super().__init__(arguments, folder, node.url)
        self._servers = node.url.removeprefix("kafka://").rstrip("/")

    def create(self, name: str) -> None:
        """See `Bench.create`."""
        from confluent_kafka.admin import AdminClient, NewTopic  # noqa: PLC0415 -- only where Kafka is measured

        client = AdminClient({"bootstrap.servers": self._servers})
        for answer in client.create_topics([NewTopic(name, 1, 1)]).values():
            answer.result()

    def fill(self, name: str) -> None:
        """See `Bench.fill`."""
        from confluent_kafka import Producer  # noqa: PLC0415 -- only where Kafka is measured

        producer = Producer({"bootstrap.servers": self._servers})
        for _ in range(FILL):
            producer.produce(name, b"x" * 20)
        producer.flush()

    def watched(self) -> AckWatch:
        """See `Bench.watched`."""
        raise SystemExit("PerfTest consumes from RabbitMQ only")

    def environment(self, name: str, journal: Path) -> dict[str, str]:
        """See `Bench.environment`."""
        return super().environment(name, journal) | {"PACE_QUEUE__CONSUMER_GROUP": f"group-{name}"}

    def stranger(self, cell: Cell, name: str, out: Path) -> list[str]:
        """See `Bench.stranger`."""
        return [cell.client, self._servers, name, str(out), "--group", f"group-{name}"]


@contextmanager
def child(
    command: Sequence[str], environment: dict[str, str] | None = None, stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the context ends."""
    process = subprocess.Popen(
        command, env=os.environ | (environment or {}), stdin=stdin, stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    try:
        yield process
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    finally:
        process.terminate()
        process.wait()


def perf_test(port: int, queue: str, prefetch: int) -> list[str]:
    """Return the command of PerfTest's consumer: 10 ms of work a message."""
    java = shutil.which("java")
    if java is None or not PERF_TEST.is_dir():
        raise SystemExit("PerfTest is not here: it needs Java, and `make perf-test` fetches it")
    url = f"amqp://guest:guest@127.0.0.1:{port}/%2f"
    command = [java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m", "-cp", f"{PERF_TEST}/*"]
    command += ["com.rabbitmq.perf.PerfTest", "--uri", url, "-x", "0", "-y", "1", "-u", queue, "--predeclared"]
    return [*command, "--qos", str(prefetch), "--consumer-latency", str(int(1e6 / RATE))]


def sent_by(journal: Path) -> list[float]:
    """Return when each message was sent, in order."""
    return sorted(record.sent_ns / 1e9 for record in read_records(journal.read_bytes()) if record.sent_ns)


def found_by_records(out: Path, journal: Path, changes: list[tuple[float, float]]) -> Found:
    """Return what a plain consumer has written down."""
    records = list(RECORD.iter_unpack(out.read_bytes()[: out.stat().st_size // RECORD.size * RECORD.size]))
    filled, rest = records[FILL // 3 : FILL], records[FILL:]
    cost_s = median(later[1] - former[2] for former, later in pairwise(filled)) / 1e9
    origin = rest[0][0] / 1e9
    return Found(
        sent=[at - origin for at in sent_by(journal)],
        began=[began / 1e9 - origin for _, began, _ in rest],
        ended=[ended / 1e9 - origin for _, _, ended in rest],
        cost_s=max(0.0, cost_s),
        changes=[(at - origin, rate) for at, rate in changes],
    )


def found_by_acks(at_ns: list[int], journal: Path) -> Found:
    """Return what is known of a consumer whose acknowledgements were seen."""
    filled, rest = at_ns[FILL // 3 : FILL], at_ns[FILL:]
    each_s = median(later - former for former, later in pairwise(filled)) / 1e9
    sent = sent_by(journal)
    ended = [at / 1e9 - sent[0] for at in rest]
    return Found([at - sent[0] for at in sent], [at - 1 / RATE for at in ended], ended, max(0.0, each_s - 1 / RATE))


def quantile(ordered: Sequence[float], part: float) -> float:
    """Return a quantile of sorted values."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else nan


def table(title: str, heads: str) -> None:
    """Print the head of a table."""
    columns = heads.split("|")
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def rates(bench: Bench, cells: Sequence[Cell], title: str) -> None:
    """Print utilisation and wait of each cell, the cold start included and without it."""
    heads = "consumer|service|msg/s ÷ 100|of possible|p50 ms|p99 ms|deepest|goal|met|utilisation bound|p99 bound"
    table(title, f"{heads}|from {WARM_S:.0f} s on: of possible|p50 ms|p99 ms")
    for cell, found in zip(cells, bench.measure(cells), strict=True):
        end_s = bench.seconds - 0.5
        waits, settled = found.waits_ms(), found.waits_ms(WARM_S)
        nominal, possible = found.utilisation(0, end_s)
        _, later = found.utilisation(WARM_S, end_s)
        utilisation, p50, p99 = cell.goal
        met = possible >= utilisation and quantile(waits, 0.99) <= p99 and (not p50 or quantile(waits, 0.5) <= p50)
        wanted = f"≥ {utilisation}, " + (f"≤ {p50:.0f}, " if p50 else "") + f"≤ {p99:.0f}"
        figures = f"{nominal:.3f} | {possible:.3f} | {quantile(waits, 0.5):.0f} | {quantile(waits, 0.99):.0f}"
        after = f"{later:.3f} | {quantile(settled, 0.5):.0f} | {quantile(settled, 0.99):.0f}"
        deep = found.deepest(0, end_s)
        rate_per_s = 1 / (1 / RATE + found.cost_s)
        bound_ms = cell.bound_ms(rate_per_s, bench.counted_every_s)
        most = cell.start_bound(rate_per_s, bench.counted_every_s, end_s)
        judged = f"{wanted} | {'yes' if met else 'no'} | {most:.3f} | {bound_ms:.0f}"
        print(f"| {cell.title} | {cell.service} | {figures} | {deep} | {judged} | {after} |")


def steps(bench: Bench, cells: Sequence[Cell], title: str, age_s: float) -> None:
    """Print how many messages each step leaves, and how long it takes until a faster consumer hardly lacks work.

    That is when the first second begins in which it lacks work for at most a twentieth of the time. What it does a
    second from then on is below 300 on a machine where sleeping for 3.3 ms takes longer.
    """
    heads = "consumer|service|100 → 20: deepest|goal|stop: deepest|goal|100 → 300: lacks work for s|goal|then msg/s"
    table(title, f"{heads}|utilisation before|p99 ms before")
    for cell, found in zip(cells, bench.measure(cells), strict=True):
        marks = [*found.changes, (found.began[-1], 0.0)]
        (down, stop, up) = (marks[1][0], marks[3][0], marks[5][0])
        spans = {at: end for (at, _), (end, _) in pairwise(marks)}
        left = [found.deepest(at, spans[at]) for at in (down, stop)]
        usual = [quantile(sorted(found.depth(at - back / 10) for back in range(1, 50)), 0.5) for at in (down, stop)]
        followed = next((at - up for at in found.began if at >= up and found.utilisation(at, at + 1)[1] >= 0.95), nan)
        settled_s = up + followed
        then = bisect_right(found.began, settled_s + _STEADY_S) - bisect_right(found.began, settled_s)
        goals = [usual[0] + 80 * (age_s + 1), usual[1] + 100 * (age_s + 1), 15 if age_s > 1 else 5]
        _, before = found.utilisation(marks[0][0] + WARM_S, down)
        waits = [1000 * (b - s) for s, b in zip(found.sent, found.began, strict=False) if WARM_S <= b < down]
        pairs = f"{left[0]} | ≤ {goals[0]:.0f} | {left[1]} | ≤ {goals[1]:.0f} | {followed:.1f} | ≤ {goals[2]}"
        pairs += f" | {then / _STEADY_S:.0f}"
        print(f"| {cell.title} | {cell.service} | {pairs} | {before:.3f} | {quantile(sorted(waits), 0.99):.0f} |")


def _pika(bench: Bench, arguments: argparse.Namespace) -> None:
    cells = [Cell("pika", size, service) for service in arguments.service for size in arguments.prefetch]
    cells += [Cell("pika", service=service, auto_ack=True) for service in arguments.service if arguments.auto_ack]
    rates(bench, cells, f"pika, {about(arguments)}")


def _perf_test(bench: Bench, arguments: argparse.Namespace) -> None:
    rates(bench, [Cell("perftest", size) for size in arguments.prefetch], f"PerfTest, {about(arguments)}")


def _steps(bench: Bench, arguments: argparse.Namespace) -> None:
    cells = [Cell("pika", size, service, steps=STEPS) for service in arguments.service for size in arguments.prefetch]
    steps(bench, cells, f"steps, {about(arguments)}", arguments.statistics_ms / 1000)


def _kafka(bench: Bench, arguments: argparse.Namespace) -> None:
    cells = [Cell("kafka", service=service, commit_ms=ms) for service in arguments.service for ms in (0, 100)]
    rates(bench, cells, "Kafka")


def _kafka_steps(bench: Bench, arguments: argparse.Namespace) -> None:
    for ms in (0, 100):
        cells = [Cell("kafka", service=service, commit_ms=ms, steps=STEPS) for service in arguments.service]
        steps(bench, cells, f"Kafka, steps, commits every {ms or 5000} ms", (ms or 5000) / 1000)


TABLES = {"pika": _pika, "perftest": _perf_test, "steps": _steps, "kafka": _kafka, "kafka-steps": _kafka_steps}


def about(arguments: argparse.Namespace) -> str:
    """Return what is special of this node and queue."""
    api = "no management API" if arguments.no_management else f"statistics every {arguments.statistics_ms} ms"
    nodes = f" on {arguments.nodes} nodes" if arguments.nodes > 1 else ""
    return f"{arguments.queue_type} queue{nodes}, {api}" + (", rabbitmq_prometheus" if arguments.prometheus else "")


def opened(arguments: argparse.Namespace, stack: ExitStack) -> Any:
    """Start the private node, or cluster."""
    if arguments.nodes == 1:
        return stack.enter_context(
            private_node(statistics_interval_ms=arguments.statistics_ms, prometheus=arguments.prometheus)
        )
    cluster, loop = private_cluster(arguments.nodes), stack.enter_context(asyncio.Runner())
    loop.run(cluster.__aenter__())
    stack.callback(lambda: loop.run(cluster.__aexit__()))
    return cluster


def main() -> None:
    """Print the requested tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"which: {', '.join(TABLES)} (pika)")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of each measurement (%(default)s)")
    parser.add_argument("--at-once", type=int, default=6, help="pairs that work at the same time (%(default)s)")
    parser.add_argument(
        "--prefetch", type=int, nargs="+", default=[1, 10, 20, 100, 250, UNLIMITED], help="0: unlimited"
    )
    parser.add_argument("--service", nargs="+", default=["fixed", "exponential"])
    parser.add_argument("--auto-ack", action="store_true", help="one more cell: automatic acknowledgement")
    parser.add_argument(
        "--statistics-ms", type=int, default=5000, help="interval of RabbitMQ's statistics (%(default)s)"
    )
    parser.add_argument("--queue-type", default="classic", help="classic or quorum (%(default)s)")
    parser.add_argument("--no-management", action="store_true", help="the producer knows no management API")
    parser.add_argument("--prometheus", action="store_true", help="the node has the plugin rabbitmq_prometheus")
    parser.add_argument("--nodes", type=int, default=1, help="of RabbitMQ; of several, statistics are every second")
    parser.add_argument("--law", default="pace", help="strategy of the producer (%(default)s)")
    parser.add_argument("--set", dest="environment", action="append", default=[], metavar="PACE_…=VALUE")
    parser.add_argument("--log-level", default="ERROR", help="of the producer (%(default)s)")
    arguments = parser.parse_args()
    if arguments.nodes > 1:
        arguments.statistics_ms = 1000  # as private clusters have it
    if unknown := set(arguments.tables) - set(TABLES):
        parser.error(f"no such table: {', '.join(unknown)}")
    try:
        for name in arguments.tables or ["pika"]:
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                if "kafka" in name:
                    bench: Bench = KafkaBench(arguments, Path(folder), stack.enter_context(private_kafka()))
                else:
                    bench = RabbitBench(arguments, Path(folder), opened(arguments, stack))
                TABLES[name](bench, arguments)
    except TransportError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
