"""What monitoring costs: ``python benchmarks/watching.py [--seconds 20] [--embedded-only]``.

While a producer and a consumer work, the monitor draws its cards once a second on a pseudo-terminal of 200 columns, for
a broker with 10 queues and then with 1000. The output is its processor time in per cent of a core, compared with the
minimum one could do instead: a loop that asks the management API for all queues once a second and decodes the answer.
Then it measures how long it takes to read the state of 1000 queues, from the first request to cards, metrics and the
page's data, compared with a plain listing and with `rabbitmqctl list_queues`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import io
import json
import multiprocessing
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pika
import psutil
from rich.console import Console
from tracing import program

from backpressure.api.monitor import LiveFeed
from backpressure.dashboards.advice import advise
from backpressure.dashboards.screen import Cards
from backpressure.engines.clock import Clock
from backpressure.engines.observer import Observer
from backpressure.settings import Settings
from backpressure.telemetry.metrics import expose
from backpressure.telemetry.metrics_monitor import monitor_registry
from backpressure.transports.factory import connect
from backpressure.transports.management_client import ManagementClient
from backpressure.transports.rabbitmq_node import PrivateNode, find_rabbitmq, private_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
FEW, MANY = 10, 1000
EACH_S = 1.0
WARM_UP_S = 4.0
ROUNDS = 5
COLUMNS, LINES = 200, 50
GOALS = {"share of a core": 0.03, "refresh": 1.0}


@dataclass(frozen=True)
class Broker:
    """A running broker, and another way to list its queues."""

    name: str
    url: str
    management_url: str
    node: PrivateNode | None = None


@contextlib.contextmanager
def brokers(folder: Path, environment: dict[str, str], *, embedded_only: bool) -> Iterator[list[Broker]]:
    """Start the brokers."""
    with contextlib.ExitStack() as stack:
        announce = folder / "broker.json"
        command = ("-m", "backpressure.broker", "--port", "0", "--management-port", "0", "--announce", str(announce))
        about = stack.enter_context(program(*command, announce=announce, environment=environment))
        started = [Broker("embedded", about["url"], f"http://{about['host']}:{about['management_port']}")]
        if not embedded_only and find_rabbitmq() is not None:
            node = stack.enter_context(private_node())
            started.append(Broker("RabbitMQ", node.url, node.management_url, node))
        yield started


def declare_up_to(url: str, queues: int) -> None:
    """Declare queues until there are this many, including the work queue."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    for number in range(1, queues):
        channel.queue_declare(f"other.{number}", durable=True)
    connection.close()


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def share_of_a_core(pid: int, seconds: float) -> float:
    """Return how much of a core a process uses during the next ``seconds``."""
    before, began = cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_s(pid) - before) / (time.monotonic() - began)


