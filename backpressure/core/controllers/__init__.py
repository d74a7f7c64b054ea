"""Rate-control laws: each decides a rate from `Signals`; none enforces it, sleeps, or knows a broker.

One law a file, its formula, regimes, parameters and source in its docstring. `create` builds one by name.
"""

from backpressure.core.controllers.config import LawConfig, Parameter, Traits
from backpressure.core.controllers.registry import (
    ENTRY_POINTS,
    LAWS,
    LawDescription,
    create,
    describe,
    law_names,
    traits,
)

__all__ = [
    "ENTRY_POINTS",
    "LAWS",
    "LawConfig",
    "LawDescription",
    "Parameter",
    "Traits",
    "create",
    "describe",
    "law_names",
    "traits",
]
