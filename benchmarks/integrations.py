"""The applications in ``examples/``, paced and not: ``python benchmarks/integrations.py [BROKER …] [--only NAME]``.

A worker does 10 ms of work on each order, with the prefetch that is usual for its framework; a sender offers a thousand
a second for as long as ``--seconds`` says. *Utilisation* is the share of the time, from two seconds after the first
order until the last one was offered, in which the worker did not lack work: it lacked work when the next order was sent
only after the one before had ended. The *wait* is from the moment at which sending an order had returned until the work
on it began, that of the n-th sent and the n-th begun; a sender that is held back has not sent yet.

Brokers: ``embedded``, ``rabbitmq`` (the installed one, or that in RABBITMQ_HOME), ``kafka``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pika
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from backpressure.transports.kafka_node import private_kafka
from backpressure.transports.private_process import free_ports
from backpressure.transports.rabbitmq_node import private_node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXAMPLES = Path(__file__).parents[1] / "examples"
PYTHON = [sys.executable, "-W", "ignore"]
WARM_S = 2.0
PATIENCE_S = 40.0
Times = list[float]


@dataclass(frozen=True)
class Example:
    """How to run an application, what its queue is called, and how it differs from its file."""

    name: str
    queue: str
    worker: list[str]
    sender: list[str]
    prefetch: str
    replaced: tuple[str, str] = ("", "")


_NAMED = "management_url=orders.MANAGEMENT_URL, prometheus_url=orders.PROMETHEUS_URL"
MANAGED = {
    "pace(app)": f"pace(app, {_NAMED})",
    "pace(broker)": f"pace(broker, {_NAMED})",
    "DramatiqPace()": f"DramatiqPace({_NAMED})",
    "TaskiqPace()": f"TaskiqPace({_NAMED})",
    "paced = PacedQueues(orders.URL)": f"paced = PacedQueues(orders.URL, {_NAMED})",
    "Producer(connection.channel())": (
        f"Producer(connection.channel(), **({{'paced': PacedQueues(orders.URL, {_NAMED})}} if orders.PACED else {{}}))"
    ),
}
"""Private brokers have their management API at an unusual port."""


def _module(*arguments: str) -> list[str]:
    return ["-m", *arguments]


ON_AMQP = [
    Example(
        "Celery",
        "celery",
        _module("celery", "--app", "celery_orders", "worker", "--concurrency", "1", "--loglevel", "ERROR"),
        ["celery_orders.py"],
        "4",
    ),
    Example(
        "dramatiq",
        "dramatiq_orders",
        _module("dramatiq", "--processes", "1", "--threads", "1", "dramatiq_orders"),
        ["dramatiq_orders.py"],
        "2",
    ),
    Example(
        "taskiq",
        "taskiq",
        _module("taskiq", "worker", "--workers", "1", "--max-async-tasks", "1", "taskiq_orders:broker"),
        ["taskiq_orders.py"],
        "10",
    ),
    Example(
        "FastStream",
        "faststream_orders",
        _module("faststream", "run", "faststream_orders:app"),
        ["faststream_orders.py"],
        "unlimited",
    ),
    Example(
        "taskiq, qos=2",
        "taskiq",
        _module("taskiq", "worker", "--workers", "1", "--max-async-tasks", "1", "taskiq_orders:broker"),
        ["taskiq_orders.py"],
        "2",
        ("AioPikaBroker(orders.URL)", "AioPikaBroker(orders.URL, qos=2)"),
    ),
    Example("kombu", "kombu_orders", ["kombu_orders.py", "work"], ["kombu_orders.py"], "10"),
    Example(
        "kombu, prefetch_count=2",
        "kombu_orders",
        ["kombu_orders.py", "work"],
        ["kombu_orders.py"],
        "2",
        ("prefetch_count=10", "prefetch_count=2"),
    ),
    Example("pika", "client_orders", ["client_orders.py", "work"], ["client_orders.py", "pika"], "10"),
    Example("aio-pika", "client_orders", ["client_orders.py", "work"], ["client_orders.py", "aio-pika"], "10"),
]
_KAFKA_APP = _module("faststream", "run", "faststream_kafka_orders:app")
ON_KAFKA = [
    Example("FastStream, aiokafka", "orders", _KAFKA_APP, ["faststream_kafka_orders.py"], "commits every 5 s"),
    Example(
        "FastStream, confluent",
        "orders",
        _KAFKA_APP,
        ["faststream_kafka_orders.py"],
        "commits every 5 s",
        ("from faststream.kafka import", "from faststream.confluent import"),
    ),
    Example(
        "confluent-kafka",
        "client_orders",
        ["client_orders.py", "work-on-kafka"],
        ["client_orders.py", "confluent"],
        "commits every 5 s",
    ),
    Example(
        "aiokafka",
        "client_orders",
        ["client_orders.py", "work-on-kafka"],
        ["client_orders.py", "aiokafka"],
        "commits every 5 s",
    ),
]


@dataclass(frozen=True)
class Outcome:
    """What became of the orders: when each was sent, and when the work on each began and ended, in seconds."""

    sent: Times
    began: Times
    ended: Times

    @property
    def cost_s(self) -> float:
        """The time between two orders while more of them wait."""
        waiting = zip(self.sent[1:], self.ended, self.began[1:], strict=False)
        return median([began - ended for sent, ended, began in waiting if sent < ended - 0.001] or [0.0])

    def utilisation(self, cost_s: float) -> float:
        """Return the share of the time in which the worker did not lack work, where an order costs ``cost_s``."""
        since, until = self.sent[0] + WARM_S, self.sent[-1]
        first, last = max(1, bisect_right(self.began, since)), bisect_right(self.began, until)
        lacked_s = 0.0
        for sent, ended, began in zip(self.sent[first:last], self.ended[first - 1 :], self.began[first:], strict=False):
            if sent > ended:
                lacked_s += max(0.0, began - ended - cost_s)
        return 1 - lacked_s / (until - since)

    def done_per_s(self) -> float:
        """Return the rate of the work."""
        since, until = self.sent[0] + WARM_S, self.sent[-1]
        return (bisect_right(self.ended, until) - bisect_right(self.ended, since)) / (until - since)

    def wait_ms(self, share: float) -> float:
        """Return that quantile of the waits of what was begun after the warm-up and before the last one was offered."""
        since, until = self.sent[0] + WARM_S, self.sent[-1]
        pairs = zip(self.sent, self.began, strict=False)
        waits = sorted(max(0.0, began - sent) for sent, began in pairs if since <= began <= until)
        return 1000 * waits[min(len(waits) - 1, int(share * len(waits)))] if waits else float("nan")


@contextmanager
def _running(command: list[str], folder: Path, environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "output").open("ab") as output:
        process = subprocess.Popen([*PYTHON, *command], cwd=folder, env=dict(environ), stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def play(example: Example, environ: Mapping[str, str], seconds: float, *, paced: bool) -> Outcome:
    """Run worker and sender in a copy of the examples."""
    with tempfile.TemporaryDirectory(prefix="pace-bench-") as name:
        folder = Path(name)
        for file in EXAMPLES.glob("*.py"):
            code = file.read_text("utf-8")
            for before, after in [example.replaced, *MANAGED.items()]:
                code = code.replace(before, after) if before else code
            (folder / file.name).write_text(code, "utf-8")
        worked, sent = folder / "worked", folder / "sent"
        told = {"ORDERS_PACED": "yes" if paced else "no", "ORDERS_COUNT": "10000000", "ORDERS_SECONDS": str(seconds)}
        logs = {"ORDERS_LOG": str(worked), "ORDERS_SENT_LOG": str(sent)}
        with _running(example.worker, folder, {**os.environ, **environ, **told, **logs}):
            time.sleep(4 if "KAFKA_SERVERS" in environ else 2)  # until it consumes
            with _running(example.sender, folder, {**os.environ, **environ, **told, **logs}) as sender:
                try:
                    failed = sender.wait(seconds + PATIENCE_S)
                except subprocess.TimeoutExpired:
                    failed = 1
            if failed:
                raise RuntimeError(f"{example.name}: {(folder / 'output').read_text(errors='replace')[-2000:]}")
            if paced:
                time.sleep(0.5)
        rows = sorted([float(word) for word in line.split()] for line in worked.read_text().splitlines())
        rows.sort(key=lambda row: row[1])
        return Outcome([float(line) for line in sent.read_text().splitlines()], *([r[i] for r in rows] for i in (1, 2)))


@contextmanager
def _embedded() -> Iterator[dict[str, str]]:
    port, management_port = free_ports(2)
    command = ["-m", "backpressure.broker", "--port", str(port), "--management-port", str(management_port)]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    try:
        time.sleep(1)
        yield {
            "AMQP_URL": f"amqp://guest:guest@127.0.0.1:{port}/",
            "MANAGEMENT_URL": f"http://127.0.0.1:{management_port}",
        }
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _rabbitmq() -> Iterator[dict[str, str]]:
    with private_node(prometheus=True) as node:
        yield {
            "AMQP_URL": node.url,
            "MANAGEMENT_URL": node.management_url,
            "PROMETHEUS_URL": node.prometheus_url,
        }


@contextmanager
def _kafka() -> Iterator[dict[str, str]]:
    with private_kafka() as node:
        yield {"KAFKA_SERVERS": node.url.removeprefix("kafka://")}


def _fresh_queue(example: Example, environ: Mapping[str, str]) -> None:
    if "AMQP_URL" in environ:
        with pika.BlockingConnection(pika.URLParameters(environ["AMQP_URL"])) as connection:
            connection.channel().queue_delete(example.queue)
        return
    admin: Any = AdminClient({"bootstrap.servers": environ["KAFKA_SERVERS"]})
    with suppress(KafkaException):
        admin.delete_topics([example.queue])[example.queue].result(20)
        time.sleep(1)
    admin.create_topics([NewTopic(example.queue, 1, 1)])[example.queue].result(20)


BROKERS = {"embedded": (_embedded, ON_AMQP), "rabbitmq": (_rabbitmq, ON_AMQP), "kafka": (_kafka, ON_KAFKA)}


def main() -> None:
    """Print a row for each example, and what limits it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("brokers", nargs="*", metavar="BROKER", help="embedded, rabbitmq, kafka (default: all)")
    parser.add_argument("--only", help="examples whose name contains this")
    parser.add_argument("--seconds", type=float, default=12.0, help="how long orders are offered (default: 12)")
    arguments = parser.parse_args()
    if unknown := set(arguments.brokers) - set(BROKERS):
        parser.error(f"unknown {sorted(unknown)}; there are {sorted(BROKERS)}")
    print("| broker | application | prefetch | utilisation | done a second, not paced → paced | p50 wait | p99 wait |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for broker in arguments.brokers or BROKERS:
        start, examples = BROKERS[broker]
        with start() as environ:
            for example in examples:
                if arguments.only and arguments.only not in example.name:
                    continue
                outcomes = []
                for paced in (False, True):
                    _fresh_queue(example, environ)
                    outcomes.append(play(example, environ, arguments.seconds, paced=paced))
                without, with_pace = outcomes
                cells = [
                    broker,
                    example.name,
                    example.prefetch,
                    f"{with_pace.utilisation(without.cost_s):.3f}",
                    f"{without.done_per_s():.0f} → {with_pace.done_per_s():.0f}",
                    *(f"{without.wait_ms(share):.0f} → {with_pace.wait_ms(share):.0f} ms" for share in (0.5, 0.99)),
                ]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
