"""The scenario model: what a TOML file means, and which mistakes it contains.

A `Scenario` is complete and checked: every phase has all settings, so nothing can turn out invalid after the processes
have started. Every mistake is a `ConfigError` that names file, key, value and what is allowed. Runs and simulations
both derive seeds, service times, offered load and capacity from the settings here.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import sqrt
from types import NoneType
from typing import Annotated, Any, Literal, get_args
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from backpressure.catalogue import changes_with_present_names, find_field, former_name_notices
from backpressure.config import replaced
from backpressure.derived import law_config
from backpressure.errors import ConfigError
from backpressure.experiments.document import dotted
from backpressure.experiments.events import LoadChanged
from backpressure.experiments.faults import Fault
from backpressure.experiments.faults import parse as parse_fault
from backpressure.experiments.outcomes import LedgerSettings, read_ledger
from backpressure.experiments.roles import ROLE_KEYS, ROLES, RoleName, RoleSettings, read_role
from backpressure.experiments.summary import Expectation, metric_paths, parse_expectation
from backpressure.knobs import Section, knob
from backpressure.laws import create
from backpressure.settings import LIVE, ConsumerSettings, Settings, is_live

log = logging.getLogger(__name__)

Until = Literal["published", "drained", "consumed"]

_CHOSEN_BY_RUNNER = {
    "broker": "the broker is chosen with --broker",
    "api": "every process of a run gets free ports",
    "process": "`pace run` sets these itself",
    "agent": "these are settings of the machine: PACE_AGENT__… and the options of `pace run`",
}
_SECTIONS = [name for name in Settings.model_fields if name not in _CHOSEN_BY_RUNNER]
_LIVE = LIVE["producer"] | LIVE["consumer"] | {"producer.count", "consumer.count"}
"""What a phase may change: what the control APIs, the supervisor and the broker can change in a running system."""
_THROWN_AWAY = {"discarded", "rejected", "dropped", "returned"}
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


class StrangerSettings(Section):
    """Which consumers report nothing, how they take messages, and what the broker tells instead (in simulations)."""

    count: Annotated[int, Field(ge=0)] | Literal["all"] = knob(
        0, "consumers", "how many of the consumers report nothing", word="all"
    )
    prefetch: int = knob(
        0, "messages", "maximum number of unacknowledged messages of each; 0: unlimited", ge=0, le=65535
    )
    acks: Literal["each", "auto", "commit"] = knob(
        "each",
        "",
        "each: a message when its work is done; auto: on delivery, so that prefetch limits nothing; commit: as Kafka's "
        "consumers do, everything at intervals",
    )
    commit_interval_ms: float = knob(5000.0, "ms", "time between two commits", gt=0, le=600_000)
    evidence: Literal["ready", "fresh", "ticks", "collected"] = knob(
        "ready",
        "",
        "what the broker tells besides ready messages: nothing more; fresh: unacknowledged ones of the same moment; "
        "ticks: counts that it makes every statistics_interval_ms; collected: copies of them that are as old again",
    )
    statistics_interval_ms: float = knob(5000.0, "ms", "time between two counts of the statistics", gt=0, le=600_000)
    consumer_list: bool = knob(True, "", "the management API tells prefetch and acknowledgement mode")


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run with constant settings.

    ``changes`` are the dotted keys that differ from the phase before. With ``until`` the phase ends when that condition
    is met, at the latest ``duration_s`` after its changes are in force; without, it lasts exactly ``duration_s``. A
    ``fault`` is injected at its beginning and undone at its end; its time counts from when that has taken effect.
    """

    name: str
    duration_s: float
    until: Until | None
    settings: Settings
    changes: Mapping[str, Any]
    fault: Fault | None = None

    @property
    def circumstances(self) -> tuple[str, str]:
        """The law of the phase and the name of its fault, as a recording has them; "": none."""
        return self.settings.producer.strategy, self.fault.name if self.fault else ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A checked scenario. ``document`` is what it was built from, with overrides: saved, it reproduces the scenario.

    ``strangers`` are consumers that report nothing, as simulations model them. ``proxy``: the clients of a run reach
    their broker through `pace proxy`. ``roles``: which programs play consumer and producer, where they are not ours.
    ``rate_stated``: the scenario says what one consumer can do; of programs that are not ours nothing else does.
    ``ledger``: how to find out what programs that are not ours have done with each message.
    """

    name: str
    summary: str
    seed: int
    phases: tuple[Phase, ...]
    expectations: tuple[Expectation, ...]
    document: Mapping[str, Any]
    strangers: StrangerSettings
    proxy: bool = False
    roles: Mapping[RoleName, RoleSettings] = field(default_factory=lambda: dict.fromkeys(ROLES, RoleSettings()))
    rate_stated: bool = False
    ledger: LedgerSettings | None = None

    @property
    def strange(self) -> frozenset[str]:
        """The roles that are not played by our own processes."""
        return frozenset(role for role, player in self.roles.items() if player.is_stranger)

    @property
    def on_agents(self) -> frozenset[RoleName]:
        """The roles whose processes run on other machines."""
        return frozenset(role for role, player in self.roles.items() if player.on == "agents")

    @property
    def can_be_simulated(self) -> bool:
        """Whether a model knows what every program does, and every fault."""
        ours = not self.strange and not self.settings.consumer.handler
        return ours and all(fault.least_nodes == 1 for fault in self.faults)

    @property
    def capacity_known(self) -> bool:
        """Whether what one consumer can do is known before the run."""
        own = not self.roles["consumer"].is_stranger and not self.settings.consumer.handler
        return own or self.rate_stated

    @property
    def settings(self) -> Settings:
        """The settings the run starts with."""
        return self.phases[0].settings

    @property
    def faults(self) -> list[Fault]:
        """All faults of the phases."""
        return [phase.fault for phase in self.phases if phase.fault is not None]

    @property
    def duration_s(self) -> float:
        """The longest time that all phases may take."""
        return sum(phase.duration_s for phase in self.phases)

    def shortened(self, duration_s: float) -> Scenario:
        """Return the scenario with only ``duration_s`` of its first phase, for a trial."""
        return replace(self, phases=(replace(self.phases[0], duration_s=duration_s),))


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_tables: dict[str, Any] = {name: (dict[str, Any], Field(default_factory=dict)) for name in _SECTIONS}


class _PhaseHead(_Document):
    name: str = Field(pattern=_NAME, max_length=60)
    duration_s: float = Field(gt=0, le=86_400, allow_inf_nan=False)
    until: Until | None = None
    fault: str | None = None


class _ScenarioHead(_Document):
    name: str = Field(pattern=_NAME, max_length=60)
    summary: str = ""
    seed: int = Field(1, ge=0, le=1_000_000_000)
    expect: dict[str, Any] = Field(default_factory=dict)
    strangers: dict[str, Any] = Field(default_factory=dict)
    ledger: dict[str, Any] | None = None
    proxy: bool = False


_PhaseDocument = create_model("_PhaseDocument", __base__=_PhaseHead, **_tables)
_ScenarioDocument = create_model(
    "_ScenarioDocument", __base__=_ScenarioHead, phase=(list[dict[str, Any]], Field(min_length=1)), **_tables
)


_OFTEN = {"monitor.probe_interval_ms": 100.0}  # a run is sampled ten times a second, so its depth is read as often


def build(document: Mapping[str, Any], source: str) -> Scenario:
    """Check ``document`` and return the scenario; ``source`` is the file name for errors. Raises `ConfigError`."""
    head = _checked(_ScenarioDocument, document, "", source)
    roles = {role: read_role(role, getattr(head, role), source) for role in ROLES}
    settings = replaced(Settings(), _OFTEN | _wanted(_without_roles(document), Settings(), "", source), source)
    if settings.monitor.host != Settings().monitor.host:
        allowed = f"the monitor of a run serves on {Settings().monitor.host}: any other address would need a token"
        raise ConfigError("monitor.host", settings.monitor.host, allowed, source)
    phases: list[Phase] = []
    for number, table in enumerate(document["phase"], start=1):
        where = f"phase.{table.get('name', number)}"
        part = _checked(_PhaseDocument, table, f"{where}.", source)
        _check_roles(part, roles, where, source)
        fault = None if part.fault is None else parse_fault(part.fault, f"{where}.fault", source)
        if fault is not None:
            _check_fault(fault, roles, settings, f"{where}.fault", source)
        if part.name in {phase.name for phase in phases}:
            raise ConfigError(f"{where}.name", part.name, "every phase needs a name of its own", source)
        wanted = _wanted(table, settings, f"{where}.", source)
        changes = {key: value for key, value in wanted.items() if value != _value(settings, key)}
        settings = _changed(settings, wanted, where, source)
        if phases:
            _refuse_what_cannot_change(changes, where, source)
        if part.until in {"published", "consumed"} and roles["producer"].is_stranger:
            allowed = 'the producer is not ours, so nobody knows when it has sent all: use "drained", or leave it out'
            raise ConfigError(f"{where}.until", part.until, allowed, source)
        if part.until in {"published", "consumed"} and not settings.producer.limit:
            allowed = f'"{part.until}" needs producer.limit: an endless producer never gets there'
            raise ConfigError(f"{where}.until", part.until, allowed, source)
        phases.append(Phase(part.name, part.duration_s, part.until, settings, changes, fault))
    expectations = _expectations(head.expect, phases, source, strange_producer=roles["producer"].is_stranger)
    strangers = _strangers(head.strangers, source)
    ledger = read_ledger(head.ledger, source)
    _check_ledger(ledger, roles, settings, source)
    rate_stated = any("rate" in table.get("consumer", {}) for table in [document, *document["phase"]])
    return Scenario(
        head.name,
        head.summary,
        head.seed,
        tuple(phases),
        expectations,
        document,
        strangers,
        head.proxy,
        roles,
        rate_stated,
        ledger,
    )


def _without_roles(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``document`` with nothing but settings in the tables of the roles."""
    result = dict(document)
    for role in ROLES:
        result[role] = {key: value for key, value in document.get(role, {}).items() if key not in ROLE_KEYS}
    return result


