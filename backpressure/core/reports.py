"""Feedback reports: the counters that every process publishes on the feedback exchange, and how often.

Counters are totals since the process started, never rates. Listeners take differences, so a lost report costs freshness
and not correctness. Reports are not trusted: they may come from another version or another program, so `decode` checks
each and raises `FeedbackError`. A field with a default may be left out.

Reports have two forms: JSON for programs in any language (`encode`), and octets for this project's own
(`encode_compact`); `decode` reads both. The classes are not frozen only because a frozen one takes three times as long
to make; nothing changes a report once it is sent or received.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import MISSING, dataclass, field, fields, replace
from math import exp, inf, log
from typing import Any, NamedTuple

from backpressure.core.compact_reports import COMPACT_VERSION, CONSUMER, PRODUCER, Layout, pack, sender_in, unpack
from backpressure.core.histogram import MAX_BUCKET, Histogram
from backpressure.errors import FeedbackError

FEEDBACK_VERSION = 2

_LARGEST = 1 << 63
_LONGEST_BYTES = 1000
_LONGEST_QUEUE_BYTES = 255  # AMQP's own limit of a name; Kafka's is less


@dataclass(slots=True, kw_only=True)
class ProducerReport:
    """One producer process at one moment.

    Totals count messages: ``offered`` (what the schedule asked for), ``published`` (sent the first time),
    ``confirmed``, ``nacked`` (each nack, also of a message that is retried), ``rejected`` (given up), ``returned``,
    ``republished``. ``limiter_delay`` is how long the law held each message back before it was first sent.
    ``target_rate_per_s`` is its offered load, ``usable_rate_per_s`` the part of it that its own settings allow (a
    ceiling, a fixed rate). ``bottleneck_per_s`` is the law's estimate of the rate of all consumers together; None: it
    has none. ``signal_age_s`` is how old the law's view of the consumers was when it decided; None: it had none.
    ``signal_quality`` is how good that view was (`SignalQuality`); None: nobody was known to consume. ``unpaced_per_s``
    arrives from producers that nobody paces.
    ``tick_lateness`` is how much later than due each tick of the control loop began; ``tick_lateness_s`` the last one.
    ``interval_s`` is the time until its next report, 0: not known; ``producers`` how many it knows, itself included.
    ``knows_sums``: it need not hear all reports of a large fleet. A ``brief`` report lacks distributions and texts.
    """

    id: str
    session: int
    pid: int
    host: str
    at_ns: int
    queue: str
    offered: int
    published: int
    confirmed: int
    nacked: int
    rejected: int
    returned: int
    republished: int
    in_flight: int
    window: int
    target_rate_per_s: float
    pacing_rate_per_s: float
    weight: float
    application_limited: bool
    blocked: bool
    blocked_events: int
    strategy: str
    reason: str
    rss_bytes: int
    cpu_s: float
    usable_rate_per_s: float = inf
    bottleneck_per_s: float | None = None
    signal_age_s: float | None = None
    signal_quality: int | None = None
    unpaced_per_s: float | None = None
    tick_lateness_s: float | None = None
    confirm_latency: Histogram = field(default_factory=Histogram)
    limiter_delay: Histogram = field(default_factory=Histogram)
    tick_lateness: Histogram = field(default_factory=Histogram)
    api_url: str = ""
    interval_s: float = 0.0
    producers: int = 0
    knows_sums: bool = False
    brief: bool = False


@dataclass(slots=True, kw_only=True)
class ConsumerReport:
    """One consumer process at one moment.

    ``held`` counts messages delivered to it and not settled (its share of the queue's unacked). ``service_sum_s`` and
    ``service_sum_s2`` are Σs and Σs² over ``processed`` messages, so mean and variance over any window are differences.
    ``prefetch_auto``: it chooses its ``prefetch`` itself, just large enough to keep it busy. ``capacity_per_s`` is the
    rate it would reach with a full queue, where it is known (simulated work), else None. Both ``queue_wait`` and
    ``message_age`` end when the work starts; one begins when the message was sent, the other when it was meant to be.

    Other programs may leave out what has a default. A ``service_sum_s``, ``service_sum_s2``, ``rss_bytes`` or ``cpu_s``
    of 0 means that it is not known. ``interval_s`` is the time until its next report, 0: not known. In the last
    ``recent_s`` seconds ``recent`` messages departed, with work of ``recent_busy_s``; 0: it does not tell, and need not
    if it reports often. A ``brief`` report lacks distributions and texts.
    """

    id: str
    pid: int = 0
    host: str = ""
    at_ns: int
    queue: str
    delivered: int = 0
    processed: int
    failed: int = 0
    retried: int = 0
    dead_lettered: int = 0
    redelivered: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    held: int
    prefetch: int
    paused: bool = False
    capacity_per_s: float | None = None
    busy_s: float
    service_sum_s: float = 0.0
    service_sum_s2: float = 0.0
    rss_bytes: int = 0
    cpu_s: float = 0.0
    queue_wait: Histogram = field(default_factory=Histogram)
    message_age: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    prefetch_auto: bool = False
    api_url: str = ""
    interval_s: float = 0.0
    recent_s: float = 0.0
    recent: float = 0.0
    recent_busy_s: float = 0.0
    brief: bool = False


Report = ProducerReport | ConsumerReport

_ROLES: dict[str, type[ProducerReport | ConsumerReport]] = {
    "producer": ProducerReport,
    "consumer": ConsumerReport,
}
_FIELDS = {
    kind: [(spec.name, str(spec.type)) for spec in fields(kind) if spec.name != "brief"] for kind in _ROLES.values()
}
_LAYOUTS: dict[type[ProducerReport | ConsumerReport], Layout] = {ProducerReport: PRODUCER, ConsumerReport: CONSUMER}
_TAIL = {
    kind: [(name, told) for name, told in _FIELDS[kind] if name not in layout.names]
    for kind, layout in _LAYOUTS.items()
}
_NOTHING = Histogram()  # shared by all reports without distributions: nothing changes it
_WITHOUT_TAIL: dict[type[ProducerReport | ConsumerReport], dict[str, Any]] = {
    kind: {name: {"Histogram": _NOTHING, "str": ""}.get(told) for name, told in tail} for kind, tail in _TAIL.items()
}
_COMPACT = {bytes([COMPACT_VERSION]) + layout.role: kind for kind, layout in _LAYOUTS.items()}
_OPTIONAL = {
    kind: {spec.name for spec in fields(kind) if spec.default is not MISSING or spec.default_factory is not MISSING}
    for kind in _ROLES.values()
}
_CHECKS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "str": (str,),
    "bool": (bool,),
}


def encode(report: Report) -> bytes:
    """Return the JSON text of ``report``, UTF-8, about 1 kB."""
    role = "producer" if isinstance(report, ProducerReport) else "consumer"
    content = {name: _plain(getattr(report, name)) for name, _ in _FIELDS[type(report)]}
    return json.dumps({"v": FEEDBACK_VERSION, "role": role, **content}, separators=(",", ":")).encode()


def encode_compact(report: Report, *, brief: bool = False) -> bytes:
    """Return ``report`` as octets; a ``brief`` one has no distributions and texts, and at most 200 octets as a rule.

    A report with values that do not fit (a counter beyond 2³², a name of more than 255 octets) becomes JSON.
    """
    kind = type(report)
    tail = b""
    if not brief:
        content = {name: _plain(getattr(report, name)) for name, _ in _TAIL[kind]}
        tail = json.dumps(content, separators=(",", ":")).encode()
    data = pack(_LAYOUTS[kind], report, tail)
    return encode(report) if data is None else data


def completed(report: Report, before: Report | None) -> Report:
    """Return a brief ``report`` with the distributions and texts of the one ``before`` it of the same process."""
    if not report.brief or type(before) is not type(report):
        return report
    return replace(report, brief=False, **{name: getattr(before, name) for name, _ in _TAIL[type(report)]})


def sender_of(data: bytes) -> bytes:
    """Return the octets that all reports of one process begin with, without decoding the report.

    Role, id, pid and host come first, then the time. A report of another program may begin differently: each is then
    taken for a sender of its own. Brief reports are told from others, which they do not replace.
    """
    if data[:2] in _COMPACT:
        return sender_in(data) + bytes([data.endswith(b"}")])
    prefix = data.partition(b',"at_ns":')[0]
    return prefix if b'"id":' in prefix else data


def decode(data: bytes, *, histograms: bool = True) -> Report:
    """Return the report in ``data``; raises `FeedbackError` when it is not one that this version understands.

    Without ``histograms`` they stay empty, which is half the work: a producer that only paces does not need them.
    Those of a compact report, and its texts, are then not even looked at.
    """
    compact = _COMPACT.get(data[:2])
    if compact is not None:
        return _decode_compact(compact, data, whole=histograms)
    if data[:1] != b"{" and data[1:2] in {b"c", b"p"}:
        raise FeedbackError(f"a compact feedback report of version {data[0]}: this program reads {COMPACT_VERSION}")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FeedbackError(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise FeedbackError("not a feedback report: a JSON object is expected")
    _check_version(content.get("v"))
    kind = _ROLES.get(str(content.get("role")))
    if kind is None:
        raise FeedbackError("not a feedback report of a known role")
    return kind(**_checked(content, kind, _FIELDS[kind], histograms=histograms))


def _decode_compact(kind: type[ProducerReport | ConsumerReport], data: bytes, *, whole: bool) -> Report:
    try:
        content, end = unpack(_LAYOUTS[kind], data)
        rest = json.loads(data[end:]) if whole and len(data) > end else None
    except (ValueError, RecursionError) as error:
        raise FeedbackError(f"not a compact feedback report: {error}") from None
    values: dict[str, Any] = content
    values.update(_WITHOUT_TAIL[kind])
    values["brief"] = len(data) == end
    if rest is not None:
        if not isinstance(rest, dict):
            raise FeedbackError("not a compact feedback report: a JSON object is expected at its end")
        values.update(_checked(rest, kind, _TAIL[kind], histograms=True))
    return kind(**values)


def _checked(
    content: dict[str, Any], kind: type[Report], specs: list[tuple[str, str]], *, histograms: bool
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, annotation in specs:
        value = content.get(name)
        if value is None and name in _OPTIONAL[kind]:
            continue
        if annotation == "Histogram":
            if histograms:
                values[name] = _histogram(value)
        elif _fits(value, name, annotation):
            values[name] = value
        elif name != "api_url":
            raise FeedbackError(f"{name} is missing or not of type {annotation}")
    return values


def _check_version(version: object) -> None:
    if version == FEEDBACK_VERSION and not isinstance(version, bool):
        return
    if not isinstance(version, int) or isinstance(version, bool):
        raise FeedbackError("not a feedback report: v, its version, is missing or not a number")
    told = version if abs(version) < _LARGEST else "far out of range"
    raise FeedbackError(f"a feedback report of version {told}: this program reads version {FEEDBACK_VERSION}")


def _fits(value: object, name: str, annotation: str) -> bool:
    if (isinstance(value, bool) and annotation != "bool") or not isinstance(value, _CHECKS[annotation]):
        return False
    if isinstance(value, str):
        return _can_be_told(value, _LONGEST_QUEUE_BYTES if name == "queue" else _LONGEST_BYTES)
    # Listeners take differences of these: an infinite one, or NaN, would make all later differences useless.
    return not isinstance(value, (int, float)) or 0 <= value <= _LARGEST or (value == inf and name.endswith("_per_s"))


def _can_be_told(text: str, longest_bytes: int) -> bool:
    try:
        return len(text.encode()) <= longest_bytes
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can express it, UTF-8 cannot
        return False


def _plain(value: object) -> object:
    """Return a text within its limits, and a histogram as text: first bucket, sum, the counts from that bucket on.

    A histogram as text costs almost nothing where it is not decoded.
    """
    if isinstance(value, str):  # a user's own law may give a reason that no listener would accept
        return value.encode(errors="replace")[:_LONGEST_BYTES].decode(errors="ignore")
    if not isinstance(value, Histogram):
        return value
    first = min(value.counts, default=0)
    counts = (value.counts.get(bucket, 0) for bucket in range(first, max(value.counts, default=-1) + 1))
    return " ".join(map(str, (first, value.sum_s, *counts)))


def _histogram(value: Any) -> Histogram:
    try:
        bucket, total_s, *texts = value.split()
        first, sum_s, counts = int(bucket), float(total_s), list(map(int, texts))
    except (ValueError, AttributeError):
        raise FeedbackError("not a histogram") from None
    least, most = min(counts, default=0), max(counts, default=0)
    if not (0 <= first <= MAX_BUCKET + 1 - len(counts) and 0 <= least <= most <= _LARGEST):
        raise FeedbackError("not a histogram: a bucket or a count is out of range")
    if not 0 <= sum_s <= _LARGEST:
        raise FeedbackError("not a histogram: its sum is out of range")
    return Histogram({bucket: count for bucket, count in enumerate(counts, first) if count}, sum_s)


_LATELY_S = 1.0
_USUAL_MEMORY_S = 10.0
_CHANGED = 6.0
_LEAST_DISPERSION = 0.05
_FEW_SERVED = 5
_MOST_PAID = 0.5
EARLY_REPORTS = 2.0
"""How many intervals early a consumer may be with its reports."""
_SHORTEST_LATELY_S = 0.2
_UNUSUAL = 4.0
_LEAST_ERROR = 0.05
_SLACK = 4.0
_FULL_EVERY_S = 1.0


class Lately:
    """What a consumer did lately: if reports are rare, it says more than the average between two.

    That is the last second, or half the time between two reports, if that is shorter. When the consumer has become
    faster or slower, it is no more than what it did since.

    Formula: with n messages in B seconds of work before a moment of the last second, and e in b after it, one message
    less different from what was expected (a part of one, if the work at hand is known and regular), G = e·ln(e/b) +
    n·ln(n/B) − (e + n)·ln((e + n)/(b + B)) is the logarithm of the likelihood ratio of two rates and one; it has
    changed if G > 6φ, φ being the dispersion of service times. The moment is that of the largest G. The past is
    forgotten in 10 s of work.

    Attributes:
        changed: whether the last call of `added` found that it has become faster or slower.
    """

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int, float, float]] = deque()
        self._begun = _Begun()
        self._usual = 0.0, 0.0
        self._served: tuple[int, float, float] | None = None
        self._service = 0.0, 0.0, 0.0
        self.changed = False

    def added(self, report: ConsumerReport, interval_s: float = 0.0, working_s: float | None = None) -> ConsumerReport:
        """Return ``report`` with what was done lately; call it several times a second.

        ``interval_s`` is how often it reports, ``working_s`` how long it has been working on the message at hand;
        None: not known, so that only whole messages count.
        """
        span_s = min(_LATELY_S, max(_SHORTEST_LATELY_S, interval_s / 2)) if interval_s else _LATELY_S
        departed = report.processed + report.dead_lettered
        done = float(departed)
        if working_s is not None:
            done += self._begun.part(departed, report.busy_s - working_s, working_s)
        counts = self._counts
        counts.append((report.at_ns, departed, report.busy_s, done))
        while len(counts) > 1 and report.at_ns - counts[1][0] >= _LATELY_S * 1e9:
            self._usual = _with_past(self._usual, counts.popleft(), counts[0])
        self.changed = bool(interval_s) and self._has_changed(report, whole=working_s is None)
        at_ns, _, busy_s, before = next(
            (count for count in reversed(counts) if report.at_ns - count[0] >= 0.99e9 * span_s), counts[0]
        )
        report.recent_s = (report.at_ns - at_ns) / 1e9
        report.recent, report.recent_busy_s = max(0.0, done - before), max(0.0, report.busy_s - busy_s)
        return report

    def _has_changed(self, report: ConsumerReport, *, whole: bool) -> bool:
        """Find out whether it has become faster or slower within the last second; then forget what was before."""
        dispersion = self._dispersion(report)
        past, counts, slack = self._usual, self._counts, 1.0 if whole else min(1.0, _SLACK * dispersion)
        most, changed_at, (_, _, busy_s, done) = _CHANGED, 0, counts[-1]
        for number in range(len(counts) - 1):
            if number:
                past = _with_past(past, counts[number - 1], counts[number])
            score = _difference(*past, done - counts[number][3], busy_s - counts[number][2], slack) / dispersion
            if score > most:
                most, changed_at = score, number
        if most == _CHANGED:
            return False
        for _ in range(changed_at):
            counts.popleft()
        self._usual, self._service = (0.0, 0.0), (0.0, 0.0, 0.0)
        return True

    def _dispersion(self, report: ConsumerReport) -> float:
        """Return the squared coefficient of variation of service times since the last change; 1 if it is not known."""
        served = report.processed, report.service_sum_s, report.service_sum_s2
        before, self._served = self._served or served, served
        count, total_s, squares = (
            sum_ + new - old for sum_, new, old in zip(self._service, served, before, strict=True)
        )
        self._service = count, total_s, squares
        if count < _FEW_SERVED or total_s <= 0:
            return 1.0
        return max(_LEAST_DISPERSION, count * squares / total_s**2 - 1)


class _Begun:
    """How much of the message at hand is done, if it takes as long as one usually does; no more than all of it.

    Whole messages would say more about the phase of the work than about its pace where it takes as long as the time
    that is looked at, and all consumers of a fleet may be in step. What is usual is learnt from the last few messages;
    a time that is none of theirs begins it anew.
    """

    def __init__(self) -> None:
        self._departed = 0
        self._worked_s = 0.0
        self._usual_s = 0.0
        self._error_s = 0.0
        self._known = 0

    def part(self, departed: int, worked_s: float, working_s: float) -> float:
        """Return it; ``worked_s`` is the time spent on the ``departed`` messages, and ``working_s`` on the next one."""
        count = departed - self._departed
        if count > 0:
            mean_s = max(0.0, worked_s - self._worked_s) / count
            self._departed, self._worked_s = departed, worked_s
            error_s = abs(mean_s - self._usual_s)
            if self._known >= _FEW_SERVED and error_s > _UNUSUAL * max(self._error_s, _LEAST_ERROR * self._usual_s):
                self._known = 0
            self._known = min(_FEW_SERVED, self._known + count)
            part = min(1.0, count / self._known)
            self._usual_s += part * (mean_s - self._usual_s)
            self._error_s += part * ((error_s if part < 1 else 0.0) - self._error_s)
        return min(1.0, working_s / self._usual_s) if self._usual_s > 0 else 0.0


def _with_past(
    past: tuple[float, float], start: tuple[int, int, float, float], end: tuple[int, int, float, float]
) -> tuple[float, float]:
    """Return messages and seconds of work until ``end``, of which those until ``start`` are ``past``."""
    worked_s = max(0.0, end[2] - start[2])
    keep = exp(-worked_s / _USUAL_MEMORY_S)
    return past[0] * keep + max(0.0, end[3] - start[3]), past[1] * keep + worked_s


def _difference(usual: float, usual_s: float, recent: float, recent_s: float, slack: float) -> float:
    """Return how much more likely two rates are than one, as a logarithm; see `Lately`."""
    if usual <= 0 or usual_s <= 0 or recent_s <= 0:
        return 0.0
    expected = usual / usual_s * recent_s
    if abs(recent - expected) <= slack:
        return 0.0
    recent = max(0.0, recent + (slack if recent < expected else -slack))
    both_per_s = (recent + usual) / (recent_s + usual_s)
    lately = recent * log(recent / recent_s / both_per_s) if recent > 0 else 0.0
    return lately + usual * log(usual / usual_s / both_per_s)


class Early:
    """Lets a process of a fleet speak before its turn, and later less often, so that on average it speaks no more.

    What it is early by it owes, and the next intervals are up to half as long again until that is paid.
    """

    def __init__(self, most: float) -> None:
        """It may owe ``most`` intervals."""
        self._most = most
        self._owed = self._paid = 0.0

    def take(self, due_s: float, interval_s: float) -> bool:
        """Return whether it may be early now, when its turn is ``due_s`` away; then this is its turn."""
        owed = self._owed + max(0.0, due_s) / interval_s
        if owed > self._most:
            return False
        self._owed = owed
        return True

    def longest_s(self, interval_s: float) -> float:
        """Return how long this turn is, if turns are ``interval_s`` on average."""
        return (1 + self._paid) * interval_s

    def next_s(self, interval_s: float) -> float:
        """Return how long to wait until the next turn."""
        self._paid = min(_MOST_PAID, self._owed)
        self._owed -= self._paid
        return (1 + self._paid) * interval_s


class Fullness:
    """Which reports of a process are brief: distributions and texts are for people, who look once a second."""

    def __init__(self) -> None:
        self._full_at = -inf

    def brief(self, now: float, interval_s: float = 0.0) -> bool:
        """Return whether the report of ``now`` may be brief; in a fleet at most one of ten is full."""
        if now - self._full_at < max(_FULL_EVERY_S, 9.5 * interval_s):
            return True
        self._full_at = now
        return False


REPORT_HEADER = "report_ms"
"""The header of a message that tells consumers how often to report, in milliseconds; absent: as often as usual."""

MOST_DELIVERIES_PER_S = 2000
ASK_EVERY = 10
"""One report of so many asks how often to report, where nothing tells a consumer."""
_LONGEST_INTERVAL_MS = 600_000
_LATEST_REPORT = 1.5  # intervals
_SOONEST = 0.25
_EARLIEST = 0.9
_LATEST = 1.2
_TALKATIVE = 6
_SLOWEST = 3
_REPORTS_BEFORE_MISSED = 6


class DecisionWindow(NamedTuple):
    """When a producer decides next, seconds: from ``news_at`` on after news, from ``report_at`` on after a report."""

    news_at: float
    report_at: float
    latest_at: float


def decision_window(decided_at: float, tick_s: float, feedback_age_s: float) -> DecisionWindow:
    """Return from when on a consumer's report is reason to decide, and when to decide without one.

    A producer decides about once a tick, if possible right after a consumer's report, when its view is freshest.
    Reports and ticks have the same rate but unrelated phases, so the report that a law acts on would be half an
    interval old on average. A tick that waits a little for the next report falls in step with the reports of one
    consumer. With several consumers, waiting is never worse than not waiting. What does not wait for the tick's end is
    news: in a large fleet, that the consumers' rate is another one than was told.

    Args:
        decided_at: when the last decision was made, seconds.
        tick_s: how often to decide.
        feedback_age_s: how old the newest report was then; the producer does not wait for reports that have stopped.
    """
    latest = _LATEST if feedback_age_s < 2 * tick_s else 1.0
    return DecisionWindow(*(decided_at + part * tick_s for part in (_SOONEST, _EARLIEST, latest)))


def report_interval_s(consumers: int, producers: int, usual_s: float) -> float:
    """Return how often each process of a fleet reports if everybody hears everybody.

    Every producer, and a monitor, receives every report, and a consumer an answer to each tenth of its own. So with N
    processes, C of them consumers and P producers, an interval of T costs (N·(P + 1) + C/10)/T deliveries a second; T
    is the usual interval as long as these are at most 2 000. Producers hear all and so agree on T. They tell it to
    consumers, which hear nothing, in a header of their messages (`REPORT_HEADER`), or in answers
    (`backpressure.core.turns`). There is no coordinator: each producer says what it sees, and the latest word counts.
    In a large fleet few producers add up for all instead (`backpressure.core.sums`).
    """
    deliveries = (consumers + producers) * (producers + 1) + consumers / ASK_EVERY
    return max(usual_s, deliveries / MOST_DELIVERIES_PER_S)


def told_interval_s(value: object) -> float | None:
    """Return the interval in a message's `REPORT_HEADER`, in seconds; None if it tells none that can be meant."""
    return value / 1000 if type(value) is int and 0 < value <= _LONGEST_INTERVAL_MS else None


def uneven_s(interval_s: float, chance: float, *, first: bool) -> float:
    """Return when a process of a fleet reports next, in seconds; ``chance`` is from [0, 1).

    Not all must report at once, and those that began together must not be silent together after the first report.
    """
    return interval_s * (chance + (0.0 if first else _LATEST_REPORT - 1))


def sooner_s(due_s: float, interval_s: float, chance: float) -> float:
    """Return in how many seconds to report that was to follow in ``due_s``, now that the interval is ``interval_s``.

    If it has become much shorter, the next report of each process comes between now and an interval from now.
    """
    return due_s if due_s <= _LATEST_REPORT * interval_s else uneven_s(interval_s, chance, first=True)


def ticks_per_report(producers: int, tick_s: float, timeout_s: float) -> int:
    """Return how many ticks a producer lets pass between two reports of its own.

    Every producer receives the reports of every other, so their number grows with the square of the producers, and with
    a dozen they cost more than the messages. Between two reports of a producer its pace is a good estimate of what it
    sends (`SignalBoard`), so it may report less often. Nothing can replace the reports of consumers, so these become
    rarer only in a fleet (`report_interval_s`).

    Args:
        producers: how many there are, this one included.
        tick_s: how often it decides.
        timeout_s: after which a silent process is taken for gone; a quarter of it without a report is suspicious.
    """
    most = max(1, int(timeout_s / _REPORTS_BEFORE_MISSED / tick_s))
    return min(most, _SLOWEST, -(-producers // _TALKATIVE))
