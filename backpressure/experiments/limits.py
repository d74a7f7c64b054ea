"""The limit of a scenario: the most load, fewest consumers or smallest prefetch with which all expectations hold.

A `Variation` makes the scenario for a value; `find_limit` lets a search choose the values and runs them, in virtual
time or with real processes. Nothing here knows which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, sqrt
from typing import Any, Literal

from backpressure.errors import ConfigError
from backpressure.experiments.document import merge
from backpressure.experiments.scenario import Scenario, build
from backpressure.experiments.summary import Summary, SummaryModel

Vary = Literal["rate", "consumers", "prefetch"]
LimitVerdict = Literal["found", "always", "never", "confirmed", "interrupted"]
_DEMAND = re.compile(r"\s*([\w.-]+?)\s*((?:[<>=!]|between\s).*?)\s*")
_HARDEST_RATE = 1_000_000.0
_KEYS: Mapping[Vary, str] = {"rate": "producer.rate", "consumers": "consumer.count", "prefetch": "consumer.prefetch"}
_NOUNS: Mapping[Vary, tuple[str, str]] = {
    "rate": ("highest offered load", "msg/s"),
    "consumers": ("fewest consumers", ""),
    "prefetch": ("smallest prefetch", ""),
}
Play = Callable[[Scenario], Summary]


@dataclass(slots=True)
class Search:
    """Finds the hardest value at which something holds: bracketing, halving the gap, then confirmation.

    A search between ``easiest`` and ``hardest``, beginning at ``start``.

    Attributes:
        start, easiest, hardest: values above 0; the easiest may be the smallest or the largest.
        precision: the gap at which the search ends, as a share.
        whole: only whole numbers are tried; then the gap is 1.
        confirmations: how many runs must hold at the value that is found.
        step: how much harder or easier the next value is while one side is unknown, as a factor.
        most: how many runs there may be in all; None: as many as it takes.
        held: the hardest value at which every run held so far; None: none yet.
        failed: the easiest value beyond ``held`` at which a run failed; None: none yet.
        outcomes: value → how often it held, how often it was tried.
    """

    start: float
    easiest: float
    hardest: float
    precision: float = 0.02
    whole: bool = False
    confirmations: int = 5
    step: float = 2.0
    most: int | None = None
    held: float | None = None
    failed: float | None = None
    outcomes: dict[float, tuple[int, int]] = field(default_factory=dict)

    def next(self) -> float | None:
        """Return the value to try next; None: it is found, or holds always or never, or there were enough runs."""
        if self.most is not None and sum(tried for _, tried in self.outcomes.values()) >= self.most:
            return None
        held, failed = self.held, self.failed
        if held is None:
            if failed is None:
                return self._rounded(self.start)
            return None if self._is_at(failed, self.easiest) else self._towards(failed, self.easiest)
        if failed is None and not self._is_at(held, self.hardest):
            return self._towards(held, self.hardest)
        if failed is not None and not self._is_close(held, failed):
            return self._between(held, failed)
        return held if self.outcomes[held][1] < self.confirmations else None

    def tell(self, value: float, *, held: bool) -> None:
        """Say how a run at ``value`` ended."""
        holding, tried = self.outcomes.get(value, (0, 0))
        self.outcomes[value] = (holding + held, tried + 1)
        if not held:
            self.failed = value
            if self.held is not None and not self._is_easier(self.held, value):
                # A confirmation failed, so what held there was luck: go on from the next value where all runs held.
                all_held = [
                    v for v, (good, runs) in self.outcomes.items() if good == runs and self._is_easier(v, value)
                ]
                self.held = max(all_held, key=self._hardness, default=None)
        elif holding == tried:
            self.held = value

    def _hardness(self, value: float) -> float:
        return value if self.hardest > self.easiest else -value

    def _is_easier(self, one: float, other: float) -> bool:
        return self._hardness(one) < self._hardness(other)

    def _is_at(self, value: float, bound: float) -> bool:
        return not (self._is_easier(value, bound) if bound == self.hardest else self._is_easier(bound, value))

    def _is_close(self, held: float, failed: float) -> bool:
        low, high = sorted((held, failed))
        return high - low <= 1 if self.whole else high / low <= 1 + self.precision

    def _towards(self, value: float, bound: float) -> float:
        """Return a value a step harder or easier, not beyond the bound."""
        moved = min(value * self.step, bound) if bound > value else max(value / self.step, bound)
        return bound if moved == bound else self._rounded(moved, up=bound > value)

    def _between(self, held: float, failed: float) -> float:
        middle = sqrt(held * failed)
        if self.whole:
            low, high = sorted((held, failed))
            return float(min(max(round(middle), low + 1), high - 1))
        return self._rounded(middle)

    def _rounded(self, value: float, *, up: bool = False) -> float:
        if self.whole:
            return float(ceil(value) if up else max(1, floor(value)))
        return float(f"{value:.4g}")


def failing_share_below(runs: int, confidence: float = 0.95) -> float:
    """Return the share of runs that fail at most, with this confidence, when all of ``runs`` runs held."""
    return float(1 - (1 - confidence) ** (1 / runs)) if runs else 1.0


def parse_demand(text: str) -> tuple[str, str]:
    """Return metric and limit of an expectation such as "wait_ms.p99 <= 200"; raises `ConfigError`."""
    match = _DEMAND.fullmatch(text)
    if match is None:
        raise ConfigError("--expect", text, "expected a figure and its limit, for example 'wait_ms.p99 <= 200'")
    return match[1], match[2]


@dataclass(frozen=True, slots=True)
class Variation:
    """What is varied in a scenario."""

    plan: Scenario
    vary: Vary
    source: str

    @classmethod
    def of(cls, plan: Scenario, vary: Vary, demands: Sequence[tuple[str, str]], source: str) -> Variation:
        """Return the variation of ``plan`` in which only ``demands`` are expected, and that no message is lost.

        None given: what the scenario expects. Of messages that programs of others handle it may not be known whether
        they are lost: then it is not expected.
        """
        stranger = "producer" if vary == "rate" else "consumer" if vary == "prefetch" else None
        if stranger in plan.strange:
            raise ConfigError(
                "--vary", vary, f"the {stranger} is not ours, so its {vary} cannot be varied: vary another"
            )
        if vary == "rate":
            _refuse_fixed_rates(plan)
        document: dict[str, Any] = dict(plan.document)
        if demands:
            known = not plan.strange or plan.ledger is not None
            document["expect"] = ({"lost": "== 0"} if known else {}) | dict(demands)
        return cls(build(document, source), vary, source)

    @property
    def start(self) -> float:
        """The value that the scenario has: the largest of its phases."""
        if self.vary == "rate":
            return max(_offered(phase.settings) for phase in self.plan.phases)
        settings = [phase.settings.consumer for phase in self.plan.phases]
        if self.vary == "consumers":
            return float(max(1, *(consumer.count for consumer in settings)))
        return float(max(consumer.prefetch if consumer.prefetch != "auto" else 8 for consumer in settings) or 8)

    def search(self, low: float | None, high: float | None, precision: float, confirmations: int) -> Search:
        """Return the search between ``low`` and ``high``; raises `ConfigError`."""
        whole = self.vary != "rate"
        lowest = low if low is not None else 1.0 if whole else max(0.1, self.start / 1024)
        usual = 64.0 if self.vary == "consumers" else 4096.0 if whole else min(_HARDEST_RATE, self.start * 64)
        highest = high if high is not None else usual
        if not 0 < lowest < highest:
            raise ConfigError("--from", lowest, f"expected a number above 0 and below --to, which is {highest:g}")
        easiest, hardest = (highest, lowest) if whole else (lowest, highest)
        start = min(max(self.start, lowest), highest)
        return Search(start, easiest, hardest, precision=precision, whole=whole, confirmations=confirmations)

    def at(self, value: float, number: int) -> Scenario:
        """Return the scenario at ``value``; run ``number`` has the seed of the scenario plus ``number``."""
        key = _KEYS[self.vary]
        changes: list[tuple[str, Any]] = [("seed", self.plan.seed + number)]
        if self.vary == "rate":
            factor = value / self.start
            changes.append((key, self.plan.settings.producer.rate * factor))
            changes += [
                (f"phase.{phase.name}.{key}", phase.settings.producer.rate * factor)
                for phase in self.plan.phases
                if key in phase.changes
            ]
        else:
            if self.vary == "prefetch" or self.plan.settings.consumer.count:
                changes.append((key, int(value)))
            changes += [
                (f"phase.{phase.name}.{key}", int(value))
                for phase in self.plan.phases
                if phase.changes.get(key)  # a phase that stops all consumers goes on to do so
            ]
        return build(merge(self.plan.document, changes, self.source), self.source)

    def settings_at(self, value: float) -> list[str]:
        """Return what to pass to ``--set`` for the scenario at ``value``."""
        plan, key = self.at(value, 0), _KEYS[self.vary]
        section, _, name = key.partition(".")
        changed = [(f"phase.{phase.name}.", phase.settings) for phase in plan.phases[1:] if key in phase.changes]
        given = [("", plan.settings), *changed]
        return [f"{prefix}{key}={getattr(getattr(settings, section), name):g}" for prefix, settings in given]


def _refuse_fixed_rates(plan: Scenario) -> None:
    """Refuse a load that does not follow ``producer.rate``: every value would run the same one. Others are shares."""
    for phase in plan.phases:
        producer = phase.settings.producer
        fixed = "producer.profile" if producer.profile.startswith("table") else "producer.recorded_at"
        if fixed == "producer.profile" or producer.recorded_at:
            raise ConfigError(
                "--vary", "rate", f"{fixed} fixes the load of phase {phase.name}: vary consumers, or use bursts or day"
            )


def _offered(settings: Any) -> float:
    return float(settings.producer.rate * settings.producer.count)


class Trial(SummaryModel):
    """One value: how many runs held of those that were made, and the sentence of the last that failed, or else held."""

    value: float
    held: int
    runs: int
    sentence: str
    wait_p99_ms: float | None
    utilisation: float | None


class Limit(SummaryModel):
    """All of ``limit.json``.

    Attributes:
        vary: "rate" (messages offered a second by all producers, in the phase with most), "consumers" or "prefetch".
        where: "simulation", or the broker.
        expectations: what had to hold.
        verdict: "found"; "always" and "never": up to the hardest, or down to the easiest value; "confirmed": the limit
            of another search holds here; "interrupted".
        held: the hardest value at which every run held; None: none did.
        failed: the next value that was tried and failed; None: none did.
        confirmed_by: how many runs held at ``held``.
        failing_share_below: with 95 % confidence fewer runs than this share fail at ``held``.
        settings: what to pass to ``--set`` for ``held``.
        trials: every value that was tried, in order of the values.
    """

    scenario: str
    strategy: str
    where: str
    vary: Vary
    expectations: list[str]
    verdict: LimitVerdict
    held: float | None
    failed: float | None
    confirmed_by: int
    failing_share_below: float
    settings: list[str]
    trials: list[Trial]


def find_limit(
    variation: Variation,
    search: Search,
    play: Play,
    *,
    trying: Callable[[float, int], None],
    tried: Callable[[Trial], None],
    stopping: type[BaseException] | tuple[type[BaseException], ...] = KeyboardInterrupt,
    confirming: bool = False,
) -> tuple[Limit, BaseException | None]:
    """Return the limit, and the exception that ended the search early, if one of ``stopping`` did.

    Args:
        variation: what is varied.
        search: chooses the values; it may have been told of some.
        play: runs a scenario and returns its summary.
        trying: called before each run with the value and the number of the run at that value.
        tried: called after each run.
        stopping: what ends the search with what is known so far.
        confirming: the hardest value is the limit of another search.
    """
    trials: dict[float, Trial] = {}
    where, failure = "", None
    try:
        while (value := search.next()) is not None:
            number = search.outcomes.get(value, (0, 0))[1]
            trying(value, number)
            run = play(variation.at(value, number))
            where = f"{run.broker} {run.broker_version}".rstrip()
            held = run.verdict == "passed"
            search.tell(value, held=held)
            trials[value] = _trial(trials.get(value), value, run, held=held)
            tried(trials[value])
    except stopping as error:
        failure = error
    found = _ended(search, confirming=confirming, interrupted=failure is not None)
    held_at, confirmed = search.held, search.outcomes.get(search.held or 0.0, (0, 0))[1]
    plan = variation.plan
    limit = Limit(
        scenario=plan.name,
        strategy=plan.settings.producer.strategy,
        where=where,
        vary=variation.vary,
        expectations=[_demand(expectation) for expectation in plan.expectations],
        verdict=found,
        held=held_at,
        failed=search.failed,
        confirmed_by=confirmed,
        failing_share_below=round(failing_share_below(confirmed), 3),
        settings=variation.settings_at(held_at) if held_at is not None else [],
        trials=[trials[value] for value in sorted(trials)],
    )
    return limit, failure


def _ended(search: Search, *, confirming: bool, interrupted: bool) -> LimitVerdict:
    if interrupted:
        return "interrupted"
    if search.held is None:
        return "never"
    if search.failed is None:
        return "confirmed" if confirming else "always"
    return "found"


def _demand(expectation: Any) -> str:
    if isinstance(expectation.limit, tuple):
        return f"{expectation.metric} between {expectation.limit[0]:g} and {expectation.limit[1]:g}"
    return f"{expectation.metric} {expectation.op} {expectation.limit:g}"


def _trial(before: Trial | None, value: float, run: Summary, *, held: bool) -> Trial:
    keep = before is not None and held and before.held < before.runs
    return Trial(
        value=value,
        held=(before.held if before else 0) + held,
        runs=(before.runs if before else 0) + 1,
        sentence=before.sentence if before and keep else run.sentence,
        wait_p99_ms=before.wait_p99_ms if before and keep else run.wait_ms.p99,
        utilisation=before.utilisation if before and keep else run.utilisation,
    )


def value_text(value: float) -> str:
    """Return a value that was tried, with four digits."""
    text = f"{value:,.1f}".removesuffix(".0") if value >= 100 else f"{value:.4g}"
    return text.replace(",", " ")


def sentence_of(limit: Limit) -> str:
    """Return the result in one sentence."""
    noun, unit = _NOUNS[limit.vary]
    demands = ", ".join(limit.expectations)

    def at(value: float) -> str:
        return f"{value_text(value)} {unit}".rstrip()

    if limit.verdict == "always" and limit.held is not None:
        runs = f"in {limit.confirmed_by} of {limit.confirmed_by} runs"
        if limit.vary != "rate":
            return f"every expectation holds even with {limit.vary} {at(limit.held)}, {runs}"
        told = f"no limit found up to {at(limit.held)}: every expectation holds there too, {runs}"
        slows = (
            "a law that slows the producers keeps the queue short at any load; end_to_end_ms counts what it holds back"
        )
        return told if any("end_to_end" in demand for demand in limit.expectations) else f"{told} ({slows})"
    failing = next((trial for trial in limit.trials if trial.value == limit.failed), None)
    why = failing.sentence.partition(": ")[2] if failing else ""
    if limit.verdict == "never" and limit.failed is not None:
        return f"no {noun} found: not even {limit.vary} {at(limit.failed)} holds ({demands}): {why}"
    if limit.held is None:
        return "interrupted before any value held"
    gap = f"; {at(limit.failed)} failed: {why}" if limit.failed is not None else ""
    if limit.verdict == "confirmed":
        return f"confirmed: {at(limit.held)} held in {limit.confirmed_by} of {limit.confirmed_by} runs"
    share = f"fewer than {100 * limit.failing_share_below:.0f} % of runs fail there"
    so_far = "so far, " if limit.verdict == "interrupted" else ""
    runs = f"held in {limit.confirmed_by} of {limit.confirmed_by} runs ({share}, with 95 % confidence)"
    return f"{so_far}{noun}: {at(limit.held)}, {runs}{gap}"
