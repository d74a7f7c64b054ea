"""A private node where there is no RabbitMQ to run."""

from __future__ import annotations

import asyncio

import pytest

from backpressure.transports import rabbitmq_node
from backpressure.transports.rabbitmq_node import RabbitMQMissingError, find_rabbitmq, private_node


def test_without_an_installation_the_error_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_node, "_INSTALLATIONS", ())
    monkeypatch.delenv("RABBITMQ_HOME", raising=False)
    assert find_rabbitmq() is None
    with pytest.raises(RabbitMQMissingError, match="apt-get install rabbitmq-server"), private_node():
        pass

    async def start() -> None:
        async with private_node():
            pass

    with pytest.raises(RabbitMQMissingError, match="--broker embedded"):
        asyncio.run(start())


def test_without_erlang_there_is_no_rabbitmq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert find_rabbitmq() is None
