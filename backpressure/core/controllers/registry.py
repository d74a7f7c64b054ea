"""Building laws: those that ship by name, a user's own by the path to its class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from backpressure.core.controllers.law_config import LawConfig, LawTraits, Parameter, traits_of
from backpressure.core.signals import Law
from backpressure.errors import ConfigError

__all__ = ["LAWS", "LawDescription", "create", "describe", "traits"]

LawFactory = Callable[[LawConfig], Law]

_SHIPPED: Mapping[str, str] = {
    "unbounded": "modes:UnboundedLaw",
    "bounded": "modes:BoundedLaw",
    "rate_limited": "modes:RateLimitedLaw",
    "threshold": "threshold:ThresholdLaw",
    "aimd": "aimd:AimdLaw",
    "vegas": "vegas:VegasLaw",
    "gradient2": "gradient2:Gradient2Law",
    "pid": "pid:PidLaw",
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
