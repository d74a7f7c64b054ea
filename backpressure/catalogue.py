"""All settings: found by their dotted names, described in words, and written as a ``config.py``.

Settings that have become parameters of their laws are read under their former names, too. It knows the declarations in
`backpressure.settings`, but not where values come from.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from backpressure.core.controllers import describe
from backpressure.errors import ConfigError
from backpressure.knobs import Section, knob
from backpressure.settings import FORMER_PARAMETERS, Settings

_HEADER = '''\
"""Every knob of the experiment: value, unit, reason.

A flag (--rate 500) is stronger than an environment variable (PACE_PRODUCER__RATE=500), which is stronger than
this file. Leave out what you do not change: the defaults fill the gaps. A wrong value is named when you start.
"""'''
_HIDDEN = {"process"}  # set by `pace run`, of no use in a config file


def find_field(key: str, value: object = "", source: str = "") -> FieldInfo:
    """Return the declaration of the setting with the dotted ``key``; raises `ConfigError` with similar names.

    ``value`` and ``source`` are only for the error.
    """
    if key in FORMER_PARAMETERS:
        return _parameter(*FORMER_PARAMETERS[key])
    section, _, name = key.partition(".")
    models = _sections()
    if section not in models:
        namesakes = [f"{other}.{section}" for other, model in models.items() if section in model.model_fields]
        raise ConfigError(key, value, _unknown(section, models, namesakes), source)
    fields = models[section].model_fields
    if name not in fields:
        raise ConfigError(key, value, _unknown(name, fields), source)
    return fields[name]


def find_section(name: str, source: str) -> type[Section]:
    """Return the section ``name``; raises `ConfigError` with similar names."""
    models = _sections()
    if name not in models:
        raise ConfigError(name, "class", _unknown(name, models), source)
    return models[name]


def allowed(field: FieldInfo) -> str:
    """Return in words which values a setting can have, e.g. "a number > 0 and ≤ 1000 (msg/s)"."""
    unit, word = _extra(field, "unit"), _extra(field, "word")
    return (
        _described(field.annotation, field.metadata) + (f", or {word}" if word else "") + (f" ({unit})" if unit else "")
    )


def render() -> str:
    """Return the text of a ``config.py`` with the defaults of all settings, as `pace init` writes it."""
    lines = [_HEADER]
    for name, model in _sections().items():
        if name in _HIDDEN:
            continue
        lines += ["", "", f"class {name}:", f'    """{(model.__doc__ or "").strip()}"""', ""]
        for key, field in model.model_fields.items():
            unit = _extra(field, "unit")
            reason = f"{unit} · {field.description}" if unit else field.description
            lines.append(f"    {f'{key} = {_literal(field.default)}':<38} # {reason}")
    return "\n".join(lines) + "\n"


def each(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name of every setting and its value."""
    for section in _sections():
        for name in _sections()[section].model_fields:
            key = f"{section}.{name}"
            yield key, value_of(settings, key)


def value_of(settings: Settings, key: str) -> Any:
    """Return the value of the setting with the dotted ``key``."""
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


def _sections() -> dict[str, type[Section]]:
    return {name: field.annotation for name, field in Settings.model_fields.items()}  # type: ignore[misc]  # all are sections


def _parameter(law: str, name: str) -> FieldInfo:
    """Return the declaration of a law's parameter in the form of a setting's."""
    parameter = next(one for one in describe(law).parameters if one.name == name)
    limits: dict[str, Any] = {"ge": parameter.minimum} | ({"le": parameter.maximum} if parameter.maximum < inf else {})
    declared: Any = knob(parameter.default, parameter.unit, parameter.meaning, allow_inf_nan=False, **limits)
    return FieldInfo.from_annotated_attribute(float, declared)


def _unknown(name: str, known: Iterable[str], namesakes: Sequence[str] = ()) -> str:
    near = namesakes or difflib.get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"unknown setting; {hint}"


def _described(annotation: Any, rules: Sequence[Any]) -> str:
    if get_origin(annotation) is Annotated:
        base, declared = get_args(annotation)
        return _described(base, declared.metadata)
    if get_origin(annotation) is Literal:
        return " or ".join(get_args(annotation))
    if get_origin(annotation) in {Union, UnionType}:
        return " or ".join(_described(part, rules) for part in get_args(annotation))
    kinds = {int: "a whole number", float: "a number", bool: "true or false", NoneType: "none", dict: "a table"}
    kind = kinds.get(get_origin(annotation) or annotation, "text")
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"} if annotation in {int, float} else {}
    limits = [
        f"{sign} {getattr(rule, name):.12g}" for rule in rules for name, sign in signs.items() if hasattr(rule, name)
    ]
    return " ".join([kind, " and ".join(limits)]).rstrip()


def _extra(field: FieldInfo, name: str) -> str:
    extra = field.json_schema_extra
    return str(extra.get(name, "")) if isinstance(extra, dict) else ""


def _literal(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:_}"
    return repr(value)


Given = tuple[Any, str]
"""A value, and where it comes from."""

_PARAMETERS = "control.parameters"


def former_name_notices(values: Mapping[str, Given]) -> Iterator[str]:
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
        number = _checked_parameter(key, value, source)
        given = result.get(_PARAMETERS, ({}, ""))[0]
        if not isinstance(given, dict) or not isinstance(given.get(law, {}), dict):
            return result  # it is refused for its shape
        if name not in given.get(law, {}) or strength.get(_PARAMETERS, -1) < strength.get(key, -1):
            result[_PARAMETERS] = (given | {law: given.get(law, {}) | {name: number}}, source)
    return result


def changes_with_present_names(changes: Mapping[str, Any], settings: Settings, source: str) -> dict[str, Any]:
    """Return ``changes`` to ``settings``, by dotted names, under the names that settings have now.

    What has become a parameter is put into ``control.parameters``, which keeps all its other values. Raises
    `ConfigError`.
    """
    if not changes.keys() & FORMER_PARAMETERS.keys():
        return dict(changes)
    values: dict[str, Given] = {_PARAMETERS: (settings.control.parameters, "settings")}
    values |= {key: (value, source) for key, value in changes.items()}
    return {key: value for key, (value, _) in with_present_names(values, dict.fromkeys(changes, 1)).items()}


def _checked_parameter(key: str, value: object, source: str) -> float:
    field = find_field(key)
    try:
        return TypeAdapter(Annotated[float, *field.metadata]).validate_python(value)
    except ValidationError:
        raise ConfigError(key, value, f"expected {allowed(field)}", source) from None
