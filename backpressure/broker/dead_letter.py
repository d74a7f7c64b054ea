"""Dead-lettering: what a message becomes when its queue gives it up, and the history it carries.

May not know: queues, exchanges, routing. Source: RabbitMQ 3.10, ``rabbit_dead_letter`` and its documentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backpressure.amqp.tables import Long, Timestamp, decode_value, encode_value, join_tables, split_array, split_table
from backpressure.broker.message import Message

if TYPE_CHECKING:
    from backpressure.amqp.tables import RawTable

__all__ = ["dead_lettered"]


def dead_lettered(
    message: Message, *, queue: str, reason: str, exchange: str, routing_key: str | None, epoch_s: int
) -> Message | None:
    """The message to publish to ``exchange``, or None when it has come full circle without a consumer's rejection.

    ``reason`` is ``maxlen``, ``expired``, ``rejected`` or ``delivery_limit``; ``routing_key`` None keeps the
    message's own. The entry in ``x-death`` is new, or counts one more and moves to the front.
    """
    properties = message.properties()
    headers = properties.headers()
    deaths = [split_table(item[1:]) for item in split_array(headers.get(b"x-death", b"")) if item[:1] == b"F"]
    if reason != "rejected" and _is_cycle(deaths, queue):
        return None
    here = {b"queue": encode_value(queue), b"reason": encode_value(reason)}
    death = next((d for d in deaths if here.items() <= d.items()), None)
    if death is None:
        death = {
            b"count": encode_value(Long(0)),
            **here,
            b"time": encode_value(Timestamp(epoch_s)),
            b"exchange": encode_value(message.exchange),
            b"routing-keys": encode_value([message.routing_key]),
        }
        original = properties.text("expiration")
        if original is not None:
            death[b"original-expiration"] = encode_value(original)
    else:
        deaths.remove(death)
    death[b"count"] = encode_value(Long(_count(death) + 1))
    headers[b"x-death"] = join_tables([death, *deaths])
    if b"x-first-death-reason" not in headers:
        for name, value in (("reason", reason), ("queue", queue), ("exchange", message.exchange)):
            headers[f"x-first-death-{name}".encode()] = encode_value(value)
    properties.set_headers(headers)
    properties.raw.pop("expiration", None)
    return Message(
        exchange,
        message.routing_key if routing_key is None else routing_key,
        properties.payload(),
        message.body,
        persistent=message.persistent,
    )


def _count(death: RawTable) -> int:
    """How often the message died there; a publisher may have forged anything."""
    count = decode_value(death.get(b"count", b""))
    return count if isinstance(count, int) and 0 <= count < 2**62 else 0


def _is_cycle(deaths: list[RawTable], queue: str) -> bool:
    """Whether the message was in ``queue`` before and nobody rejected it since."""
    rejected, here = encode_value("rejected"), encode_value(queue)
    for position, death in enumerate(deaths):
        if death.get(b"queue") == here:
            return all(d.get(b"reason") != rejected for d in deaths[: position + 1])
    return False
