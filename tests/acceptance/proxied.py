"""A broker and `pace proxy` before it as processes, and plain clients of pika."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pika

CAPACITY_PER_S = 100.0
PATIENCE_S = 30.0


@dataclass
class Running:
    """A broker and a proxy before it."""

    process: subprocess.Popen[str]
    broker: Any
    broker_url: str
    url: str
    api_url: str
    log: Path

    def status(self) -> Any:
        return httpx.get(f"{self.api_url}/status", trust_env=False, timeout=PATIENCE_S).json()

    def paced(self) -> Any:
        return next(queue for queue in self.status()["queues"] if queue["name"] == "orders")


@dataclass
class Broker:
    """An embedded broker as a process, which may be killed and come back."""

    folder: Path
    options: Sequence[str] = ()
    at: Any = None
    process: Any = None

    def start(self) -> Any:
        (self.folder / "broker.json").unlink(missing_ok=True)
        ports = (
            ("--port", str(self.at["port"]), "--management-port", str(self.at["management_port"]))
            if self.at
            else ("--port", "0", "--management-port", "0")
        )
        command = [sys.executable, "-m", "backpressure.broker", *ports, *self.options]
        self.process = subprocess.Popen(
            [*command, "--announce", str(self.folder / "broker.json")], stdout=subprocess.DEVNULL
        )
        self.at = announced(self.folder / "broker.json", self.process)
        return self.at

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.at['port']}/"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def proxying(
    folder: Path, upstream: str, *options: str, broker: Broker | None = None, environment: dict[str, str] | None = None
) -> Iterator[Running]:
    """Run a proxy before ``upstream``; its log has no traceback at the end."""
    with ExitStack() as stack:
        folder.mkdir(exist_ok=True)
        log = stack.enter_context((folder / "proxy.log").open("w+"))
        command = [sys.executable, "-m", "backpressure", "proxy", "--listen", "127.0.0.1:0", "--api-port", "0"]
        command += ["--upstream", upstream]
        if broker is not None:
            command += ["--management-url", f"http://127.0.0.1:{broker.at['management_port']}"]
        process = subprocess.Popen(
            [*command, *options],
            env=os.environ
            | {"PACE_CONFIG": "", "PACE_PROCESS__ANNOUNCE_FILE": str(folder / "proxy.json")}
            | (environment or {}),
            stdout=log,
            stderr=log,
            text=True,
        )
        stack.callback(process.wait, 30)
        stack.callback(process.kill)
        told = announced(folder / "proxy.json", process)
        scheme, port = urlsplit(told["url"]).scheme, urlsplit(told["url"]).port
        yield Running(
            process,
            broker,
            upstream,
            f"{scheme}://guest:guest@127.0.0.1:{port}/",
            told["api_url"],
            folder / "proxy.log",
        )
        assert "Traceback" not in (folder / "proxy.log").read_text()


@contextmanager
def started(folder: Path, *options: str, broker_options: Sequence[str] = ()) -> Iterator[Running]:
    """Run an embedded broker and a proxy before it."""
    broker = Broker(folder, broker_options)
    broker.start()
    try:
        with proxying(folder, broker.url, *options, broker=broker) as running:
            yield running
    finally:
        broker.stop()


def announced(path: Path, process: subprocess.Popen[Any]) -> Any:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, "it did not start"
        assert time.monotonic() < deadline, "it is not ready"
        time.sleep(0.02)
    return json.loads(path.read_text())


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds


def send_with_pika(url: str, count: int) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare("orders", durable=True)
        channel.confirm_delivery()
        for number in range(count):
            channel.basic_publish("", "orders", b"%d" % number, mandatory=True)
