"""The embedded broker against RabbitMQ in one run: ``python benchmarks/broker.py [--messages N] [--embedded-only]``.

256-byte messages are published, confirmed, delivered and acknowledged. Publisher and consumer are separate processes
that write pre-encoded frames to raw sockets, so the broker is what is measured. Besides the rate, it shows the broker's
CPU time per message, which does not depend on the number of cores the clients have. Then it measures the time until
ready, idle memory, and the cost of a million queued messages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pika
import psutil
from pamqp import body, commands, header
from pamqp import frame as pamqp_frame

from backpressure.transports.rabbitmq_node import find_rabbitmq, private_node

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = b"x" * 256
WINDOW = 500
QUEUE = "bench"


@contextlib.contextmanager
def embedded(*options: str) -> Iterator[tuple[str, int, float]]:
    """A broker process: its URL, pid, and how many seconds it took to be ready."""
    with tempfile.TemporaryDirectory() as directory:
        announce = Path(directory) / "broker.json"
        command = [sys.executable, "-m", "backpressure.broker", "--port", "0", "--management-port", "0"]
        started = time.monotonic()
        process = subprocess.Popen([*command, "--announce", str(announce), *options], stdout=subprocess.DEVNULL)
        try:
            while not announce.exists():
                time.sleep(0.001)
            ready_s = time.monotonic() - started
            yield json.loads(announce.read_text())["url"], process.pid, ready_s
        finally:
            process.terminate()
            process.wait()


class Wire:
    """A raw connection with channel 1 open."""

    def __init__(self, url: str) -> None:
        parameters = pika.URLParameters(url)
        self.socket = socket.create_connection((parameters.host, parameters.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.socket.sendall(b"AMQP\x00\x00\x09\x01")
        self.call(commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest"), 0)
        self.send(commands.Connection.TuneOk(2047, 131072, 0), 0)
        self.call(commands.Connection.Open("/"), 0)
        self.call(commands.Channel.Open())

    def send(self, method: object, channel: int = 1) -> None:
        """One method."""
        self.socket.sendall(pamqp_frame.marshal(method, channel))

    def call(self, method: object, channel: int = 1) -> None:
        """Send, and return what comes back first."""
        if channel == 0 and isinstance(method, commands.Connection.StartOk):
            self._frames_until(1)
        self.send(method, channel)
        self._frames_until(1)

    def _frames_until(self, count: int) -> None:
        while count:
            count -= sum(1 for _ in self.frames())

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Type and payload of the frames of one read."""
        data = self._rest + self.socket.recv(1 << 18)
        start = 0
        while len(data) - start >= 7:
            kind, _, size = struct.unpack_from(">BHI", data, start)
            if len(data) - start < size + 8:
                break
            yield kind, data[start + 7 : start + 7 + size]
            start += size + 8
        self._rest = data[start:]


def publish(url: str, messages: int) -> None:
    """Publish, with ``WINDOW`` messages unconfirmed."""
    wire = Wire(url)
    wire.call(commands.Confirm.Select())
    properties = commands.Basic.Properties(
        delivery_mode=2, message_id="0" * 36, headers={"sequence": 1, "sent_ns": 2**60}
    )
    one = b"".join(
        pamqp_frame.marshal(part, 1)
        for part in (
            commands.Basic.Publish(routing_key=QUEUE, mandatory=True),
            header.ContentHeader(body_size=len(BODY), properties=properties),
            body.ContentBody(BODY),
        )
    )
    sent = confirmed = 0
    while confirmed < messages:
        room = min(messages - sent, WINDOW - (sent - confirmed))
        if room:
            wire.socket.sendall(one * room)
            sent += room
        for _, payload in wire.frames():
            tag, multiple = struct.unpack_from(">QB", payload, 4)
            confirmed = tag if multiple else confirmed + 1
    wire.socket.close()


def consume(url: str, messages: int) -> None:
    """Consume, and acknowledge the messages of one read with one frame."""
    wire = Wire(url)
    wire.call(commands.Basic.Qos(prefetch_count=1000))
    wire.send(commands.Basic.Consume(queue=QUEUE))
    tag = acknowledged = 0
    while acknowledged < messages:
        for kind, payload in wire.frames():
            if kind == 1 and payload[:4] == b"\x00\x3c\x00\x3c":
                (tag,) = struct.unpack_from(">Q", payload, 5 + payload[4])
        if tag > acknowledged:
            wire.send(commands.Basic.Ack(tag, multiple=True))
            acknowledged = tag
    wire.send(commands.Channel.Close(200, "", 0, 0))
    wire.socket.recv(100)
    wire.socket.close()


def measure(name: str, url: str, pid: int, messages: int) -> None:
    """Run both sides at the same time."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.channel().queue_declare(QUEUE, durable=True)
    connection.close()
    process = psutil.Process(pid)
    before, started = process.cpu_times(), time.monotonic()
    sides = [multiprocessing.Process(target=side, args=(url, messages)) for side in (consume, publish)]
    for side in sides:
        side.start()
    for side in sides:
        side.join()
    elapsed_s, after = time.monotonic() - started, process.cpu_times()
    cpu_us = (after.user + after.system - before.user - before.system) / messages * 1e6
    print(f"{name:>10}: {messages / elapsed_s:9,.0f} msg/s, {cpu_us:5.1f} µs of broker CPU a message")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--queued", type=int, default=1_000_000, help="messages for the memory figure, 0 skips it")
    parser.add_argument("--embedded-only", action="store_true")
    options = parser.parse_args()
    with embedded() as (url, pid, ready_s):
        idle = psutil.Process(pid).memory_info().rss
        print(f"  embedded: ready in {ready_s * 1000:.0f} ms, idle RSS {idle / 1e6:.0f} MB")
        measure("embedded", url, pid, options.messages)
    with tempfile.TemporaryDirectory() as directory, embedded("--data-dir", directory) as (url, pid, _):
        measure("durable", url, pid, options.messages)
    if not options.embedded_only and find_rabbitmq() is not None:
        with private_node() as node:
            measure("RabbitMQ", node.url, node.pid, options.messages)
    if options.queued:
        with embedded() as (url, pid, _):
            idle = psutil.Process(pid).memory_info().rss
            connection = pika.BlockingConnection(pika.URLParameters(url))
            connection.channel().queue_declare(QUEUE, durable=True)
            publish(url, options.queued)
            queued = psutil.Process(pid).memory_info().rss - idle
            print(f"  embedded: {options.queued:,} queued messages cost {queued / options.queued:,.0f} bytes each")
            connection.close()


if __name__ == "__main__":
    main()
