"""The publishing half of a channel: it assembles, routes, returns and confirms messages.

Must not know: how frames are read, what a queue does with a message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from backpressure.amqp.field_tables import short_string
from backpressure.amqp.frames import BASIC, PUBLISH, bad_syntax, content_frames
from backpressure.amqp.methods import PublishMethod, confirm_frame, read_publish, return_frame
from backpressure.amqp.properties import BASIC_HEADER, Properties, header_class
from backpressure.broker.consuming import Consuming
from backpressure.broker.declarations import type_name
from backpressure.broker.entries import QueuedMessage, keys_in
from backpressure.broker.exchange import REPLY_TO, Exchange
from backpressure.broker.meters import Counters
from backpressure.broker.peer import Peer, Routed, Transaction
from backpressure.broker.policy import MAX_TTL_MS
from backpressure.broker.queue import Queue
from backpressure.broker.replies import (
    ConnectionRefusal,
    access_refused,
    not_implemented,
    precondition_failed,
    unexpected_frame,
)

SMALL_MESSAGE_BYTES = 4096
"""A larger message counts as memory from its header on, before its body has arrived."""
_REPLY_TO = short_string(REPLY_TO)


class Publishing:
    """Content assembly and confirms of one channel."""

    def __init__(self, session: Peer, number: int, counters: Counters, consuming: Consuming) -> None:
        """``number``, ``counters`` and the consuming half are the channel's."""
        self._session = session
        self._consuming = consuming
        self._vhost = session.vhost
        self._totals = counters.totals
        self._number = number
        self._method: PublishMethod | None = None
        self._header = b""
        self._properties = Properties(0, {})
        self._missing = 0
        self._pieces: list[bytes] = []
        self.reserved_bytes = 0
        """What an unfinished message counts as memory."""
        self.confirming = False
        self._confirmed = 0
        self._outcomes: list[bool] = []
        self.transaction: Transaction[Any] | None = None

    @property
    def unconfirmed(self) -> int:
        """The number of messages whose confirm was not sent yet."""
        return len(self._outcomes)

    # -- content -------------------------------------------------------------------------------------------------

    def expect_no_content(self) -> None:
        """Raise 505 if a method arrives where content is expected."""
        if self._method is not None:
            raise unexpected_frame(self._due())

    def method(self, payload: bytes) -> None:
        """Handle ``basic.publish``, which begins a message."""
        method = read_publish(payload)
        if method.immediate:
            raise not_implemented("immediate=true")
        self._method = method
        if self._vhost.memory.active:  # not within a message: its frames must still be read to finish it
            self._session.block()

    def header(self, payload: bytes) -> None:
        """Handle the content header: properties and body size."""
        if self._method is None or self._header:
            raise unexpected_frame(self._due())
        if not payload.startswith(BASIC_HEADER):
            class_id = header_class(payload)
            got = f"one for class {class_id}" if class_id != BASIC else "non content header frame"
            raise unexpected_frame(f"expected content header for class {BASIC}, got {got} instead")
        try:
            self._properties = Properties.parse(payload)
        except ValueError as cause:
            raise bad_syntax(PUBLISH) from cause
        self._header = payload
        self._missing = self._properties.body_size
        limit = self._session.config.max_message_bytes
        if self._missing > limit:
            size = self._missing
            self._reset()
            raise precondition_failed(f"message size {size} is larger than configured max size {limit}")
        if not self._missing:
            self._complete(b"")
        elif self._missing + len(payload) > SMALL_MESSAGE_BYTES:
            self.reserved_bytes = self._missing + len(payload)
            self._vhost.memory.add(self.reserved_bytes)

    def body(self, payload: bytes) -> None:
        """Handle a body frame."""
        if not self._header:
            raise unexpected_frame(self._due())
        self._missing -= len(payload)
        if self._missing > 0:
            self._pieces.append(payload)
        elif self._missing < 0:
            raise ConnectionRefusal(501, "FRAME_ERROR", "content body is larger than its header says", PUBLISH)
        elif self._pieces:
            self._complete(b"".join((*self._pieces, payload)))
        else:
            self._complete(payload)

    def _due(self) -> str:
        if self._method is None:
            return "expected method frame, got non method frame instead"
        if not self._header:
            return f"expected content header for class {BASIC}, got non content header frame instead"
        return "expected content body, got non content body frame instead"

    def _reset(self) -> PublishMethod:
        method, self._method = self._method, None
        assert method is not None
        self._header = b""
        self.drop_pieces()
        return method

    def drop_pieces(self) -> None:
        """Discard an unfinished body."""
        if self.reserved_bytes:
            self._vhost.memory.add(-self.reserved_bytes)
            self.reserved_bytes = 0
        self._pieces = []

    def _complete(self, body: bytes) -> None:
        header, properties = self._header, self._properties
        method = self._reset()
        session, vhost = self._session, self._vhost
        exchange = vhost.exchange(method.exchange)
        if exchange.internal:
            raise access_refused(f"cannot publish to internal exchange '{exchange.name}' in vhost '/'")
        raw = properties.raw
        if "user_id" in raw:
            self._check_user(properties)
        if raw.get("reply_to") == _REPLY_TO:
            header = self._with_reply_address(properties)
        message = compose(method.exchange, method.routing_key, properties, body, header=header, route=method.route)
        self._totals["publish"] += 1
        exchange.counters.totals["publish_in"] += 1
        totals = vhost.counters.totals
        totals["publish"] += 1
        queues = vhost.route(exchange, message)
        if self.transaction is not None:
            vhost.memory.add(message.cost_bytes)
            self.transaction.published.append(Routed(message, exchange, queues, method.mandatory))
        elif not self.confirming:
            self._enqueue(exchange, message, queues, mandatory=method.mandatory)
        else:
            refused = vhost.faults.refuses_publish()
            accepted = not refused and self._enqueue(exchange, message, queues, mandatory=method.mandatory)
            self._outcomes.append(accepted)
            session.confirm_later(self)
        if vhost.memory.active:
            session.block()

    def _check_user(self, properties: Properties) -> None:
        claimed, user = properties.text("user_id"), self._session.user
        if claimed != user and "impersonator" not in self._session.config.tags_of(user):
            raise precondition_failed(f"user_id property set to '{claimed}' but authenticated user was '{user}'")

    def _enqueue(self, exchange: Exchange, message: QueuedMessage, queues: Sequence[Queue], *, mandatory: bool) -> bool:
        """Put a message into its queues, or return it; False when a queue rejects it."""
        vhost = self._vhost
        if queues:
            exchange.counters.totals["publish_out"] += len(queues)
            return vhost.publish(queues, message)
        if message.routing_key.startswith(REPLY_TO) and not message.exchange:
            vhost.direct_replies.deliver(message)
        if mandatory:
            vhost.counters.totals["return_unroutable"] += 1
            self._return(message)
        else:
            vhost.counters.totals["drop_unroutable"] += 1
        return True

    def commit(self) -> None:
        """Enqueue what the transaction holds."""
        for routed in self._released():
            queues = [queue for queue in routed.queues if not queue.deleted]
            self._enqueue(routed.exchange, routed.message, queues, mandatory=routed.mandatory)

    def roll_back(self) -> None:
        """Forget what the transaction holds."""
        self._released()

    def _released(self) -> list[Routed]:
        published = self.transaction.take_published() if self.transaction is not None else []
        self._vhost.memory.add(-sum(routed.message.cost_bytes for routed in published))
        return published

    def _with_reply_address(self, properties: Properties) -> bytes:
        consumer = self._consuming.reply_consumer
        if consumer is None:
            raise precondition_failed("fast reply consumer does not exist")
        properties.raw["reply_to"] = consumer.reply_to
        return properties.payload()

    def _return(self, message: QueuedMessage) -> None:
        self._session.send(
            return_frame(self._number, message.route)
            + content_frames(self._number, message.header, message.body, self._session.frame_max)
        )

    # -- confirms ------------------------------------------------------------------------------------------------

    def confirms(self) -> bytes:
        """Return the frames for the outcomes since the last call: one for each run of equal outcomes.

        Messages are settled in the order in which they are published, so ``multiple`` covers each run.
        """
        frames = []
        outcomes, self._outcomes = self._outcomes, []
        start, total = 0, len(outcomes)
        while start < total:
            accepted, end = outcomes[start], start + 1
            while end < total and outcomes[end] is accepted:
                end += 1
            self._confirmed += end - start
            self._totals["confirm"] += end - start
            self._vhost.counters.totals["confirm"] += end - start
            multiple = end - start > 1
            frames.append(confirm_frame(self._number, accepted, self._confirmed, multiple))
            start = end
        return b"".join(frames)


