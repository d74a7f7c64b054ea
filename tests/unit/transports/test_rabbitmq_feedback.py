"""`RabbitMQFeedback`, as far as it can be tried without a broker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from backpressure.errors import NotConnectedError
from backpressure.settings import BrokerSettings
from backpressure.transports.connecting import Outage
from backpressure.transports.rabbitmq.feedback import Creates, RabbitMQFeedback


def test_answers_are_dropped_with_the_connection_on_which_they_were_asked_for() -> None:
    """They would otherwise be tried again at once, for as long as the broker is away."""
    broker, attempts = BrokerSettings(), 0

    async def refuse(*, vital: bool) -> Any:
        nonlocal attempts
        assert not vital
        attempts += 1
        raise NotConnectedError("the connection was lost")

    async def told_while_it_is_lost() -> None:
        feedback = RabbitMQFeedback(broker, Outage("here"), "test", "pace.feedback", Creates.LASTING)
        feedback._connection = cast("Any", SimpleNamespace(open_channel=refuse))
        feedback._tell("amq.rabbitmq.reply-to.1", b"told")
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(told_while_it_is_lost())
    assert attempts == 1
