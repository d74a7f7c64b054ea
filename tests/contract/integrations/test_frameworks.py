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

from backpressure.core.reports import ConsumerReport, ProducerReport, decode

EXAMPLES = Path(__file__).parents[3] / "examples"
COUNT = 40
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
    environ = os.environ | {"AMQP_URL": url, "ORDERS_COUNT": str(COUNT), "ORDERS_LOG": str(log)}
    reports: list[ConsumerReport | ProducerReport] = []
    with pika.BlockingConnection(pika.URLParameters(url)) as connection, running(command, environ) as worker:
        channel = connection.channel()
        channel.exchange_declare("pace.feedback", "fanout")
        listener = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(listener, "pace.feedback")
        channel.basic_consume(listener, lambda *message: reports.append(decode(message[3])), auto_ack=True)
        with running([*PYTHON, f"{framework}_orders.py"], environ) as sender:
            deadline = time.monotonic() + 60
            while not all_told(reports, queue) and time.monotonic() < deadline:
                connection.process_data_events(0.1)
                assert worker.poll() is None, worker.stderr and worker.stderr.read().decode()[-2000:]
            assert sender.wait(20) == 0, sender.stderr and sender.stderr.read().decode()[-2000:]
    assert len(log.read_text().splitlines()) == COUNT
    assert worked_on(reports, queue) == COUNT
    assert confirmed_to(reports, queue) > 0


def worked_on(reports: list[ConsumerReport | ProducerReport], queue: str) -> int:
    return max((r.processed for r in reports if isinstance(r, ConsumerReport) and r.queue == queue), default=0)


def confirmed_to(reports: list[ConsumerReport | ProducerReport], queue: str) -> int:
    return max((r.confirmed for r in reports if isinstance(r, ProducerReport) and r.queue == queue), default=0)


def all_told(reports: list[ConsumerReport | ProducerReport], queue: str) -> bool:
    """Return whether both sides have been heard: those of the sender may come after those of the work."""
    return worked_on(reports, queue) >= COUNT and confirmed_to(reports, queue) > 0


@pytest.mark.kafka
@pytest.mark.parametrize("client", ["kafka", "confluent"])
def test_orders_on_kafka_are_sent_at_a_pace_and_the_work_on_them_is_reported(
    client: str, kafka: Any, tmp_path: Path
) -> None:
    servers = kafka.url.removeprefix("kafka://")
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(client, 1, 1)])[client].result(20)
    shutil.copy(EXAMPLES / "orders.py", tmp_path)
    code = (EXAMPLES / "faststream_kafka_orders.py").read_text("utf-8").replace('"orders"', f'"{client}"')
    code = code.replace("from faststream.kafka import", f"from faststream.{client} import")
    (tmp_path / "faststream_kafka_orders.py").write_text(code, "utf-8")
    log = tmp_path / "orders"
    environ = os.environ | {"KAFKA_SERVERS": servers, "ORDERS_COUNT": str(COUNT), "ORDERS_LOG": str(log)}
    worker_command = [*PYTHON, "-m", "faststream", "run", "faststream_kafka_orders:app"]
    with (
        running(worker_command, environ, tmp_path) as worker,
        running([*PYTHON, "faststream_kafka_orders.py"], environ, tmp_path) as sender,
    ):
        reports = reports_on_kafka(servers, lambda reports: all_told(reports, client))
        assert worker.poll() is None, worker.stderr and worker.stderr.read().decode()[-2000:]
        assert sender.wait(20) == 0, sender.stderr and sender.stderr.read().decode()[-2000:]
    assert len(log.read_text().splitlines()) == COUNT
    assert worked_on(reports, client) == COUNT
    assert confirmed_to(reports, client) > 0


def reports_on_kafka(
    servers: str, enough: Callable[[list[ConsumerReport | ProducerReport]], bool]
) -> list[ConsumerReport | ProducerReport]:
    reports: list[ConsumerReport | ProducerReport] = []
    listener = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": "listener", "log_level": 0})
    listener.assign([confluent_kafka.TopicPartition("pace.feedback", 0, confluent_kafka.OFFSET_BEGINNING)])
    deadline = time.monotonic() + 60
    while not enough(reports) and time.monotonic() < deadline:
        message = listener.poll(0.1)
        if message is not None and message.error() is None:
            reports.append(decode(message.value() or b""))
    listener.close()
    return reports