def compose(
    exchange: str, routing_key: str, properties: Properties, body: bytes, *, header: bytes = b"", route: bytes = b""
) -> QueuedMessage:
    """The message to route; 406 for an expiration or carbon copies that make no sense.

    ``header`` is the payload of ``properties``, ``route`` the octets of exchange and key, where these are known.
    """
    header = header or properties.payload()
    other_keys: tuple[str, ...] = ()
    if b"CC" in header:
        header, other_keys = _carbon_copies(properties, header)
    return QueuedMessage(
        exchange,
        routing_key,
        header,
        body,
        route=route,
        persistent=properties.persistent,
        expiration_s=_expiration_s(properties) if "expiration" in properties.raw else None,
        other_keys=other_keys,
    )


def _carbon_copies(properties: Properties, header: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The content header without the header ``BCC``, and the routing keys in ``CC`` and ``BCC``."""
    headers = properties.headers()
    keys: tuple[str, ...] = ()
    for name in (b"CC", b"BCC"):
        if name in headers:
            if headers[name][:1] != b"A":
                problem = f'{{unacceptable_type_in_header,"{name.decode()}",{type_name(headers[name])}}}'
                raise precondition_failed(f"invalid message: {problem}")
            keys += keys_in(headers, name)
    if headers.pop(b"BCC", None) is not None:
        properties.set_headers(headers)
        header = properties.payload()
    return header, keys


def _expiration_s(properties: Properties) -> float:
    """Return the ``expiration`` property in seconds; 406 unless Erlang reads it as a valid number of milliseconds."""
    text = properties.text("expiration") or ""
    number = re.match(r"[+-]?[0-9]+", text)
    if number is None:
        problem = "no_integer"
    elif number.end() < len(text):
        problem = f'{{leftover_string,"{text[number.end() :]}"}}'
    elif int(text) < 0:
        problem = f"{{value_negative,{int(text)}}}"
    elif int(text) > MAX_TTL_MS:
        problem = f"{{value_too_large,{int(text)}}}"
    else:
        return int(text) / 1000
    raise precondition_failed(f"invalid expiration '{text}': {problem}")
