"""The verdict of a run in one sentence: what decided it, made from the figures of its summary alone.

A failed run names the expectations that did not hold, the most serious first, each with its phase and the cause that
the figures show. A passed run says how well, and which limit it came closest to. Work that was thrown away is always
named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from backpressure.experiments.summary import Held, PhaseSummary, Summary
from backpressure.presentation.numbers import figure
from backpressure.presentation.terms import figure_of, leaf_of, metric_name, quantity

_MOST_CLAUSES = 3
_SERIOUS = ("lost", "reached", "wait_ms", "end_to_end_ms", "utilisation", "settle_s")
_THROWN_AWAY = ("discarded", "rejected", "dropped", "returned")
_NEVER_SLOWED = 0.95  # of what was offered left the producers
_KEPT = 1.05  # of the capacity, at most, was let through
_NEAR = 0.97


def sentence(summary: Summary, reason: str = "") -> str:
    """Return what decided the verdict of ``summary``; ``reason``: why the run ended early, if it did."""
    if summary.verdict == "passed":
        return f"passed: {'; '.join(_praise(summary))}"
    if summary.verdict == "failed":
        return f"failed: {'; '.join(_blame(summary))}"
    phase = f" in phase {summary.phases[-1].name}" if summary.phases else ""
    told = reason.strip().splitlines()[0].removesuffix("; its last output:").rstrip(".:") if reason.strip() else ""
    until = f"{summary.verdict} after {quantity('duration_s', summary.duration_s)}{phase}"
    failing = [check for check in summary.expectations if not check.held and check.value is not None]
    parts = [f"{until}: {told}" if told else until, *(_missed(failing[0], summary) if failing else ())]
    return "; ".join([*parts, *_thrown_away(summary)])


# --- a failed run -----------------------------------------------------------------------------------------------------


def _blame(summary: Summary) -> Iterator[str]:
    """Yield a clause for each of the most serious expectations that did not hold, and one for work thrown away."""
    missed = [check for check in summary.expectations if not check.held]
    missed.sort(key=_rank)
    discarding = [check for check in missed if leaf_of(check.metric) in _THROWN_AWAY]
    others = [check for check in missed if check not in discarding]
    explained: list[str] = []
    for check in others[:_MOST_CLAUSES]:
        explained += [clause for clause in _missed(check, summary) if clause not in explained]
    yield from explained
    if rest := len(others[_MOST_CLAUSES:]):
        yield f"{rest} more expectation{'s' if rest > 1 else ''} did not hold"
    if discarding and not any(_counts(summary)):
        yield from _missed(discarding[0], summary)  # fewer than expected, or not known
    yield from (clause + _refusing(summary, explained) for clause in _thrown_away(summary))


def _rank(check: Held) -> int:
    parts = set(check.metric.split("."))
    return next((rank for rank, name in enumerate(_SERIOUS) if name in parts), len(_SERIOUS))


def _missed(check: Held, summary: Summary) -> Iterator[str]:
    """Yield why one expectation did not hold: figure and limit, where, and the cause."""
    phase = _phase_of(check, summary)
    leaf, value = leaf_of(check.metric), check.value
    where = f" in phase {phase.name}" if phase else ""
    if leaf == "reached":
        yield f"{_unreached(phase) if phase else check.metric}"
    elif leaf == "settle_s" and value is None and phase is not None and phase.utilisation is not None:
        yield f"phase {phase.name} never settled{_because(phase, summary)}"
    elif value is None:
        yield f"{metric_name(check.metric)}{where} was not measured ({_demand(check)} was expected)"
    elif leaf == "lost" and value > 0:
        count, whole = figure(value, group=" "), figure(summary.totals.published, group=" ")
        yield f"{count} of {whole} messages were lost{_when_lost(summary, phase)}"
    elif figure_of(check.metric) == "wait_ms":
        yield f"{_against(check)}{_everywhere(check, phase, summary)}"
    elif leaf == "utilisation":
        worst = phase or min(
            (other for other in summary.phases if other.utilisation is not None),
            key=lambda other: other.utilisation or 0.0,
            default=None,
        )
        where = f" in phase {worst.name}" if worst else ""
        yield f"{_against(check)}{where}{_unused(worst) if worst else ''}"
    elif figure_of(check.metric) == "depth" or leaf == "depth_max":
        deepest = phase or max(summary.phases, key=lambda other: other.depth_max or 0, default=None)
        yield _against(check) + (f" in phase {deepest.name}{_because(deepest, summary)}" if deepest else "")
    else:
        yield f"{_against(check)}{where}"


def _everywhere(check: Held, phase: PhaseSummary | None, summary: Summary) -> str:
    """Return where a wait was too long, and why it became so."""
    if phase is not None:
        return f" in phase {phase.name}{_because(phase, summary)}"
    over = [other for other in summary.phases if _is_over(check, other)]
    if not over:
        return ""
    names = _listed(other.name for other in over)
    where = f"all of it in phase {names}" if len(over) == 1 else f"in phases {names}, first in {over[0].name}"
    return f", {where}{_because(over[0], summary)}"


def _is_over(check: Held, phase: PhaseSummary) -> bool:
    value = getattr(phase.wait_ms, leaf_of(check.metric), None)
    limit = check.limit[1] if isinstance(check.limit, tuple) else check.limit
    return value is not None and value > limit


def _because(phase: PhaseSummary, summary: Summary) -> str:
    """Return the cause of a long queue in ``phase`` that the figures show; "" if they show none."""
    cause = "; ".join(_causes(phase, summary))
    fault = f", under the fault {phase.fault}" if phase.fault else ""
    return f": {cause}{fault}" if cause else fault


def _causes(phase: PhaseSummary, summary: Summary) -> Iterator[str]:
    capacity, offered = phase.capacity, phase.offered_rate
    if capacity is None or offered is None:
        return
    if capacity == 0:
        yield f"no consumer was at work, and {_left(phase)} of {_rate(offered)} msg/s offered left the producers"
    elif offered <= capacity:
        before = phase.depth_start or 0
        earlier = [other.name for other in summary.phases if other.end_s <= phase.start_s + 1e-3]
        if earlier and before > capacity * 0.1:
            yield f"it began with {figure(before, group=' ')} messages that phase {earlier[-1]} had left waiting"
        else:
            yield f"the consumers could do {_rate(capacity)} msg/s and no more than {_rate(offered)} were offered"
    else:
        sent = _sent_per_s(phase)
        law = f"the law {phase.strategy}"
        could = f"the consumers could do {_rate(capacity)} msg/s of {_rate(offered)} offered"
        if sent >= _NEVER_SLOWED * offered:
            yield f"{could} and {law} never slowed"
        elif sent > _KEPT * capacity:
            yield f"{could} and {law} let {_rate(sent)} through"
        else:
            waiting = f"up to {figure(phase.depth_max, group=' ')} messages" if phase.depth_max else "messages"
            yield f"{could}, {law} let {_rate(sent)} through, and {waiting} waited"


def _when_lost(summary: Summary, phase: PhaseSummary | None) -> str:
    """Return in which phases lost messages were last seen, and the faults from then on; "" if there is nothing to say.

    A message may be lost long after it was last seen: of several faults from then on, none can be singled out.
    """
    known = all(other.lost is not None for other in summary.phases)
    seen_in = [phase] if phase is not None else [other for other in summary.phases if known and other.lost]
    names = _listed(other.name for other in seen_in) if seen_in else ""
    seen = f", last seen in phase{'s' if len(seen_in) > 1 else ''} {names}" if names else ""
    since_s = min((other.start_s for other in seen_in), default=0.0)
    faulty = [other for other in summary.phases if other.fault]
    possible = [other for other in faulty if other.start_s >= since_s]
    if not possible:
        return f"{seen}, after the last fault" if faulty else seen
    faults = [f"{other.fault} in phase {other.name}" for other in possible]
    if len(faults) > 1:
        return f"{seen}; which of the faults {_listed(faults)} lost them cannot be told"
    if seen_in == possible:
        return f"{seen}, under the fault {possible[0].fault}"
    return f"{seen}; the only fault {'since then' if seen else 'of the run'} is {faults[0]}"


def _unused(phase: PhaseSummary) -> str:
    """Return why capacity was left unused."""
    if phase.capacity is None:
        return ""
    fault = f", under the fault {phase.fault}" if phase.fault else ""
    sent = _sent_per_s(phase)
    if sent < _NEAR * phase.capacity:
        law = f"the law {phase.strategy} let only {_rate(sent)} msg/s through"
        return f": {law} where the consumers could do {_rate(phase.capacity)}{fault}"
    did = figure(phase.process_rate, group=" ")
    done = f"the consumers did {did} of the {_rate(phase.capacity)} msg/s they should manage"
    return f": {done}{fault}"


def _unreached(phase: PhaseSummary) -> str:
    lasted = quantity("duration_s", phase.end_s - phase.start_s)
    fault = f", under the fault {phase.fault}" if phase.fault else ""
    return f"phase {phase.name} did not reach its end within {lasted}{fault}"


def _refusing(summary: Summary, explained: Sequence[str]) -> str:
    """Return the phase in which most messages were refused, and why, unless that has been said."""
    phase = max(summary.phases, key=lambda other: other.refused or 0, default=None)
    if phase is None or not phase.refused or not summary.totals.refused:
        return ""
    cause = _because(phase, summary)
    how = "all" if phase.refused == summary.totals.refused else "most"
    return "" if any(cause in clause for clause in explained) else f", {how} of them in phase {phase.name}{cause}"


# --- a passed run -----------------------------------------------------------------------------------------------------


def _praise(summary: Summary) -> Iterator[str]:
    wait = summary.wait_ms
    if wait.p99 is not None:
        longest, whole = quantity("wait_ms", wait.max), figure(wait.count, group=" ")
        yield f"p99 wait {quantity('wait_ms', wait.p99)}, longest {longest}, over {whole} messages"
    if summary.utilisation is not None:
        yield f"{quantity('utilisation', summary.utilisation)} of the capacity used while more was offered"
    yield _kept(summary)
    if closest := _closest(summary.expectations):
        yield f"closest to its limit: {_against(closest, closest_to=True)}"


def _kept(summary: Summary) -> str:
    """Return that nothing was lost or thrown away, as far as that is so."""
    totals = summary.totals
    away = [*_thrown_away(summary)]
    lost = {None: "whether messages were lost is not known", 0: "nothing lost"}
    first = lost.get(totals.lost, f"{figure(totals.lost, group=' ')} lost")
    if away:
        return f"{first}, but {away[0]}"
    if totals.discarded is None:
        return first
    again = f", {_times(totals.refused)} refused and sent again" if totals.refused else ""
    return f"{first} or discarded{again}" if totals.lost == 0 else f"{first}, nothing discarded{again}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{figure(count, group=' ')} times"


def _closest(checks: Sequence[Held]) -> Held | None:
    """Return the held expectation with the least room left, of those with a limit other than 0."""
    rooms = [(room, check) for check in checks if check.held and (room := _room(check)) is not None]
    return min(rooms, key=lambda pair: pair[0])[1] if rooms else None


def _room(check: Held) -> float | None:
    """Return the share of the limit that was left: 0 is at the limit."""
    if isinstance(check.limit, tuple) or not check.limit or check.value is None or leaf_of(check.metric) == "reached":
        return None
    if check.op in {"<=", "<"}:
        return 1 - check.value / check.limit
    return check.value / check.limit - 1 if check.op in {">=", ">"} else None


# --- words ------------------------------------------------------------------------------------------------------------


def _thrown_away(summary: Summary) -> Iterator[str]:
    """Yield how many messages were thrown away, and how; nothing when none was, or it is not known."""
    rejected, dropped, returned = _counts(summary)
    whole = figure(summary.totals.published, group=" ")
    counts = (
        (rejected, "refused and discarded"),
        (dropped, "dropped by the queue's bound or a time-to-live"),
        (returned, "returned because no queue was bound"),
    )
    told = [(figure(count, group=" "), how) for count, how in counts if count]
    if told:
        (number, how), *others = told
        yield ", ".join([f"{number} of {whole} messages were {how}", *(f"{count} {way}" for count, way in others)])


def _counts(summary: Summary) -> tuple[int, int, int]:
    """Return the messages given up after a refusal, dropped and returned."""
    totals = summary.totals
    dropped, returned = totals.dropped or 0, totals.returned or 0
    given_up = (totals.rejected or 0) if totals.discarded is None else totals.discarded - dropped - returned
    return given_up, dropped, returned


def _against(check: Held, *, closest_to: bool = False) -> str:
    """Return a figure and the limit it missed, or kept."""
    value = quantity(check.metric, check.value)
    if check.uncertainty is not None:
        value += f" ± {quantity(check.metric, check.uncertainty)} (clocks)"
    name = metric_name(check.metric)
    if isinstance(check.limit, tuple):
        low, high = (quantity(check.metric, limit) for limit in check.limit)
        return f"{name} {value}, expected between {low} and {high}"
    limit = quantity(check.metric, check.limit)
    missed = {"<=": ">", "<": "≥", ">=": "<", ">": "≤"}
    if closest_to:
        phase = f" in phase {check.metric.split('.')[1]}" if check.metric.startswith("phases.") else ""
        return f"{name}{phase} {value} ({check.op.replace('<=', '≤').replace('>=', '≥')} {limit})"
    if check.op in missed:
        return f"{name} {value} {missed[check.op]} {limit}"
    return f"{name} {value}, expected {'' if check.op == '==' else 'anything but '}{limit}"


def _demand(check: Held) -> str:
    if isinstance(check.limit, tuple):
        return f"between {check.limit[0]:g} and {check.limit[1]:g}"
    return f"{check.op} {check.limit:g}"


def _phase_of(check: Held, summary: Summary) -> PhaseSummary | None:
    parts = check.metric.split(".")
    wanted = parts[1] if parts[0] == "phases" else None
    return next((phase for phase in summary.phases if phase.name == wanted), None)


def _sent_per_s(phase: PhaseSummary) -> float:
    """Return what left the producers, refused messages included."""
    span_s = phase.end_s - phase.start_s
    return (phase.publish_rate or 0.0) + ((phase.refused or 0) / span_s if span_s > 0 else 0.0)


def _left(phase: PhaseSummary) -> str:
    return _rate(_sent_per_s(phase))


def _rate(per_s: float) -> str:
    return figure(per_s, group=" ")


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
