"""Finds scenarios, shipped ones by name and others by path; checks the laws, handlers and commands of the user."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backpressure.derived import law_config
from backpressure.engines.payloads import Payloads, PayloadSource, profile_of, recorded_times_s
from backpressure.engines.work import load_handler
from backpressure.errors import ConfigError
from backpressure.experiments.document import merge, parse, parse_assignment
from backpressure.experiments.scenario import Scenario, build
from backpressure.laws import create

Defaults = Callable[[Scenario], Iterable[tuple[str, Any]]]
DEFAULT_SCENARIO = "recovery"

_FOLDER = Path(__file__).parent.parent / "scenarios"


def shipped() -> dict[str, Path]:
    """Return the scenarios that come with the package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.toml"))}


def load(
    target: str, assignments: Sequence[str] = (), strategy: str = "", *, defaults: Defaults | None = None
) -> Scenario:
    """Return the scenario ``target``, a shipped name or a path, with ``key=value`` overrides; raises `ConfigError`.

    ``defaults`` returns values for dotted keys that it may state or not, and that its broker needs.
    """
    path = _path(target)
    source = path.name
    document = parse(read(target), source)
    overrides = [parse_assignment(text) for text in assignments]
    if strategy:
        overrides.append(("producer.strategy", strategy))
    if overrides:
        source = f"{source} with overrides"
    document = merge(document, overrides, path.name)
    scenario = build(document, source)
    if defaults is None:
        return scenario
    needed = [(key, value) for key, value in defaults(scenario) if not _states(document, key)]
    return build(merge(document, needed, path.name), source) if needed else scenario


def read(target: str) -> str:
    """Return the text of a scenario; raises `ConfigError`."""
    try:
        return _path(target).read_text(encoding="utf-8-sig")  # Windows editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("scenario", target, f"cannot be read: {error}") from None


def _states(document: Mapping[str, Any], key: str) -> bool:
    section, _, name = key.partition(".")
    table = document.get(section, {})
    return not isinstance(table, Mapping) or name in table


def _path(target: str) -> Path:
    known = shipped()
    if target in known:
        return known[target]
    path = Path(target)
    if path.is_file():
        return path
    near = difflib.get_close_matches(target, known, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError("scenario", target, f"no such file or scenario; {hint}there are {', '.join(known)}")


def check_programs(scenario: Scenario) -> None:
    """Raise `ConfigError` when a run could not load what is the user's own: a law, a handler, a command."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # as the processes do
    for phase in scenario.phases:  # the files that it names can be read
        Payloads(phase.settings)
        profile_of(phase.settings)
        recorded_times_s(phase.settings)
    if scenario.settings.consumer.handler:
        load_handler(scenario.settings.consumer.handler)
    if scenario.settings.producer.handler:
        PayloadSource.load(scenario.settings.producer.handler)
    for role, player in scenario.roles.items():
        if player.command:
            player.check_program(f"{role}.command")
    for phase in scenario.phases:
        name = phase.settings.producer.strategy
        if ":" in name:  # other laws were checked with the scenario
            create(name, law_config(phase.settings))
