"""Requests that the broker may refuse, on a channel that is opened anew after each refusal.

AMQP says no by closing the channel, so what asks questions (probe, admin) never shares one with what carries messages.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pika.exceptions import AMQPError

from backpressure.errors import NotConnectedError
from backpressure.settings import BrokerSettings
from backpressure.transports.outage import Outage
from backpressure.transports.rabbitmq.failures import request_error
from backpressure.transports.rabbitmq.link import Link
from backpressure.transports.rabbitmq.wire import Channel, Connection

__all__ = ["Requests"]


class Requests:
    """One connection for one request at a time."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str, *, timeout_s: float) -> None:
        self.link = Link(broker, name, outage, set_up=self._set_up)
        self._timeout_s = timeout_s
        self._channel: Channel | None = None
        self._one_at_a_time = asyncio.Lock()

    async def call(self, method: str, /, **arguments: Any) -> Any:
        """Return the reply to one pika method; raises `TransportError` with the broker's reason.

        A broker that does not answer in time costs the connection: it may have been stopped or cut off.
        """
        async with self._one_at_a_time:
            connection = self.link.connection
            try:
                async with asyncio.timeout(self._timeout_s):
                    if self._channel is None or not self._channel.is_open:
                        self._channel = await connection.open_channel(vital=False)
                    return await self._channel.call(method, **arguments)
            except AMQPError as error:
                raise request_error(error, self.link.address) from error
            except TimeoutError:
                silence = NotConnectedError(f"the broker at {self.link.address} did not answer in {self._timeout_s} s")
                connection.fail(silence)
                raise silence from None

    async def _set_up(self, connection: Connection) -> None:
        self._channel = await connection.open_channel(vital=False)
