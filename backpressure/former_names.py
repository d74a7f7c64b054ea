"""Settings that have become parameters of their laws: read under their former names, and where they are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from backpressure.catalogue import allowed, find_field
from backpressure.errors import ConfigError
from backpressure.settings import FORMER_PARAMETERS, Settings

__all__ = ["Given", "notices", "renamed", "with_present_names"]

Given = tuple[Any, str]
"""A value, and where it comes from."""

_PARAMETERS = "control.parameters"


def notices(values: Mapping[str, Given]) -> Iterator[str]:
    """Yield what to tell of each value that is given under a former name."""
    for key in values.keys() & FORMER_PARAMETERS.keys():
        law, name = FORMER_PARAMETERS[key]
        yield f"{key} (from {values[key][1]}) is read; its name is now {_PARAMETERS}.{law}.{name}"


def with_present_names(values: Mapping[str, Given], strength: Mapping[str, int]) -> dict[str, Given]:
    """Return ``values`` with those under former names as parameters of their laws, unless one as strong is given.

    Raises `ConfigError` for one that is not allowed.
    """
    result = {key: given for key, given in values.items() if key not in FORMER_PARAMETERS}
    for key, (law, name) in FORMER_PARAMETERS.items():
        if key not in values:
            continue
        value, source = values[key]
        number = _checked(key, value, source)
        given = result.get(_PARAMETERS, ({}, ""))[0]
        if not isinstance(given, dict) or not isinstance(given.get(law, {}), dict):
            return result  # it is refused for its shape
        if name not in given.get(law, {}) or strength.get(_PARAMETERS, -1) < strength.get(key, -1):
            result[_PARAMETERS] = (given | {law: given.get(law, {}) | {name: number}}, source)
    return result


def renamed(changes: Mapping[str, Any], settings: Settings, source: str) -> dict[str, Any]:
    """Return ``changes`` to ``settings``, by dotted names, under the names that settings have now.

    What has become a parameter is put into ``control.parameters``, which keeps all its other values. Raises
    `ConfigError`.
    """
    if not changes.keys() & FORMER_PARAMETERS.keys():
        return dict(changes)
    values: dict[str, Given] = {_PARAMETERS: (settings.control.parameters, "settings")}
    values |= {key: (value, source) for key, value in changes.items()}
    return {key: value for key, (value, _) in with_present_names(values, dict.fromkeys(changes, 1)).items()}


def _checked(key: str, value: object, source: str) -> float:
    field = find_field(key)
    try:
        return TypeAdapter(Annotated[float, *field.metadata]).validate_python(value)
    except ValidationError:
        raise ConfigError(key, value, f"expected {allowed(field)}", source) from None
