"""A broker and `pace proxy` before it as processes, and plain clients of pika."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pika

CAPACITY_PER_S = 100.0
PATIENCE_S = 60.0


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
        self.process.wait(60)


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


class SilentNetwork:
    """A TCP relay before a port of this machine, which can stop to forward without closing anything.

    That is how a network looks which drops every packet: connections stay open at both ends, and new ones are taken in
    and get no answer. What was sent meanwhile is lost, so connections of that time stay silent for ever.
    """

    def __init__(self, port: int) -> None:
        self.silent = False
        self._port = port
        self._dead: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        return int(self._server.getsockname()[1])

    def silence(self) -> None:
        self.silent = True
        self._dead |= self._open

    def mend(self) -> None:
        self.silent = False

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for each in (self._server, *self._open):
            each.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open |= {client, server}
                if self.silent:
                    self._dead |= {client, server}
                for source, target in ((client, server), (server, client)):
                    self._threads.append(threading.Thread(target=self._forward, args=(source, target)))
                    self._threads[-1].start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if source not in self._dead:
                    target.sendall(data)
        if source not in self._dead:
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)


@contextmanager
def silent_network(port: int) -> Iterator[SilentNetwork]:
    """Put a network before ``port`` that can go silent."""
    network = SilentNetwork(port)
    try:
        yield network
    finally:
        network.close()


def announced(path: Path, process: subprocess.Popen[Any]) -> Any:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, "it did not start"
        assert time.monotonic() < deadline, "it is not ready"
        time.sleep(0.02)
    return json.loads(path.read_text())


def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
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
