"""The card of a queue that the user asked for: what is in it, what passes through it, and where it is heading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from math import isinf

from rich.text import Text

from backpressure.core.snapshot import Client, Outlook, QueueState, Snapshot
from backpressure.dashboards.cards_loop import Card, Labelled, facts, severity
from backpressure.presentation.numbers import UNKNOWN, amount, duration, percent, rate
from backpressure.program import printable

_MOST_CARDS = 3  # more are rows of a table
_CARD_LINES = 7
_DAY_S = 86_400


def queue_cards(seen: Snapshot, lines: int | None) -> list[Card]:
    """Return a card for each queue that was asked for; none if that takes more than ``lines``, or they are many."""
    asked = [seen.queues[name] for name in seen.asked if name in seen.queues]
    few = len(asked) <= _MOST_CARDS and (lines is None or _CARD_LINES * len(asked) <= lines)
    return [_card(seen, queue) for queue in asked] if few else []


def terms(clients: Iterable[Client]) -> str:
    """Return how many consumers there are on which terms: "2 with prefetch 10, manual ack; 1 automatic ack"."""
    counts = Counter((client.ack_required, client.prefetch, client.active) for client in clients)
    return "; ".join(f"{count} with {_terms(*each)}" for each, count in sorted(counts.items(), reverse=True))


def expected_wait(outlook: Outlook) -> str:
    """Return how long a message sent now will wait."""
    if outlook.wait_s is None:
        return UNKNOWN
    return "nothing leaves" if isinf(outlook.wait_s) else f"about {duration(outlook.wait_s)}"


def heading(outlook: Outlook, at_ns: int) -> str:
    """Return where the queue is heading: "steady", "grows by 100/s, full in 12 min (14:32)"."""
    growth = outlook.growth_per_s
    if growth is None:
        return f"growth {UNKNOWN}"
    if growth == 0:
        return "steady"
    text = f"grows by {rate(growth)}" if growth > 0 else f"shrinks by {rate(-growth)}"
    for what, in_s in (("full", outlook.full_in_s), ("empty", outlook.empty_in_s)):
        if in_s is not None:
            text += f", {what} in {duration(in_s)} ({clock_after(at_ns, in_s)})"
    return text


def clock_after(at_ns: int, in_s: float) -> str:
    """Return the time of day in ``in_s`` seconds, or the number of days, if it is further away."""
    if in_s >= _DAY_S:
        return f"{in_s / _DAY_S:.0f} d"
    return f"{datetime.fromtimestamp(at_ns / 1e9, UTC).astimezone() + timedelta(seconds=in_s):%H:%M}"


def _card(seen: Snapshot, queue: QueueState) -> Card:
    outlook = queue.outlook or Outlook()
    limit = next((threshold.limit for threshold in seen.thresholds if threshold.name == "depth"), float("inf"))
    sign, colour = severity(queue.depth, limit)
    least = "" if queue.unacked is not None else "≥ "
    depth = facts(
        ("", f"{least}{amount(queue.depth)}", colour),
        ("ready", amount(queue.ready)),
        ("unacked", amount(queue.unacked)),
    )
    if queue.max_length is not None:
        used = UNKNOWN if queue.fill is None else percent(queue.fill)
        depth.append(f"  bound {amount(queue.max_length)} ready, {used} used")
    growing = (outlook.growth_per_s or 0) > 0
    rates = facts(("in", rate(queue.published_per_s)), ("out", rate(queue.acked_per_s)))
    rates.append("  ").append(heading(outlook, seen.at_ns), "yellow" if growing else "")
    endless = isinf(outlook.wait_s or 0)
    wait = Text.assemble((expected_wait(outlook), "red" if endless else ""), ("  backlog ÷ rate out", "dim"))
    rows = [("depth", depth), ("rates", rates), ("wait", wait), ("consumers", Text(printable(_consumers(seen, queue))))]
    if queue.kind == "stream":
        rows[1:3] = [("rates", facts(("in", rate(queue.published_per_s))))]  # nothing is ever taken out of it
    if outlook.statistics_age_s is not None:
        age = f"statistics up to {duration(outlook.statistics_age_s)} old; ready messages are counted now"
        rows.append(("", Text(age, "dim")))
    kind = f" ({queue.kind})" if queue.kind else ""
    return Card(Labelled(rows), f"{sign} {printable(queue.name)}{kind}", colour)


def _consumers(seen: Snapshot, queue: QueueState) -> str:
    clients = seen.clients_of(queue.name)
    if queue.consumers == 0:
        return "none"
    if not clients:
        return f"{amount(queue.consumers)}, their prefetch is unknown"
    return terms(clients)


def _terms(ack_required: bool, prefetch: int, active: bool) -> str:
    waiting = "" if active else ", waiting for the active one"
    if not ack_required:
        return f"automatic ack{waiting}"
    limit = f"prefetch {amount(prefetch)}" if prefetch else "no prefetch limit"
    return f"{limit}, manual ack{waiting}"