def _check_ledger(
    ledger: LedgerSettings | None, roles: Mapping[RoleName, RoleSettings], settings: Settings, source: str
) -> None:
    """Refuse a ledger that could not be kept."""
    if ledger is None:
        return
    if not roles["consumer"].is_stranger:
        allowed = "our own consumers keep journals: it is for consumer.command and consumer.external only"
        raise ConfigError("ledger.id", ledger.id, allowed, source)
    if roles["producer"].is_stranger and not settings.queue.auditing:
        allowed = "what a producer that is not ours has sent is seen in the audit queue only: set queue.auditing = true"
        raise ConfigError("ledger.id", ledger.id, allowed, source)
    if roles["producer"].on == "agents" and not ledger.id_is_ours:
        allowed = 'a producer on an agent keeps no list of other ids: use message_id, or producer.on = "here"'
        raise ConfigError("ledger.id", ledger.id, allowed, source)
    if ledger.id == "correlation_id":
        allowed = "the message id is what our producer sends as a correlation id, too: use message_id"
        raise ConfigError("ledger.id", ledger.id, allowed, source)


def _check_roles(part: Any, roles: Mapping[RoleName, RoleSettings], where: str, source: str) -> None:
    """Refuse in a phase another program for a role, and what cannot be changed in a program that is not ours."""
    for role in ROLES:
        for key, value in getattr(part, role).items():
            if key in ROLE_KEYS:
                allowed = "cannot change during the run: set it at the top of the file"
                raise ConfigError(f"{where}.{role}.{key}", value, allowed, source)
            if roles[role].external and key == "count":
                raise ConfigError(
                    f"{where}.{role}.{key}", value, "an external program is not started or stopped", source
                )
            if roles[role].is_stranger and key not in {"count", "rate"}:
                allowed = f"the {role} is not our process, so this cannot be changed: leave it out"
                raise ConfigError(f"{where}.{role}.{key}", value, allowed, source)


