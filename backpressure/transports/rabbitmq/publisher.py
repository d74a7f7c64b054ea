"""Publishing with confirms, without waiting for them; and the dead letters of received messages.

A dead letter is octet for octet as it came, except for what a broker acts on when it is published. The expiration would
let the dead letter vanish, so it moves into ``x-death``. The broker compares the user id with the login, so that of
another user becomes a header. The header ``CC`` would send copies to other queues once more, so it is removed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pika.channel import Channel as PikaChannel
from pika.spec import Basic

from backpressure.amqp.deaths import record_death
from backpressure.amqp.field_tables import encode_value
from backpressure.amqp.outgoing import publish_frames
from backpressure.amqp.properties import Properties, read_value
from backpressure.core.message import Delivery, HeaderValue, Message
from backpressure.errors import NotConnectedError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.base import PublisherListener
from backpressure.transports.connecting import Outage
from backpressure.transports.rabbitmq.link import RabbitMQLink
from backpressure.transports.rabbitmq.wire import WireConnection

_USER_ID_HEADER = b"x-pace-user-id"
_LOOK_EVERY_S = 0.5
_PATIENCE_S = 3.0
_MOST_PATIENCE_S = 60.0
_CALM_S = 300.0


class ConfirmWatch:
    """Gives a channel of a cluster up that no longer confirms: on another one the messages are sent again.

    When the leader of a quorum queue changes, RabbitMQ 3.10 may forget some confirms of a channel for good. A channel
    that first publishes in the moments after a leader's death may ask the dead node, and then refuse every message, or
    answer none, until that node is back. A full queue, a lost majority and a slow disk look the same, so the patience
    doubles each time, until there was a calm of five minutes.
    """

    def __init__(self, now: Callable[[], float], call_later: Callable[[float, Callable[[], None]], object]) -> None:
        """``now`` tells seconds; ``call_later`` calls after so many."""
        self._now = now
        self._call_later = call_later
        self._patience_s = _PATIENCE_S
        self._gave_up_at = -_CALM_S
        self._channel = 0
        self._open: dict[int, float] = {}
        self._first_at: float | None = None
        self._counts_from = 0.0
        self._works = False
        self._is_blocked: Callable[[], bool] = bool
        self._give_up: Callable[[], None] = lambda: None

    def opened(self, is_blocked: Callable[[], bool], give_up: Callable[[], None]) -> None:
        """A new channel begins; while it ``is_blocked``, time does not count."""
        self._channel += 1
        self._open.clear()
        self._first_at = None
        self._counts_from = now = self._now()
        self._works = False
        if now - self._gave_up_at > _CALM_S:
            self._patience_s = _PATIENCE_S
        self._is_blocked, self._give_up = is_blocked, give_up
        self._call_later(_LOOK_EVERY_S, partial(self._look, self._channel))

    def published(self, tag: int) -> None:
        """A message was sent."""
        self._open[tag] = now = self._now()
        if self._first_at is None:
            self._first_at = now

    def settled(self, tag: int, *, multiple: bool, confirmed: bool) -> None:
        """A message was confirmed or refused, or all up to it were."""
        self._works = self._works or confirmed
        if not multiple:
            self._open.pop(tag, None)
            return
        while self._open and (oldest := next(iter(self._open))) <= tag:
            del self._open[oldest]

    def _look(self, channel: int) -> None:
        if channel != self._channel:
            return
        now = self._now()
        if self._is_blocked():
            self._counts_from = now
        since = [next(iter(self._open.values()), now)]
        if not self._works and self._first_at is not None:
            since.append(self._first_at)
        if now - max(min(since), self._counts_from) < self._patience_s:
            self._call_later(_LOOK_EVERY_S, partial(self._look, channel))
            return
        self._gave_up_at = now
        self._patience_s = min(2 * self._patience_s, _MOST_PATIENCE_S)
        self._give_up()


class RabbitMQPublisher:
    """A `Publisher` on a connection and a channel of its own."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self._link = RabbitMQLink(broker, name, outage, set_up=self._set_up, on_lost=self._on_lost)
        self._listener: PublisherListener
        self._connection: WireConnection | None = None
        self._channel: PikaChannel | None = None
        self._last_tag = 0
        self._watch: ConfirmWatch | None = None

    @property
    def ready(self) -> bool:
        """Whether `publish` may be called now."""
        return self._channel is not None and bool(self._channel.is_open)

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes accepted by `publish` that the socket has not taken yet."""
        return 0 if self._connection is None else self._connection.write_buffer_bytes

    async def start(self, listener: PublisherListener) -> None:
        """See `Publisher.start`."""
        self._listener = listener
        if self._link.has_others:
            self._watch = ConfirmWatch(time.monotonic, asyncio.get_running_loop().call_later)
        await self._link.start()

    def publish(self, message: Message, *, exchange: str, routing_key: str) -> int:
        """See `Publisher.publish`."""
        if self._connection is None or self._channel is None or not self._channel.is_open:
            raise NotConnectedError(f"not connected to the broker at {self._link.address}")
        frame_max = self._connection.frame_max_bytes
        self._connection.emit(publish_frames(self._channel.channel_number, exchange, routing_key, message, frame_max))
        self._last_tag += 1
        if self._watch is not None:
            self._watch.published(self._last_tag)
        return self._last_tag

    async def stop(self) -> None:
        """See `Publisher.stop`."""
        await self._link.stop()
        self._connection = self._channel = None

    async def _set_up(self, connection: WireConnection) -> None:
        channel = await connection.open_channel(vital=True)
        connection.add_on_connection_blocked_callback(
            lambda _connection, frame: self._listener.on_blocked(frame.method.reason)
        )
        connection.add_on_connection_unblocked_callback(lambda _connection, _frame: self._listener.on_unblocked())
        await channel.call("confirm_delivery", ack_nack_callback=self._on_settled)
        number = channel.raw.channel_number
        connection.incoming.confirm_to(
            number, self._listener.on_confirmed if self._watch is None else self._on_confirmed
        )
        connection.incoming.return_to(number, self._on_return)
        self._last_tag = 0
        self._connection, self._channel = connection, channel.raw
        if self._watch is not None:
            silent = NotConnectedError(f"{self._link.address} confirms nothing: trying another server")
            self._watch.opened(lambda: connection.blocked, lambda: connection.fail(silent))
        self._listener.on_ready()

    def _on_confirmed(self, tag: int, multiple: bool) -> None:
        assert self._watch is not None
        self._watch.settled(tag, multiple=multiple, confirmed=True)
        self._listener.on_confirmed(tag, multiple)

    def _on_settled(self, frame: Any) -> None:
        settled = frame.method
        if self._watch is not None:
            confirmed = isinstance(settled, Basic.Ack)
            self._watch.settled(settled.delivery_tag, multiple=settled.multiple, confirmed=confirmed)
        if isinstance(settled, Basic.Ack):
            self._listener.on_confirmed(settled.delivery_tag, settled.multiple)
        else:
            self._listener.on_nacked(settled.delivery_tag, settled.multiple)

    def _on_return(self, message: Message, reason: str) -> None:
        self._listener.on_returned(message.message_id, reason)

    def _on_lost(self, error: TransportError) -> None:
        self._connection = self._channel = None
        self._listener.on_lost(error)


def dead_letter_header(delivery: Delivery, queue: str, user: str, more: Mapping[str, HeaderValue]) -> bytes:
    """Return the content header of ``delivery`` as a dead letter of ``queue``, with the headers ``more``.

    Args:
        delivery: the received message, with its content header.
        queue: the queue it came from.
        user: the user that publishes the dead letter.
        more: headers to add.

    Raises:
        ValueError: the content header is malformed.
    """
    assert isinstance(delivery.native, bytes)
    properties = Properties.parse(delivery.native)
    headers = properties.headers()
    raw_copies = headers.pop(b"CC", b"V")
    copies = read_value(raw_copies, 0, len(raw_copies))
    routing_keys = [delivery.routing_key, *(copies if isinstance(copies, list) else [])]
    headers.pop(b"BCC", None)
    if properties.text("user_id") not in {None, user}:
        sender = properties.raw.pop("user_id")
        headers[_USER_ID_HEADER] = b"S\0\0\0" + sender
    headers |= {name.encode(): encode_value(value) for name, value in more.items()}
    properties.set_headers(headers)
    record_death(
        properties,
        queue=queue,
        reason="rejected",
        exchange=delivery.exchange,
        routing_keys=[key for key in routing_keys if isinstance(key, str)],
        epoch_s=int(time.time()),
    )
    return properties.payload()
