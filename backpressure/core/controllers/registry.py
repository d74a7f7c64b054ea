"""Laws: what each says about itself and is configured with, and how one is built from its name or path.

Laws that ship are found by name, laws of a user by the path to their class. Knows no particular law.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from math import inf
from typing import Literal

from backpressure.core.signals import Law
from backpressure.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class LawTraits:
    """What a law says about itself, as its class attribute ``TRAITS``; a law without one has these defaults.

    ``adapts``: it follows the consumers' pace. ``retries``: a message that the broker refuses is sent again, where the
    settings leave that to the law. ``queue_bound`` is the bound that goes with the law when it is chosen as a strategy:
    the one in the settings, none at all, or one that refuses what is too much.
    """

    adapts: bool = True
    retries: bool = True
    queue_bound: Literal["as set", "none", "refusing"] = "as set"


def traits_of(law: object) -> LawTraits:
    """Return what a law (or the class of one) says about itself."""
    traits = getattr(law, "TRAITS", None)
    return traits if isinstance(traits, LawTraits) else LawTraits()


def limit_of(law: object) -> float:
    """Return the most that a law may ever decide by itself: its attribute ``limit_per_s``; infinite without one."""
    limit_per_s = getattr(law, "limit_per_s", inf)
    return float(limit_per_s) if isinstance(limit_per_s, (int, float)) else inf


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a law: ``unit`` is "" for a pure number; ``minimum`` and ``maximum`` are allowed themselves."""

    name: str
    default: float
    unit: str
    meaning: str
    minimum: float = 0.0
    maximum: float = inf


@dataclass(frozen=True, slots=True, kw_only=True)
class LawConfig:
    """Settings of a law, in the units of its name.

    ``target_wait_s`` is the queue wait to aim for. ``floor_per_s`` and ``ceiling_per_s`` bound this producer's rate;
    None leaves the floor to the law and the ceiling to the offered load. ``tick_s`` is how often the law is asked,
    ``report_interval_s`` how often consumers report. ``parameters`` are the law's own, by name.
    """

    target_wait_s: float = 0.02
    floor_per_s: float | None = None
    ceiling_per_s: float | None = None
    tick_s: float = 0.1
    report_interval_s: float = 0.1
    parameters: Mapping[str, float] = field(default_factory=dict)

    def values(self, law: str, declared: Sequence[Parameter]) -> dict[str, float]:
        """Return every parameter ``law`` declares, as given or by default.

        Raises `ConfigError` for a name it does not declare and for a value out of range.
        """
        known = {parameter.name: parameter for parameter in declared}
        for name, value in self.parameters.items():
            key = f"control.parameters.{law}.{name}"
            if name not in known:
                allowed = ", ".join(known) if known else "no parameters at all"
                raise ConfigError(key, value, f"unknown parameter; {law} has {allowed}")
            low, high = known[name].minimum, known[name].maximum
            if not low <= value <= high:
                raise ConfigError(key, value, f"expected {low:g} … {high:g} {known[name].unit}".rstrip())
        return {name: self.parameters.get(name, parameter.default) for name, parameter in known.items()}

    def clamp(self, rate_per_s: float, *, floor_per_s: float = 0.0) -> float:
        """Return ``rate_per_s`` within floor and ceiling; ``floor_per_s`` is the law's own, used when none is set."""
        floor = floor_per_s if self.floor_per_s is None else self.floor_per_s
        ceiling = inf if self.ceiling_per_s is None else self.ceiling_per_s
        return min(ceiling, max(floor, rate_per_s))


LawFactory = Callable[[LawConfig], Law]

_SHIPPED: Mapping[str, str] = {
    "unbounded": "classic_laws:UnboundedLaw",
    "bounded": "classic_laws:BoundedLaw",
    "rate_limited": "classic_laws:RateLimitedLaw",
    "threshold": "classic_laws:ThresholdLaw",
    "aimd": "window_laws:AimdLaw",
    "vegas": "window_laws:VegasLaw",
    "gradient2": "window_laws:Gradient2Law",
    "pid": "classic_laws:PidLaw",
    "pace": "pace:PaceLaw",
}
"""Module of this package and class; imported when it is needed, because consumers and monitors run no law."""

LAWS: tuple[str, ...] = tuple(_SHIPPED)
"""Names of the laws that ship, from no control at all to our own."""


@dataclass(frozen=True, slots=True)
class LawDescription:
    """A law in one line, its parameters, and what else it says about itself."""

    name: str
    summary: str
    parameters: Sequence[Parameter]
    traits: LawTraits


def create(name: str, config: LawConfig | None = None) -> Law:
    """Return a new law: a shipped one, or ``package.module:Class`` of the user's own.

    A class of the user's own is called with the `LawConfig` and must have `Law.update`. Raises `ConfigError` when there
    is no such law, or when it does not accept its parameters.
    """
    factory = _find(name)
    try:
        law = factory(config if config is not None else LawConfig())
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's own class raises, it is not a law
        raise ConfigError("producer.strategy", name, f"cannot be built: {_told(error)}") from error
    if not isinstance(law, Law):
        raise ConfigError("producer.strategy", name, "its object has no method update(signals, now)")
    return law


def describe(name: str) -> LawDescription:
    """Return what the law called ``name`` says of itself: its docstring's first line, its parameters and traits."""
    factory = _find(name)
    lines = (factory.__doc__ or "").strip().splitlines()
    return LawDescription(name, lines[0] if lines else "", getattr(factory, "PARAMETERS", ()), traits_of(factory))


def traits(name: str) -> LawTraits:
    """Return the traits of the law called ``name``; a law that does not ship is not imported for it: the defaults.

    Processes that never run the law ask this, too, and need not have the module it is in.
    """
    return traits_of(_find(name)) if name in _SHIPPED else LawTraits()


def _find(name: str) -> LawFactory:
    if name in _SHIPPED:
        return _load(f"{__package__}.{_SHIPPED[name]}")
    if ":" in name:
        return _load(name)
    raise ConfigError("producer.strategy", name, f"expected one of {', '.join(LAWS)}, or package.module:Class")


def _load(path: str) -> LawFactory:
    module_name, _, attribute = path.partition(":")
    try:
        factory = getattr(import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # a module may do anything while it is imported, ending included
        raise ConfigError("producer.strategy", path, f"cannot be imported: {_told(error)}") from error
    if not callable(factory):
        raise ConfigError("producer.strategy", path, "expected a class or function that takes a LawConfig")
    return factory  # type: ignore[no-any-return]  # a name from outside has no static type; `create` checks the object


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