def _check_fault(
    fault: Fault, roles: Mapping[RoleName, RoleSettings], settings: Settings, key: str, source: str
) -> None:
    """Refuse a fault that cannot be injected into the programs of this scenario."""
    for role in ROLES:
        if roles[role].on == "agents" and (why := fault.not_on_agents(role)):
            raise ConfigError(key, fault.name, f'{why}: use another fault, or {role}.on = "here"', source)
        if fault.signals == role and roles[role].external:
            raise ConfigError(key, fault.name, f"an external {role} is not ours to kill, stop or slow down", source)
        if fault.reaches_into(role):
            if roles[role].is_stranger:
                allowed = (
                    f"only our own {role} can be told to do that; a command can be killed, stopped and slowed down"
                )
                raise ConfigError(key, fault.name, allowed, source)
            if settings.consumer.handler and not fault.moves_clocks:
                allowed = "consumer.handler decides which messages fail; leave the fault out"
                raise ConfigError(key, fault.name, allowed, source)


def _expectations(
    texts: Mapping[str, Any], phases: list[Phase], source: str, *, strange_producer: bool
) -> tuple[Expectation, ...]:
    processes = [f"{role}-{n + 1}" for role in ("producer", "consumer") for n in range(_started(role, phases))]
    known = metric_paths([phase.name for phase in phases], [*processes, "monitor", "broker"])
    stated = [parse_expectation(metric, text, known, source) for metric, text in dotted(texts)]
    # A phase that waits for a condition expects it: to reach the end of its duration instead is a failure.
    implied = [Expectation(f"phases.{phase.name}.reached", "==", 1.0) for phase in phases if phase.until]
    # "lost 0" alone would hide work that was thrown away, so a scenario that says nothing about that expects none.
    # Of producers that are not ours nobody knows what was refused.
    watched = any(expectation.metric.removeprefix("totals.") in _THROWN_AWAY for expectation in stated)
    if not watched and not strange_producer:
        implied.append(Expectation("discarded", "==", 0.0, default=True))
    return (*stated, *implied)


