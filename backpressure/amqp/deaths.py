"""The history of a dead letter: the header ``x-death`` and its companions, written as RabbitMQ writes them.

Works on raw property lists, so everything else keeps the type and octets its publisher gave it.
Must not know: queues, exchanges, routing. Source: RabbitMQ 4.0, ``mc``, and what it was seen to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from backpressure.amqp.field_tables import (
    Long,
    RawTable,
    Timestamp,
    decode_value,
    encode_value,
    join_tables,
    split_array,
    split_table,
)
from backpressure.amqp.properties import Properties

_ENDS = ("first", "last")
_PARTS = ("reason", "queue", "exchange")


def deaths_of(headers: RawTable) -> list[RawTable]:
    """Return the entries of ``x-death``, the latest first; a publisher may have forged anything."""
    return [split_table(item[1:]) for item in split_array(headers.get(b"x-death", b"")) if item[:1] == b"F"]


def record_death(
    properties: Properties, *, queue: str, reason: str, exchange: str, routing_keys: Sequence[str], epoch_s: int
) -> None:
    """Write down that the message died in ``queue``, and move its expiration there: a dead letter does not expire.

    The entry is new, or counts one more and moves to the front. The first death and the last have headers of their own.
    """
    headers = properties.headers()
    is_first = b"x-death" not in headers
    deaths = _merged(deaths_of(headers))
    here = {b"queue": encode_value(queue), b"reason": encode_value(reason)}
    death = next((d for d in deaths if here.items() <= d.items()), None)
    if death is None:
        death = {
            b"count": encode_value(Long(0)),
            **here,
            b"time": encode_value(Timestamp(epoch_s)),
            b"exchange": encode_value(exchange),
            b"routing-keys": encode_value(list(routing_keys)),
        }
        original = properties.text("expiration")
        if original is not None:
            death[b"original-expiration"] = encode_value(original)
    else:
        deaths.remove(death)
    death[b"count"] = encode_value(Long(_count(death) + 1))
    headers[b"x-death"] = join_tables([death, *deaths])
    for part, value in zip(_PARTS, (reason, queue, exchange), strict=True):
        headers[f"x-last-death-{part}".encode()] = encode_value(value)
        if is_first:
            headers.setdefault(f"x-first-death-{part}".encode(), encode_value(value))
    properties.set_headers(headers)
    properties.raw.pop("expiration", None)


def forget_deaths(properties: Properties) -> None:
    """Remove a history that no broker wrote: since RabbitMQ 4, what a publisher sends is not believed."""
    headers = properties.headers()
    names = [b"x-death", *(f"x-{end}-death-{part}".encode() for end in _ENDS for part in _PARTS)]
    known = [name for name in names if name in headers]
    if known:
        for name in known:
            del headers[name]
        properties.set_headers(headers)


def is_cycle(deaths: Sequence[RawTable], destination: str) -> bool:
    """Whether a dead letter would return to a queue that it was dead-lettered from, without a rejection since."""
    rejected, there = encode_value("rejected"), encode_value(destination)
    for death in deaths:
        if death.get(b"reason") == rejected:
            return False
        if death.get(b"queue") == there:
            return True
    return False


def _merged(deaths: list[RawTable]) -> list[RawTable]:
    """One entry for each queue and reason: brokers before RabbitMQ 3.5 wrote one for each death, without a count.

    Several entries come out in the opposite order, as they do there.
    """
    if len(deaths) < 2:
        return deaths
    found: dict[tuple[bytes | None, bytes | None], list[RawTable]] = {}
    for death in deaths:
        found.setdefault((death.get(b"queue"), death.get(b"reason")), []).append(death)
    for death, *others in found.values():
        if not _count(death):
            death[b"count"] = encode_value(Long(1 + len(others)))
    return [group[0] for group in reversed(found.values())]


def _count(death: RawTable) -> int:
    """How often the message was dead-lettered there; 0 if that is unknown."""
    count = decode_value(death.get(b"count", b""))
    return count if isinstance(count, int) and 0 <= count < 2**62 else 0
