"""Rate-control laws: each decides a rate from `Signals`; none enforces it, sleeps, or knows a broker.

Each class says its formula, regimes, parameters and source in its docstring. `create` builds one by name.
"""

from backpressure.core.controllers.registry import (
    LAWS,
    LawConfig,
    LawDescription,
    LawTraits,
    Parameter,
    create,
    describe,
    limit_of,
    traits,
    traits_of,
)

__all__ = [
    "LAWS",
    "LawConfig",
    "LawDescription",
    "LawTraits",
    "Parameter",
    "create",
    "describe",
    "limit_of",
    "traits",
    "traits_of",
]
