"""When a consumer reports, and how it learns how often.

Producers know how many processes report, and so how often each may (`FleetSize`); a consumer does not. The producer
program says it in its messages (`REPORT_HEADER`). A consumer that cannot see that asks: about one of ten of its reports
is published with the address of the sender, and one producer (`FleetRole.first`) answers there. An answer costs one
delivery, needs no queue and no exchange, and nobody hears what is meant for others. What was told holds for a minute: a
consumer that nobody answers reports as usual.

An answer is a JSON object: the version of the format, ``"role": "interval"``, the queue, and ``report_ms`` (0: as
usual).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from backpressure.core.reports import (
    ASK_EVERY,
    EARLY_REPORTS,
    FEEDBACK_VERSION,
    ConsumerReport,
    Early,
    Fullness,
    Lately,
    decode,
    sooner_s,
    told_interval_s,
    uneven_s,
)
from backpressure.errors import FeedbackError

_ASK_WITHIN_S = 30.0
_HOLDS_S = 60.0
_ASKS_IT_HOLDS = 3
_ROLE = "interval"


def encode_interval(queue: str, every_s: float | None) -> bytes:
    """Return the answer that each process of ``queue`` reports ``every_s``; None: as often as usual."""
    report_ms = 0 if every_s is None else max(1, round(1000 * every_s))
    content = {"v": FEEDBACK_VERSION, "role": _ROLE, "queue": queue, "report_ms": report_ms}
    return json.dumps(content, separators=(",", ":")).encode()


def decode_interval(data: bytes) -> tuple[str, float | None]:
    """Return the queue and the interval that an answer tells, None: as usual; raises `FeedbackError` if it is none."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FeedbackError(f"not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("role") != _ROLE or content.get("v") != FEEDBACK_VERSION:
        raise FeedbackError("not an answer of this version")
    queue, report_ms = content.get("queue"), content.get("report_ms")
    every_s = told_interval_s(report_ms)
    if not isinstance(queue, str) or (every_s is None and report_ms != 0):
        raise FeedbackError("not an answer: queue or report_ms is missing or out of range")
    return queue, every_s


def answer_to(payload: bytes, queue: str, every_s: float, usual_s: float) -> bytes | None:
    """Return what to answer to a report that asks: each process of ``queue`` reports ``every_s``.

    None: the report is about another queue. Raises `FeedbackError` if it is none of this version.
    """
    if decode(payload, histograms=False).queue != queue:
        return None
    return encode_interval(queue, every_s if every_s > usual_s else None)


class Told:
    """How often the processes of a queue report, as it was told last, and when to ask again."""

    def __init__(self) -> None:
        self._every_s: float | None = None
        self._told_at = -inf
        self._asked_at = -inf

    def take(self, every_s: float | None, now: float) -> None:
        """Take in what a producer tells; None: as often as usual."""
        self._every_s, self._told_at = every_s, now

    def every_s(self, usual_s: float, now: float) -> float:
        """Return how often to report, ``usual_s`` if nothing else was told lately."""
        if self._every_s is None or now - self._told_at > max(_HOLDS_S, _ASKS_IT_HOLDS * _ask_every_s(self._every_s)):
            return usual_s
        return max(usual_s, self._every_s)

    def asks(self, every_s: float, now: float) -> bool:
        """Return whether the report that is sent ``now`` asks, of a process that reports ``every_s``."""
        last_at = max(self._asked_at, self._told_at)
        if now - last_at < _ask_every_s(every_s) - every_s / 2:  # what is due half a report later is due now
            return False
        self._asked_at = now
        return True


def _ask_every_s(every_s: float) -> float:
    return max(every_s, min(ASK_EVERY * every_s, _ASK_WITHIN_S))


@dataclass(frozen=True, slots=True)
class Turn:
    """How a report is sent: whether it ``asks``, and whether it may be ``brief``."""

    asks: bool
    brief: bool


class ReportTurns:
    """When one consumer reports: as often as it was told, unevenly, and at once if something has changed.

    Attributes:
        usual_s: how often it reports where processes are few, seconds.
    """

    def __init__(self, usual_s: float, chance: Callable[[], float]) -> None:
        """``chance`` returns random numbers from [0, 1)."""
        self.usual_s = usual_s
        self._chance = chance
        self._told = Told()
        self._lately = Lately()
        self._early = Early(EARLY_REPORTS)
        self._full = Fullness()
        self._due_at = -inf
        self._was_paused = self._had_worked = False

    def tell(self, every_s: float | None, now: float) -> None:
        """Take in how often each process of the queue reports; None: as often as usual."""
        self._told.take(every_s, now)

    def every_s(self, now: float) -> float:
        """Return how often it reports on average."""
        return self._told.every_s(self.usual_s, now)

    def look(self, report: ConsumerReport, now: float, working_s: float | None = None) -> Turn | None:
        """Return how to send ``report``, or None: it is not its turn. Call this every ``usual_s``.

        ``working_s`` is how long the consumer has been working on the message at hand; None: not known. The
        report is completed: with what was done lately, and the time until the next one.
        """
        every_s = self.every_s(now)
        fleet = every_s > self.usual_s
        self._lately.added(report, every_s if fleet else 0.0, working_s)
        interval_s = every_s
        if fleet:
            self._due_at = now + sooner_s(self._due_at - now, self._early.longest_s(every_s), self._chance())
            first_done = bool(report.processed) and not self._had_worked
            due = now >= self._due_at or report.paused is not self._was_paused or first_done
            # Its turn comes all the same: were all silent after a change, nothing but its first moments would be known.
            if not due and not (self._lately.changed and self._early.take(every_s, every_s)):
                return None
            interval_s = self._due_at - now
            if due:
                interval_s = uneven_s(self._early.next_s(every_s), self._chance(), first=self._due_at == -inf)
                self._due_at = now + interval_s
        self._was_paused, self._had_worked = report.paused, bool(report.processed)
        report.interval_s = interval_s
        return Turn(self._told.asks(every_s, now), self._full.brief(now, interval_s))
