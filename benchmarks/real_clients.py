"""Clients of other people before and behind the proxy: ``python benchmarks/real_clients.py [CLIENT …]``.

Each client is a producer at full speed with its own confirms, before a consumer of pika with prefetch 10; and each is a
consumer that works 10 ms on a message, with prefetch 1, 100 and unlimited, behind a producer of aio-pika that has a
hundred messages outstanding (Celery's tasks come from Celery). Both connect to one `pace proxy`, unchanged. Clients
whose language is missing are left out. PerfTest and the Java client need ``make perf-test``; Node's and Go's libraries
are fetched into ``.clients``.

A witness between proxy and broker notes what is published, confirmed and acknowledged. The wait is from leaving the
proxy to the start of the work, *utilisation* the share of the time in which the consumer did not lack work, *lost* what
was confirmed and neither acknowledged nor left in the queue. The first seconds after the first message do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pika
from proxy import PERF_TEST, SERVICE_S, Witness, pace_proxy, perf_test, quantile, waits_ms

from backpressure.transports.rabbitmq_node import private_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CLIENTS = Path(__file__).parent / "clients"
FETCHED = Path(__file__).parents[1] / ".clients"
AMQPLIB = "amqplib@0.10.9"
UNLIMITED = 0
WARM_S = 5.0
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Row:
    """One client in one role."""

    client: str
    role: str
    prefetch: int

    @property
    def parties(self) -> tuple[str, str]:
        """Who publishes, and who consumes."""
        if self.role == "producer":
            return self.client, "pika"
        return ("celery" if self.client == "celery" else "aio-pika"), self.client


def python_client(client: str) -> Callable[[str, int, str, int], list[str]]:
    """Return what makes the command of a Python client."""
    script = str(CLIENTS / "python_clients.py")

    def command(role: str, port: int, queue: str, prefetch: int) -> list[str]:
        return [sys.executable, script, client, role, url(port), queue, str(prefetch)]

    return command


def node_client(role: str, port: int, queue: str, prefetch: int) -> list[str]:
    """Return the command of amqplib."""
    return ["node", str(CLIENTS / "node_client.js"), role, url(port), queue, str(prefetch)]


def go_client(role: str, port: int, queue: str, prefetch: int) -> list[str]:
    """Return the command of amqp091-go."""
    return [str(FETCHED / "go_client"), role, url(port), queue, str(prefetch)]


def java_client(role: str, port: int, queue: str, prefetch: int) -> list[str]:
    """Return the command of RabbitMQ's Java client."""
    java = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m", "-cp", f"{FETCHED}:{PERF_TEST}/*"]
    return [*java, "JavaClient", role, url(port), queue, str(prefetch)]


def perf_test_client(role: str, port: int, queue: str, prefetch: int) -> list[str]:
    """Return the command of PerfTest."""
    common = ["-u", queue, "-e", "", "-k", queue, "--predeclared", "-s", "256"]
    if role == "producer":
        return perf_test(port, *common, "-x", "1", "-y", "0", "-c", "100", "-f", "persistent")
    return perf_test(port, *common, "-x", "0", "-y", "1", "-q", str(prefetch), "-L", str(int(SERVICE_S * 1e6)))


def url(port: int) -> str:
    """Return where a client connects."""
    return f"amqp://guest:guest@127.0.0.1:{port}/%2f"


ALL = {
    "pika": python_client("pika"),
    "aio-pika": python_client("aio-pika"),
    "celery": python_client("celery"),
    "amqplib": node_client,
    "amqp091-go": go_client,
    "java": java_client,
    "perftest": perf_test_client,
}


def present(client: str) -> bool:
    """Return whether a client can run; fetch or build what it needs."""
    if client == "amqplib":
        if not (FETCHED / "node_modules" / "amqplib").is_dir() and shutil.which("npm"):
            quietly(["npm", "install", "--no-save", "--prefix", str(FETCHED), AMQPLIB])
        return (FETCHED / "node_modules" / "amqplib").is_dir()
    if client == "amqp091-go":
        if shutil.which("go"):
            quietly(["go", "build", "-o", str(FETCHED / "go_client"), "."], CLIENTS / "go")
        return (FETCHED / "go_client").exists()
    if client in {"java", "perftest"}:
        there = PERF_TEST.is_dir() and shutil.which("java") is not None
        if there and client == "java":
            quietly(["javac", "-cp", f"{PERF_TEST}/*", "-d", str(FETCHED), str(CLIENTS / "JavaClient.java")])
        return there
    return True


def quietly(command: Sequence[str], folder: Path | None = None) -> None:
    """Run a command that has nothing to say unless it fails."""
    FETCHED.mkdir(exist_ok=True)
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if finished.returncode:
        print(f"{' '.join(command)}: {finished.stderr.strip()}", file=sys.stderr)


@contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a client; it is stopped at the end."""
    environment = os.environ | {"NODE_PATH": str(FETCHED / "node_modules")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], bool], patience_s: float) -> bool:
    """Wait for a condition; return whether it came about."""
    deadline = time.monotonic() + patience_s
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds


def measure(row: Row, host: str, port: int, management_url: str, seconds: float) -> str:
    """Return the line of one client in one role."""
    queue = f"clients-{row.client}-{row.role}-{row.prefetch}"
    producer, consumer = row.parties
    with ExitStack() as stack:
        direct = stack.enter_context(pika.BlockingConnection(pika.ConnectionParameters(host, port, heartbeat=0)))
        channel = direct.channel()
        channel.queue_declare(queue, durable=True)
        witness = stack.enter_context(Witness(host, port, route=queue.encode()))
        proxied, _ = stack.enter_context(pace_proxy(witness.port, "--queue", queue, management_url=management_url))
        stack.enter_context(running(ALL[consumer]("consumer", proxied, queue, row.prefetch)))

        def found() -> pika.spec.Queue.DeclareOk:
            return channel.queue_declare(queue, passive=True).method

        if not until(lambda: found().consumer_count > 0, PATIENCE_S):
            return "the consumer did not start |"
        with running(ALL[producer]("producer", proxied, queue, row.prefetch)):
            if not until(lambda: bool(witness.acked), PATIENCE_S):
                return "no message arrived |"
            time.sleep(WARM_S + seconds)
        until(lambda: len(witness.acked) >= len(witness.published), 10)
        time.sleep(0.2)
        lost = witness.confirmed - len(witness.acked) - found().message_count
        channel.queue_delete(queue)
    return figures(witness, seconds, max(0, lost))


def figures(witness: Witness, seconds: float, lost: int) -> str:
    """Return utilisation, p50 and p99 wait, confirmed and lost messages."""
    published, acked, waits = witness.published, witness.acked, waits_ms(witness, SERVICE_S)
    first, last = (bisect_left(acked, acked[0] + after_s) for after_s in (WARM_S, WARM_S + seconds))
    followers = zip(published[first + 1 : last], acked[first:last], strict=False)
    lacked_s = sum(max(0.0, sent - done) for sent, done in followers)
    part = 1 - lacked_s / (acked[last - 1] - acked[first])
    row = f"{part:.3f} | {quantile(waits[first:last], 0.5):.0f} | {quantile(waits[first:last], 0.99):.0f}"
    return f"{row} | {witness.confirmed} | {lost} |"


@contextmanager
def embedded() -> Iterator[tuple[str, str]]:
    """Run an embedded broker."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "broker.json"
        command = [sys.executable, "-m", "backpressure.broker", "--port", "0", "--management-port", "0"]
        process = subprocess.Popen([*command, "--announce", str(told)], stdout=subprocess.DEVNULL)
        try:
            until(told.exists, PATIENCE_S)
            at = json.loads(told.read_text())
            yield at["url"], f"http://127.0.0.1:{at['management_port']}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def rabbitmq() -> Iterator[tuple[str, str]]:
    """Run the private RabbitMQ node that is installed, or that RABBITMQ_HOME names."""
    with private_node() as node:
        yield node.url, node.management_url


def main() -> None:
    """Measure the clients that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"which: {', '.join(ALL)} (all)")
    parser.add_argument("--broker", choices=["embedded", "rabbitmq"], default="embedded")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each row, after the first five")
    parser.add_argument("--at-once", type=int, default=2, help="rows that are measured at the same time")
    parser.add_argument("--role", choices=["producer", "consumer"], help="one of the two alone")
    parser.add_argument("--prefetch", type=int, nargs="+", default=[1, 100, UNLIMITED], help="0: unlimited (1 100 0)")
    given = parser.parse_args()
    if unknown := set(given.clients) - set(ALL):
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    wanted = [client for client in given.clients or ALL if present(client)]
    rows = [Row(client, "producer", 10) for client in wanted]
    rows += [Row(client, "consumer", prefetch) for client in wanted for prefetch in given.prefetch]
    rows = [row for row in rows if given.role in {None, row.role}]
    print("| client | as | prefetch | utilisation | p50 wait ms | p99 ms | confirmed | lost |", flush=True)
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with {"embedded": embedded, "rabbitmq": rabbitmq}[given.broker]() as (broker_url, management_url):
        at = urlsplit(broker_url)
        host, port = at.hostname or "", at.port or 0

        def line(row: Row) -> str:
            prefetch = str(row.prefetch or "unlimited") if row.role == "consumer" else "10 (pika)"
            found = measure(row, host, port, management_url, given.seconds)
            return f"| {row.client} | {row.role} | {prefetch} | {found}"

        with ThreadPoolExecutor(given.at_once) as pool:
            for text in pool.map(line, rows):
                print(text, flush=True)


if __name__ == "__main__":
    main()
