"""The examples of task frameworks, run as users do: paced where orders are sent, reported where they are done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka
import pika
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from backpressure.core.reports import ConsumerReport, decode

EXAMPLES = Path(__file__).parents[3] / "examples"
COUNTS = (40, 400, 4000)  # orders are sent until a sender has lived long enough to be heard, usually once
PYTHON = [sys.executable, "-W", "ignore"]  # the frameworks warn of themselves
WORKERS = {
    "celery": (
        "celery",
        [*PYTHON, "-m", "celery", "--app", "celery_orders", "worker", "--concurrency", "1", "--loglevel", "ERROR"],
    ),
    "dramatiq": (
        "dramatiq_orders",
        [*PYTHON, "-m", "dramatiq", "--processes", "1", "--threads", "1", "dramatiq_orders"],
    ),
    "taskiq": (
        "taskiq",
        [*PYTHON, "-m", "taskiq", "worker", "--workers", "1", "--max-async-tasks", "1", "taskiq_orders:broker"],
    ),
    "faststream": ("faststream_orders", [*PYTHON, "-m", "faststream", "run", "faststream_orders:app"]),
    "kombu": ("kombu_orders", [*PYTHON, "kombu_orders.py", "work"]),
}


@contextmanager
def running(command: list[str], environ: dict[str, str], folder: Path = EXAMPLES) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("framework", WORKERS)
def test_orders_are_sent_at_a_pace_and_the_work_on_them_is_reported(framework: str, url: str, tmp_path: Path) -> None:
    queue, command = WORKERS[framework]
    log = tmp_path / "orders"
    environ = os.environ | {"AMQP_URL": url, "ORDERS_LOG": str(log)}
    with pika.BlockingConnection(pika.URLParameters(url)) as connection, running(command, environ) as worker:
        channel = connection.channel()
        channel.exchange_declare("pace.feedback", "fanout")
        listener = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(listener, "pace.feedback")
        heard = Heard(queue)
        channel.basic_consume(listener, lambda *message: heard.take(message[3]), auto_ack=True)
        sender = [*PYTHON, f"{framework}_orders.py"]
        sent = send_until_heard(sender, environ, EXAMPLES, worker, heard, lambda: connection.process_data_events(0.1))
    assert len(log.read_text().splitlines()) == sent
    assert heard.processed == sent
    assert heard.confirmed > 0


@pytest.mark.kafka
@pytest.mark.parametrize("client", ["kafka", "confluent"])
def test_orders_on_kafka_are_sent_at_a_pace_and_the_work_on_them_is_reported(
    client: str, kafka: Any, tmp_path: Path
) -> None:
    servers = kafka.url.removeprefix("kafka://")
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(client, 1, 1)])[client].result(60)
    shutil.copy(EXAMPLES / "orders.py", tmp_path)
    code = (EXAMPLES / "faststream_kafka_orders.py").read_text("utf-8").replace('"orders"', f'"{client}"')
    code = code.replace("from faststream.kafka import", f"from faststream.{client} import")
    (tmp_path / "faststream_kafka_orders.py").write_text(code, "utf-8")
    log = tmp_path / "orders"
    environ = os.environ | {"KAFKA_SERVERS": servers, "ORDERS_LOG": str(log)}
    heard = Heard(client)
    listener = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": "listener", "log_level": 0})
    listener.assign([confluent_kafka.TopicPartition("pace.feedback", 0, confluent_kafka.OFFSET_BEGINNING)])

    def listen() -> None:
        message = listener.poll(0.1)
        if message is not None and message.error() is None:
            heard.take(message.value() or b"")

    with running([*PYTHON, "-m", "faststream", "run", "faststream_kafka_orders:app"], environ, tmp_path) as worker:
        sender = [*PYTHON, "faststream_kafka_orders.py"]
        sent = send_until_heard(sender, environ, tmp_path, worker, heard, listen)
    listener.close()
    assert len(log.read_text().splitlines()) == sent
    assert heard.processed == sent
    assert heard.confirmed > 0


class Heard:
    """What reports have said of one queue: messages processed, and confirmed to their sender."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.processed = self.confirmed = 0

    def take(self, payload: bytes) -> None:
        report = decode(payload)
        if report.queue == self.queue and isinstance(report, ConsumerReport):
            self.processed = max(self.processed, report.processed)
        elif report.queue == self.queue:
            self.confirmed = max(self.confirmed, report.confirmed)


def send_until_heard(
    command: list[str],
    environ: dict[str, str],
    folder: Path,
    worker: subprocess.Popen[bytes],
    heard: Heard,
    listen: Callable[[], None],
) -> int:
    """Return how many orders were sent, all of them worked on.

    A sender of 40 orders is over in half a second. On a busy machine, that can be before it is connected for reports:
    then more are sent.
    """
    sent = 0
    for count in COUNTS:
        sent += count
        with running(command, environ | {"ORDERS_COUNT": str(count)}, folder) as sender:
            deadline = time.monotonic() + 120
            while (heard.processed < sent or sender.poll() is None) and time.monotonic() < deadline:
                listen()
                assert worker.poll() is None, worker.stderr and worker.stderr.read().decode()[-2000:]
            assert sender.poll() == 0, sender.stderr and sender.stderr.read().decode()[-2000:]
        for _ in range(5):  # the sender's last report may come after those of the work
            listen()
        if heard.confirmed:
            break
    return sent
