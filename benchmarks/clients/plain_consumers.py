"""Consumers as anybody writes them who knows nothing of this project; benchmarks/strangers.py runs them.

One for RabbitMQ with pika, one for Kafka with confluent-kafka. Each works on one message at a time, by sleeping, and
writes when it was sent, when the work began and when it ended: three integers of 64 bits, in nanoseconds. A number on
standard input is a new rate of work; 0 stops the work on the next message until there is another.
"""

from __future__ import annotations

import argparse
import os
import random
import struct
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD = struct.Struct("<qqq")


class Work:
    """Takes as long as the rate says, and keeps a record of it."""

    def __init__(self, rate: float, service: str, seed: int, out: BinaryIO) -> None:
        """``service`` is "fixed" or "exponential"."""
        self._rate = rate
        self._exponential = service == "exponential"
        self._random = random.Random(seed)
        self._out = out
        self._changed = threading.Condition()

    def listen(self) -> None:
        """Take new rates from standard input; its end is the end of this process."""
        for line in sys.stdin:
            with self._changed:
                self._rate = float(line)
                self._changed.notify_all()
        os._exit(0)  # the work may be anywhere

    def on(self, sent_ns: int) -> None:
        """Work on one message."""
        with self._changed:
            while not self._rate:
                self._changed.wait()
            mean_s = 1 / self._rate
        began_ns = time.time_ns()
        time.sleep(self._random.expovariate(1 / mean_s) if self._exponential else mean_s)
        self._out.write(RECORD.pack(sent_ns, began_ns, time.time_ns()))
        self._out.flush()


def consume_pika(url: str, queue: str, prefetch: int, *, auto_ack: bool, work: Callable[[int], None]) -> None:
    """Consume with pika's blocking connection; a ``prefetch`` of 0 is none."""
    import pika  # noqa: PLC0415 -- each client only where it is used

    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    if prefetch:
        channel.basic_qos(prefetch_count=prefetch)

    def on_message(channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        work(int((properties.headers or {}).get("sent_ns", 0)))
        if not auto_ack:
            channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, on_message, auto_ack=auto_ack)
    channel.start_consuming()


def consume_kafka(servers: str, topic: str, group: str, commit_ms: int, work: Callable[[int], None]) -> None:
    """Consume with confluent-kafka, with automatic commits every ``commit_ms``; 0: as often as the client's default."""
    from confluent_kafka import Consumer  # noqa: PLC0415 -- each client only where it is used

    options: dict[str, Any] = {"bootstrap.servers": servers, "group.id": group, "auto.offset.reset": "earliest"}
    if commit_ms:
        options["auto.commit.interval.ms"] = commit_ms
    consumer = Consumer(options)
    consumer.subscribe([topic])
    while True:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            headers = dict(message.headers() or [])
            work(int(headers.get("sent_ns", b"0")))


def main() -> None:
    """Consume until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("client", choices=("pika", "kafka"))
    parser.add_argument("address", help="URL of RabbitMQ, or host:port of Kafka")
    parser.add_argument("queue", help="queue or topic")
    parser.add_argument("out", type=Path, help="file for the records")
    parser.add_argument("--rate", type=float, default=100.0, help="messages a second (%(default)s)")
    parser.add_argument("--service", choices=("fixed", "exponential"), default="fixed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prefetch", type=int, default=0, help="pika: 0 is unlimited (%(default)s)")
    parser.add_argument("--auto-ack", action="store_true", help="pika: messages need no acknowledgement")
    parser.add_argument("--group", default="plain", help="Kafka: consumer group (%(default)s)")
    parser.add_argument("--commit-ms", type=int, default=0, help="Kafka: interval of commits; 0: the client's default")
    arguments = parser.parse_args()
    with arguments.out.open("wb") as out:
        work = Work(arguments.rate, arguments.service, arguments.seed, out)
        threading.Thread(target=work.listen, daemon=True).start()
        if arguments.client == "pika":
            prefetch = arguments.prefetch
            consume_pika(arguments.address, arguments.queue, prefetch, auto_ack=arguments.auto_ack, work=work.on)
        else:
            consume_kafka(arguments.address, arguments.queue, arguments.group, arguments.commit_ms, work.on)


if __name__ == "__main__":
    main()