@contextlib.contextmanager
def watching(broker: Broker, folder: Path, environment: dict[str, str]) -> Iterator[int]:
    """Run the monitor on a pseudo-terminal; yield its pid once it has started."""
    announce = folder / "monitor.json"
    announce.unlink(missing_ok=True)
    environment = environment | {"TERM": "xterm-256color", "PACE_PROCESS__ANNOUNCE_FILE": str(announce)}
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    where = ("--url", broker.url, "--host", broker.management_url, "--port", "0", "--watch", str(EACH_S))
    process = subprocess.Popen(
        [sys.executable, "monitor.py", *where], cwd=ROOT, env=environment, stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    threading.Thread(target=_drain, args=(ours,), daemon=True).start()
    try:
        while not announce.exists():
            time.sleep(0.01)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _drain(terminal: int) -> None:
    with contextlib.suppress(OSError):  # the monitor has ended
        while os.read(terminal, 1 << 16):
            pass


def _poll(management_url: str) -> None:
    with httpx.Client(base_url=management_url, auth=("guest", "guest"), trust_env=False) as client:
        while True:
            client.get("/api/queues/%2F").raise_for_status().json()
            time.sleep(EACH_S)


@contextlib.contextmanager
def polling(broker: Broker) -> Iterator[int]:
    """Run the plain poll; yield its pid."""
    process = multiprocessing.Process(target=_poll, args=(broker.management_url,))
    process.start()
    assert process.pid is not None
    try:
        yield process.pid
    finally:
        process.terminate()
        process.join()


class Timed:
    """Wraps a management client, and adds up the time spent waiting for its answers."""

    def __init__(self, client: ManagementClient) -> None:
        """Forward to ``client``."""
        self._client = client
        self.rounds: list[float] = []
        self._began = 0.0

    def __getattr__(self, question: str) -> Callable[[], Any]:
        async def ask() -> Any:
            if question == "queues":  # the first of each round but the very first
                self._began = time.perf_counter()
            answer = await getattr(self._client, question)()
            if question == "consumers":  # the last
                self.rounds.append(time.perf_counter() - self._began)
            return answer

        return ask


async def refresh_s(broker: Broker) -> tuple[float, float]:
    """Return how long the monitor takes to request the state of all queues and to show it in all three ways."""
    settings = Settings.model_validate({"broker": {"url": broker.url, "management_url": broker.management_url}})
    client = ManagementClient.of(settings.broker)
    assert client is not None
    timed: Any = Timed(client)
    observer = Observer(connect(settings), settings, Clock(), timed)
    registry = monitor_registry(lambda: observer.snapshot(distributions=True))
    feed = LiveFeed(observer.snapshot, advise)
    page = aiter(feed.subscribe())
    await anext(page)
    console = Console(file=io.StringIO(), width=COLUMNS, height=LINES, force_terminal=True)
    shown: list[float] = []
    await observer.start()
    try:
        while len(timed.rounds) < ROUNDS:
            await asyncio.sleep(0.1)
            if len(timed.rounds) == len(shown):
                continue
            began = time.perf_counter()
            console.print(Cards(observer.snapshot()))
            expose(registry)
            feed.take()
            shown.append(time.perf_counter() - began)
    finally:
        await observer.stop()
        await client.close()
    return min(timed.rounds), min(shown)


def listed_s(broker: Broker) -> float:
    """Return how long a plain listing takes."""
    with httpx.Client(base_url=broker.management_url, auth=("guest", "guest"), trust_env=False) as client:
        return min(_took_s(lambda: client.get("/api/queues/%2F").raise_for_status().json()) for _ in range(ROUNDS))


def _took_s(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def measure(broker: Broker, folder: Path, environment: dict[str, str], seconds: float) -> bool:
    """Print the figures of one broker; return whether they reach the goals."""
    reached = True
    with contextlib.ExitStack() as stack:
        for role, script in (("consumer", "slow_consumer.py"), ("producer", "fast_producer.py")):
            announce = folder / f"{role}.json"
            env = environment | {"PACE_PROCESS__ANNOUNCE_FILE": str(announce)}
            stack.enter_context(program(script, "--url", broker.url, "--no-api", announce=announce, environment=env))
        for queues in (FEW, MANY):
            declare_up_to(broker.url, queues)
            with watching(broker, folder, environment) as monitor, polling(broker) as poll:
                time.sleep(WARM_UP_S)
                before, began = cpu_s(poll), time.monotonic()
                share = share_of_a_core(monitor, seconds)
                bare = (cpu_s(poll) - before) / (time.monotonic() - began)
            if queues == FEW:
                reached &= share < GOALS["share of a core"]
            print(
                f"{broker.name:>9}, {queues:>4} queues: monitor {share:6.2%} of a core, "
                f"bare poll {bare:6.2%} (ratio {share / max(bare, 1e-4):.1f})",
                flush=True,
            )
        asked_s, shown_s = asyncio.run(refresh_s(broker))
        bare_s = listed_s(broker)
        reached &= asked_s + shown_s < GOALS["refresh"]
        print(
            f"{broker.name:>9}, {MANY:>4} queues: refreshed in {asked_s + shown_s:.3f} s ({asked_s:.3f} asking, "
            f"{shown_s:.3f} showing), bare listing {bare_s:.3f} s (ratio {(asked_s + shown_s) / bare_s:.1f})"
        )
        if broker.node is not None:
            ctl_s = _took_s(lambda: broker.node and broker.node.ctl("list_queues", "name", "messages", "consumers"))
            print(f"{'':>9}  rabbitmqctl list_queues: {ctl_s:.3f} s")
    return reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each processor time is measured")
    parser.add_argument("--embedded-only", action="store_true")
    options = parser.parse_args()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PACE_")}
    environment |= {"PACE_CONFIG": "", "PYTHONPATH": str(ROOT)}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        started = stack.enter_context(brokers(folder, environment, embedded_only=options.embedded_only))
        reached = [measure(broker, folder, environment, options.seconds) for broker in started]
    print("goals:", json.dumps(GOALS), "reached" if all(reached) else "MISSED")


if __name__ == "__main__":
    main()
