"""Values that are created for every message: immutable to the type checker, cheap to create.

`dataclass(frozen=True)` enforces at run time what mypy has already checked, and creating one costs three times as much.
A consumer makes six such values for each message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

__all__ = ["value"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make ``cls`` a dataclass with slots; mypy refuses assignments to its fields."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
