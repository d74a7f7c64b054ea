"""The runs of a folder in order of time: what each was, how it compares with those before it, and what broke them.

A run is held against the finished runs before it of the same scenario, law and broker. Where one became worse than
these beyond noise, or failed after one that passed, what else changed with it is named: versions, commit, settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backpressure.errors import ConfigError
from backpressure.experiments.document import dotted, parse
from backpressure.experiments.regression import Difference, differences, told
from backpressure.experiments.summary import Summary

__all__ = ["PastRun", "Series", "baseline", "past_runs", "series_of"]

_SUMMARY = "summary.json"
_MOST_BEFORE = 5
_FINISHED = {"passed", "failed"}
_NOT_SETTINGS = {"name", "summary"}


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
        run: it.
        compared: its figures against the medians of the runs before; empty for the first.
        broke: it became worse beyond noise, or failed after one that passed.
        changed: name → before and after, of what changed since the run before.
    """

    run: PastRun
    compared: Sequence[Difference] = ()
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
        changes = ", ".join(f"{name} {before} → {after}" for name, (before, after) in (self.changed or {}).items())
        return f"{what}{more}; {f'what changed: {changes}' if changes else 'nothing that is recorded changed'}"


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
    finished: list[PastRun] = []
    for run in runs:
        if not finished or run.summary.verdict not in _FINISHED:
            yield Judged(run)
        else:
            before = [past.summary for past in finished[-_MOST_BEFORE:]]
            compared = differences(before, [run.summary])
            failed = run.summary.verdict == "failed" and before[-1].verdict == "passed"
            worse = any(difference.direction == "worse" for difference in compared)
            changed = _changed(finished[-1].circumstances, run.circumstances)
            yield Judged(run, compared, failed or worse, changed)
        if run.summary.verdict in _FINISHED:
            finished.append(run)


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys([*after, *before])
    values = {name: (before.get(name, "unset"), after.get(name, "unset")) for name in names}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}


def _circumstances(folder: Path) -> dict[str, str]:
    """Return what the figures of a run may depend on, as far as its folder says."""
    found: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError):
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        found |= {"broker": f"{facts['broker']} {facts['broker_version']}"} | dict(facts["environment"])
    with suppress(OSError, ConfigError):
        found |= dict(_settings(parse((folder / "scenario.toml").read_text(encoding="utf-8"), "scenario.toml")))
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


def baseline(paths: Sequence[Path], scenario: str, option: str) -> list[Summary]:
    """Return the finished runs of ``scenario`` to compare with; raises `ConfigError` that names ``option``.

    Each path is a summary.json, the folder of a run, or a folder of runs: of these, those of other scenarios are left
    out.
    """
    found: list[Summary] = []
    for path in paths:
        if path.is_dir() and not (path / _SUMMARY).exists():
            runs = [run for _, run in _summaries_below(path) if run.scenario == scenario]
            if not runs:
                raise ConfigError(option, str(path), f"holds no run of {scenario}")
        else:
            runs = [_read_summary(path, option)]
            if runs[0].scenario != scenario:
                allowed = f"is of the scenario {runs[0].scenario}, and this is {scenario}"
                raise ConfigError(option, str(path), allowed)
        found += runs
    finished = [run for run in found if run.verdict in _FINISHED]
    if found and not finished:
        raise ConfigError(option, str(paths[0]), "did not finish: its figures are no baseline")
    return finished


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
