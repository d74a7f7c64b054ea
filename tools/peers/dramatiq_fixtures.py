"""What dramatiq's RabbitMQ tests expect around them: its source distribution leaves these modules out."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import dramatiq
import pika
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker

if TYPE_CHECKING:
    from collections.abc import Iterator

common = types.ModuleType("tests.common")
common.RABBITMQ_USERNAME = common.RABBITMQ_PASSWORD = "guest"  # type: ignore[attr-defined]
common.RABBITMQ_CREDENTIALS = pika.PlainCredentials("guest", "guest")  # type: ignore[attr-defined]
common.skip_unless_rabbit_mq = lambda test: test  # type: ignore[attr-defined]
sys.modules["tests.common"] = common


@pytest.fixture
def rabbitmq_broker() -> Iterator[Any]:
    broker = RabbitmqBroker(host="127.0.0.1", max_priority=10)
    broker.emit_after("process_boot")
    dramatiq.set_broker(broker)
    yield broker
    broker.flush_all()
    broker.emit_before("process_stop")
    broker.close()


@pytest.fixture
def rabbitmq_worker(rabbitmq_broker: Any) -> Iterator[Any]:
    worker = dramatiq.Worker(rabbitmq_broker, worker_threads=4, worker_timeout=10)
    worker.start()
    yield worker
    worker.stop()
