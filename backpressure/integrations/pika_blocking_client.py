"""Sends with pika's blocking connection."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from math import inf
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, NackError, UnroutableError

from backpressure.errors import NotConnectedError, RefusedError
from backpressure.errors import UnroutableError as Unroutable
from backpressure.integrations.pika_callback_client import address, persistent

__all__ = ["PikaBlockingClient"]


class PikaBlockingClient:
    """A `BlockingClient` on a channel or a connection that nobody else uses meanwhile.

    Threads take turns: a blocking connection answers one message at a time. A connection that is lost, for example
    because nothing was sent for two heartbeats, is replaced by another one with the same parameters. While the broker
    has an alarm, pika waits for it, whatever the timeout says: set ``blocked_connection_timeout`` in its parameters.
    """

    def __init__(self, client: BlockingChannel | pika.BlockingConnection, *, exchange: str, routing_key: str) -> None:
        self._exchange = exchange
        self._routing_key = routing_key
        self._turn = threading.Lock()
        self._own: pika.BlockingConnection | None = None
        self._own_channel = not isinstance(client, BlockingChannel)
        self._channel: BlockingChannel | None = client if isinstance(client, BlockingChannel) else None
        self._connection: pika.BlockingConnection = client.connection if isinstance(client, BlockingChannel) else client
        self._parameters = self._connection._impl.params  # noqa: SLF001 - there is no other way to learn them
        self.url = address(self._parameters)

    def open(self) -> None:
        """See `BlockingClient.open`."""
        with self._turn:
            try:
                if not self._connection.is_open:
                    self._connection = self._own = pika.BlockingConnection(self._parameters)
                channel = self._channel
                if channel is None or not channel.is_open or channel.connection is not self._connection:
                    self._own_channel = True
                    self._channel = channel = self._connection.channel()
                channel.confirm_delivery()
            except (AMQPError, OSError) as error:
                raise NotConnectedError(f"not connected to the broker: {error!r}") from error

    def send(self, message: Any, options: Mapping[str, Any], timeout_s: float) -> None:
        """See `BlockingClient.send`; ``options``: ``properties``."""
        if not self._turn.acquire(timeout=-1 if timeout_s == inf else timeout_s):
            raise TimeoutError
        try:
            if self._channel is None:
                raise NotConnectedError("not open")
            properties = options.get("properties") or persistent()
            self._channel.basic_publish(self._exchange, self._routing_key, message, properties, mandatory=True)
        except UnroutableError as error:
            raise Unroutable(f"the broker has no queue for routing key {self._routing_key!r}") from error
        except NackError as error:
            raise RefusedError(f"the broker refuses a message to {self._routing_key!r}: the queue is full") from error
        except (AMQPError, OSError) as error:
            raise NotConnectedError(f"the connection was lost: {error!r}") from error
        finally:
            self._turn.release()

    def close(self) -> None:
        """See `BlockingClient.close`."""
        with self._turn, suppress(AMQPError, OSError):
            if self._own is not None:
                self._own.close()
            elif self._own_channel and self._channel is not None:
                self._channel.close()
