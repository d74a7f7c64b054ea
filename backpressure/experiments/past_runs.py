"""The runs of a folder in order of time: what each was, how it compares with those before it, and what broke them.

A run is held against the runs before it of the same scenario, law and broker that passed: a broken run is no measure
of what is usual. Where one became worse than these beyond noise, or failed after one that passed, what else changed
with it is named: settings, commit, versions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backpressure.errors import ConfigError
from backpressure.experiments.document import dotted, parse
from backpressure.experiments.regression import Difference, differences, told
from backpressure.experiments.summary import Summary

_SUMMARY = "summary.json"
_MOST_BEFORE = 5
_FINISHED = {"passed", "failed"}
_NOT_SETTINGS = {"name", "summary"}
_SEED = "seed"


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run: its figures, and what they may depend on, by name (versions, commit, settings)."""

    folder: Path
    summary: Summary
    circumstances: Mapping[str, str]

    @property
    def time(self) -> str:
        """When it began, as people read it; of a simulation, when it was made."""
        if self.summary.started_at:
            return self.summary.started_at.replace("T", " ")[:19]
        date, _, rest = self.folder.name.partition("-")
        clock = rest.partition("-")[0]
        if not (date + clock).isdigit():
            return ""
        return f"{date[:4]}-{date[4:6]}-{date[6:]} {clock[:2]}:{clock[2:4]}:{clock[4:]}"


@dataclass(frozen=True, slots=True)
class Judged:
    """A run against those before it.

    Attributes:
        run: the run itself.
        compared: its figures against the medians of the passed runs before; empty where there is none.
        usual: how many passed runs these were.
        broke: it became worse beyond noise, or failed after one that passed.
        changed: name → before and after, of what changed since the last run that passed.
    """

    run: PastRun
    compared: Sequence[Difference] = ()
    usual: int = 0
    broke: bool = False
    changed: Mapping[str, tuple[str, str]] | None = None

    @property
    def reason(self) -> str:
        """What became worse, and what changed with it; "" if nothing did."""
        if not self.broke:
            return ""
        worse = [told(difference, of="the usual") for difference in self.compared if difference.direction == "worse"]
        what = "; ".join(worse[:2]) or self.run.summary.sentence
        more = f"; {len(worse) - 2} more figures are worse" if len(worse) > 2 else ""
        of = f" (median of {self.usual} passed runs)" if worse and self.usual > 1 else ""
        return f"{what}{more}{of}; {self._changes}"

    @property
    def _changes(self) -> str:
        """What changed with it; a seed that differs, as it does in repeats, only where nothing else does."""
        changed = dict(self.changed or {})
        seed = changed.pop(_SEED, None)
        if changed:
            return "what changed: " + ", ".join(
                f"{name} {before} → {after}" for name, (before, after) in changed.items()
            )
        return f"nothing that is recorded changed{f' but the seed ({seed[0]} → {seed[1]})' if seed else ''}"


@dataclass(frozen=True, slots=True)
class Series:
    """The runs of one scenario under one law on one broker, oldest first."""

    scenario: str
    strategy: str
    broker: str
    runs: Sequence[Judged]

    @property
    def name(self) -> str:
        """How people call it."""
        return " · ".join(part for part in (self.scenario, self.strategy, self.broker) if part)

    @property
    def sentence(self) -> str:
        """How it stands: when it broke last, or that nothing did."""
        last = next((judged for judged in reversed(self.runs) if judged.broke), None)
        count = len(self.runs)
        if last is None:
            passed = sum(judged.run.summary.verdict == "passed" for judged in self.runs)
            steady = "nothing became worse" if count > 1 else "nothing to compare with yet"
            return f"{passed} of {count} run{'s' if count > 1 else ''} passed; {steady}"
        since = count - 1 - self.runs.index(last)
        after = f"; {since} run{'s' if since > 1 else ''} since" if since else ""
        return f"broke at {last.run.time or last.run.folder.name} ({last.run.folder.name}): {last.reason}{after}"


def past_runs(folder: Path, scenario: str = "") -> list[PastRun]:
    """Return the runs right below ``folder`` in order of time, those of ``scenario`` if it is given.

    Raises `ConfigError` when there is none.
    """
    found = [
        PastRun(path, summary, _circumstances(path))
        for path, summary in _summaries_below(folder)
        if scenario in {"", summary.scenario}
    ]
    if not found:
        of = f" of {scenario}" if scenario else ""
        raise ConfigError("--runs", str(folder), f"holds no run{of}: `pace run` makes one")
    return sorted(found, key=lambda run: (run.time, run.folder.name))


def series_of(runs: Sequence[PastRun]) -> list[Series]:
    """Return the series that ``runs`` (in order of time) belong to, the one with the latest run last."""
    groups: dict[tuple[str, str, str], list[PastRun]] = {}
    for run in runs:
        key = (run.summary.scenario, run.summary.strategy, run.summary.broker)
        groups[key] = [*groups.pop(key, []), run]
    return [Series(*key, list(_judged(group))) for key, group in groups.items()]


def _judged(runs: Sequence[PastRun]) -> Iterator[Judged]:
    passed: list[PastRun] = []
    last_verdict = ""
    for run in runs:
        verdict = run.summary.verdict
        if not passed or verdict not in _FINISHED:
            yield Judged(run)
        else:
            usual = [past.summary for past in passed[-_MOST_BEFORE:]]
            compared = differences(usual, [run.summary])
            worse = any(difference.direction == "worse" for difference in compared)
            # One that fails after another failure has not broken: that happened at the first of them.
            broke = last_verdict == "passed" if verdict == "failed" else worse
            changed = _changed(passed[-1].circumstances, run.circumstances)
            yield Judged(run, compared, len(usual), broke, changed)
        if verdict in _FINISHED:
            last_verdict = verdict
        if verdict == "passed":
            passed.append(run)


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys([*after, *before])
    values = {name: (before.get(name, "unset"), after.get(name, "unset")) for name in names}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}