def _strangers(table: Mapping[str, Any], source: str) -> StrangerSettings:
    try:
        return StrangerSettings.model_validate(table)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        raise ConfigError(f"strangers.{key}", *_problem(StrangerSettings, key, problem), source) from None


def _started(role: str, phases: list[Phase]) -> int:
    """Return how many processes of ``role`` a run starts; one that returns in a later phase is a new process."""
    counts: list[int] = [0, *(getattr(phase.settings, role).count for phase in phases)]
    in_place = sum(phase.fault.restarted(role) for phase in phases if phase.fault is not None)
    return in_place + sum(max(0, after - before) for before, after in pairwise(counts))


def _wanted(table: Mapping[str, Any], settings: Settings, prefix: str, source: str) -> dict[str, Any]:
    """Return what a table changes of ``settings``, by the names that settings have now."""
    wanted = dict(_flat(table, prefix, source))
    for notice in former_name_notices({key: (value, source) for key, value in wanted.items()}):
        log.warning("%s", notice)
    return changes_with_present_names(wanted, settings, source)


def _flat(table: Mapping[str, Any], prefix: str, source: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a table with their values; the text "none" unsets a setting that may be unset."""
    for section in _SECTIONS:
        for name, value in table.get(section, {}).items():
            key = f"{section}.{name}"
            try:
                field = find_field(key, value, source)
            except ConfigError as error:
                raise ConfigError(prefix + key, value, error.allowed, source) from None
            yield key, None if value == "none" and NoneType in get_args(field.annotation) else value


def _changed(settings: Settings, wanted: Mapping[str, Any], where: str, source: str) -> Settings:
    try:
        changed = replaced(settings, wanted, source)
        _check_law(changed)
        _check_work(changed)
    except ConfigError as error:
        inner = f"{where}.{error.key}" if error.key in wanted else error.key
        raise ConfigError(inner, error.value, error.allowed, source) from None
    return changed


def _check_law(settings: Settings) -> None:
    if ":" not in settings.producer.strategy:  # the user's own class is imported only where it runs, in the producers
        create(settings.producer.strategy, law_config(settings))


def _check_work(settings: Settings) -> None:
    """Refuse messages without any work: the consumers would have no capacity to compare with."""
    asked_s, consumer = settings.producer.processing_time_s, settings.consumer
    if not settings.producer.rate:
        allowed = "a scenario needs an offered load to compare with: give it a number above 0, at most 1e7 msg/s"
        raise ConfigError("producer.rate", settings.producer.rate, allowed)
    if asked_s == 0:
        allowed = "a message has to ask for some work, or a consumer has no capacity to match: give it more than 0"
        raise ConfigError("producer.processing_time_s", asked_s, allowed)
    if asked_s is None and consumer.mean_service_s == 0:
        allowed = "the mean work is 0, so a consumer has no capacity to match: give it more than 0"
        if consumer.distribution == "uniform":
            raise ConfigError("consumer.processing_max_ms", consumer.processing_max_ms, allowed)
        raise ConfigError("consumer.rate", consumer.rate, "max leaves no capacity to match: give a number")


def _refuse_what_cannot_change(changes: Mapping[str, Any], where: str, source: str) -> None:
    for key, value in changes.items():
        if not is_live(key, _LIVE):
            sections = sorted(name for name in _LIVE if "." not in name)
            allowed = (
                "cannot change during the run: set it at the top of the file. A phase can change "
                f"{', '.join(sorted(_LIVE.difference(sections)))} and every key of {', '.join(sections)}"
            )
            raise ConfigError(f"{where}.{key}", value, allowed, source)


def _value(settings: Settings, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


def _checked(model: type[Any], table: Mapping[str, Any], prefix: str, source: str) -> Any:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A misspelt key explains why the correct one is missing.
        first = next((problem for problem in errors if problem["type"] == "extra_forbidden"), errors[0])
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(prefix + key, *_problem(model, key, first), source) from None


_EXPECTED = {
    "missing": "is required",
    "string_pattern_mismatch": "expected letters, digits, - and _, the first of them a letter or digit",
    "list_type": "expected tables, each under a line [[phase]]",
    "dict_type": "expected a table of settings",
}


def _problem(model: type[BaseModel], key: str, error: Mapping[str, Any]) -> tuple[object, str]:
    """Return the offending value and what would be allowed."""
    if error["type"] == "extra_forbidden":
        if key in _CHOSEN_BY_RUNNER:
            return error["input"], f"not part of a scenario: {_CHOSEN_BY_RUNNER[key]}"
        near = difflib.get_close_matches(key, model.model_fields, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(model.model_fields)}"
        return error["input"], f"unknown key; {hint}"
    message = str(error["msg"])
    value = None if error["type"] == "missing" else error["input"]
    return value, _EXPECTED.get(error["type"], f"{message[0].lower()}{message[1:]}")


def process_seed(seed: int, process_id: str) -> int:
    """Return the seed of a process: different for each, the same in every run with ``seed``."""
    return crc32(f"{seed}/{process_id}".encode())


def load_of(
    settings: Settings, at_ns: int, consumers: float | None, producers: int, *, share: float = 1.0
) -> LoadChanged:
    """Return the capacity of these consumers and the offered load of these producers under ``settings``.

    ``consumers`` is None where nobody knows what they can do; ``share`` is how much of its rate a producer offers.
    """
    mean_s, cv = service(settings)
    return LoadChanged(
        at_ns=at_ns,
        capacity_per_s=(consumers or 0.0) / mean_s,
        capacity_known=consumers is not None,
        demand_per_s=producers * settings.producer.rate * share,
        service_cv=cv,
        target_wait_s=settings.control.target_wait_ms / 1000,
        tick_s=settings.control.tick_ms / 1000,
    )


def service(settings: Settings) -> tuple[float, float]:
    """Return mean (seconds) and coefficient of variation of the work per message."""
    if settings.producer.processing_time_s is not None:
        return settings.producer.processing_time_s, 0.0
    consumer = settings.consumer
    return consumer.mean_service_s, _service_cv(consumer)


def _service_cv(consumer: ConsumerSettings) -> float:
    if consumer.distribution == "exponential":
        return 1.0
    if consumer.distribution == "uniform":
        spread_s = (consumer.processing_max_ms - consumer.processing_min_ms) / 1000
        return spread_s / sqrt(12) / consumer.mean_service_s
    return 0.0
