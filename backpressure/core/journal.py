"""The record format of the journals from which the loss ledger and all exact percentiles are computed.

A process under observation writes one fixed-size record for every message that it settled. A producer's record says how
a message ended for the producer; a consumer's record says when it was delivered, started and done. Both are 64 bytes,
little-endian, and never all zero: a zero record marks the end of a file whose process was killed.

Times are nanoseconds since the epoch on the run's common clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import IntEnum
from struct import Struct

from backpressure.core.message import value

_FORMAT = Struct("<BBHIQQqqqqq")  # kind, outcome, flags, attempts, session, sequence, five times
RECORD_BYTES = _FORMAT.size
_OUTCOME_AT = 1

_PRODUCER = 1
_CONSUMER = 2
_REDELIVERED = 1


class Outcome(IntEnum):
    """How a message ended for the process that writes the record."""

    CONFIRMED = 1
    REJECTED = 2  # nacked for good: the broker never took it
    RETURNED = 3  # unroutable: taken by no queue
    UNSETTLED = 4  # still unconfirmed when the producer ended
    PROCESSED = 5
    DEAD_LETTERED = 6  # given up after the last attempt and handed to the dead-letter exchange


_OUTCOMES = {
    _PRODUCER: {Outcome.CONFIRMED, Outcome.REJECTED, Outcome.RETURNED, Outcome.UNSETTLED},
    _CONSUMER: {Outcome.PROCESSED, Outcome.DEAD_LETTERED},
}


@value
class ProducerRecord:
    """One message as its producer saw it; ``settled_ns`` is the time of the confirm (or nack, or return)."""

    session: int
    sequence: int
    outcome: Outcome
    intended_ns: int
    sent_ns: int
    settled_ns: int
    attempts: int = 1

    def pack(self) -> bytes:
        """Return the 64 bytes of the record."""
        times = (self.intended_ns, self.sent_ns, self.settled_ns, 0, 0)
        return _FORMAT.pack(_PRODUCER, self.outcome, 0, self.attempts, self.session, self.sequence, *times)


@value
class ConsumerRecord:
    """One delivery as its consumer saw it.

    ``session`` and ``sequence`` are 0 for a foreign message; ``intended_ns`` and ``sent_ns`` are 0 when unknown.
    ``started_ns`` is when the (last) work on it began, ``done_ns`` when it ended.
    """

    session: int
    sequence: int
    outcome: Outcome
    intended_ns: int
    sent_ns: int
    received_ns: int
    started_ns: int
    done_ns: int
    redelivered: bool = False
    attempts: int = 1

    def pack(self) -> bytes:
        """Return the 64 bytes of the record."""
        flags = _REDELIVERED if self.redelivered else 0
        times = (self.intended_ns, self.sent_ns, self.received_ns, self.started_ns, self.done_ns)
        return _FORMAT.pack(_CONSUMER, self.outcome, flags, self.attempts, self.session, self.sequence, *times)


def count_outcomes(data: bytes) -> Counter[Outcome]:
    """Count the records of one journal by outcome, without reading them one by one: a million take milliseconds."""
    usable = len(data) - len(data) % RECORD_BYTES
    outcomes = data[_OUTCOME_AT:usable:RECORD_BYTES]
    return Counter({outcome: number for outcome in Outcome if (number := outcomes.count(outcome))})


def read_records(data: bytes | memoryview) -> Iterator[ProducerRecord | ConsumerRecord]:
    """Yield the records of one journal up to its end, ignoring a last record that was cut off.

    Raises `ValueError` for a record in another format.
    """
    usable = len(data) - len(data) % RECORD_BYTES
    for fields in _FORMAT.iter_unpack(memoryview(data)[:usable]):
        kind, outcome, flags, attempts, session, sequence, *times = fields
        if kind in _OUTCOMES and outcome not in _OUTCOMES[kind]:
            raise ValueError(f"a record of kind {kind} cannot have the outcome {outcome}")
        if kind == _PRODUCER:
            intended_ns, sent_ns, settled_ns, _, _ = times
            yield ProducerRecord(session, sequence, Outcome(outcome), intended_ns, sent_ns, settled_ns, attempts)
        elif kind == _CONSUMER:
            redelivered = bool(flags & _REDELIVERED)
            intended_ns, sent_ns, received_ns, started_ns, done_ns = times
            yield ConsumerRecord(
                session,
                sequence,
                Outcome(outcome),
                intended_ns,
                sent_ns,
                received_ns,
                started_ns,
                done_ns,
                redelivered,
                attempts,
            )
        elif kind:
            raise ValueError(f"there are no records of kind {kind}")
        else:
            return