def _circumstances(folder: Path) -> dict[str, str]:
    """Return what the figures of a run may depend on, as far as its folder says."""
    found: dict[str, str] = {}
    with suppress(OSError, ConfigError):
        found |= dict(_settings(parse((folder / "scenario.toml").read_text(encoding="utf-8"), "scenario.toml")))
    with suppress(OSError, ValueError, TypeError):
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        environment = dict(facts["environment"])
        commit = {"commit": environment.pop("commit")} if "commit" in environment else {}
        found |= commit | {"broker": f"{facts['broker']} {facts['broker_version']}"} | environment
    return found


def _settings(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in document.items():
        if key == "phase" and isinstance(value, list):
            for table in value:
                prefix = f"phase.{table.get('name')}."
                yield from ((prefix + name, str(inner)) for name, inner in dotted(table) if name != "name")
        elif key not in _NOT_SETTINGS:
            yield from ((name, str(inner)) for name, inner in dotted({key: value}))


# --- as a baseline ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Baseline:
    """The runs that others are compared with.

    Attributes:
        named: runs that the user named one by one: they count whatever their law, broker and verdict.
        found: those of folders of runs: passed ones of the same scenario and law.
        left_out: by reason, how many of the same scenario in these folders do not count.
        option: where they were given.
    """

    named: Sequence[Summary] = ()
    found: Sequence[Summary] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    option: str = "--baseline"

    @property
    def runs(self) -> Sequence[Summary]:
        """All of them."""
        return [*self.named, *self.found]

    def on(self, broker: str) -> Baseline:
        """Return those that count for runs on ``broker``; raises `ConfigError` when none is left."""
        here = [run for run in self.found if run.broker == broker]
        others = Counter(f"on {run.broker}" for run in self.found if run.broker != broker)
        fitting = replace(self, found=here, left_out={**self.left_out, **others})
        if self.runs and not fitting.runs:
            where = " and ".join(sorted({run.broker for run in self.found}))
            raise ConfigError(self.option, where, f"has no passed run on {broker}, where this ran")
        return fitting

    @property
    def told(self) -> str:
        """Which runs these are, and which were left out."""
        kinds = Counter(_kind(run) for run in self.runs)
        runs = ", ".join(f"{count} {'run' if count == 1 else 'runs'} of {kind}" for kind, count in kinds.items())
        began = sorted(run.started_at.replace("T", " ")[:19] for run in self.runs if run.started_at)
        when = f", {began[0]}{f' to {began[-1]}' if began[-1] != began[0] else ''}" if began else ""
        return f"{runs}{when}{f'; left out: {_counted(self.left_out)}' if self.left_out else ''}"


def _kind(run: Summary) -> str:
    verdict = "" if run.verdict == "passed" else f" that {run.verdict}"
    return (
        " · ".join(part for part in (run.scenario, run.strategy, f"{run.broker} {run.broker_version}") if part)
        + verdict
    )


def baseline(paths: Sequence[Path], scenario: str, law: str, option: str) -> Baseline:
    """Return the runs to compare with a run of ``scenario`` under ``law``; raises `ConfigError` that names ``option``.

    Each path is a summary.json, the folder of a run, or a folder of runs: of these, only comparable ones count.
    """
    named: list[Summary] = []
    found: list[Summary] = []
    left_out: Counter[str] = Counter()
    for path in paths:
        if not path.is_dir() or (path / _SUMMARY).exists():
            run = _read_summary(path, option)
            if run.scenario != scenario:
                raise ConfigError(option, str(path), f"is of the scenario {run.scenario}, and this is {scenario}")
            if run.verdict not in _FINISHED:
                raise ConfigError(option, str(path), "did not finish: its figures are no baseline")
            named.append(run)
            continue
        runs = [run for _, run in _summaries_below(path) if run.scenario == scenario]
        if not runs:
            raise ConfigError(option, str(path), f"holds no run of {scenario}")
        reasons = [_unfit(run, law) for run in runs]
        found += [run for run, reason in zip(runs, reasons, strict=True) if not reason]
        left_out.update(reason for reason in reasons if reason)
    if paths and not named and not found:
        allowed = f"holds no run of {scenario} under the law {law} that passed ({_counted(left_out)})"
        raise ConfigError(option, str(paths[0]), allowed)
    return Baseline(named, found, left_out, option)


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))


def _unfit(run: Summary, law: str) -> str:
    """Return why a run is not compared with one under ``law``; "" if it is."""
    if run.strategy != law:
        return f"of the law {run.strategy}"
    if run.verdict == "passed":
        return ""
    return "failed" if run.verdict == "failed" else "unfinished"


def _read_summary(path: Path, option: str) -> Summary:
    file = path / _SUMMARY if path.is_dir() else path
    try:
        return Summary.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(option, str(path), f"cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = f"{where}: {first['msg']}" if where else str(first["msg"])
        raise ConfigError(option, str(path), f"not the summary.json of a run: {problem}") from None


def _summaries_below(folder: Path) -> Iterator[tuple[Path, Summary]]:
    """Yield the runs right below ``folder`` that have a readable summary, in order of their folders' names."""
    for file in sorted(folder.glob(f"*/{_SUMMARY}")):
        try:
            yield file.parent, Summary.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            continue  # half written, or of another version: the others are what is asked for
