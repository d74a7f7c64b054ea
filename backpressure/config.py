"""Where settings come from: ``config.py``, the environment and flags, put together and checked once.

Rising strength: the defaults in `settings`, the config file, ``RABBITMQ_HOST/PORT/USER/PASS`` and ``LOG_LEVEL``,
``PACE_SECTION__KEY``, command-line flags. A ``.env`` file counts as environment that the real one overrides. Every
value remembers its source, so that an error can say what to change where.
"""

from __future__ import annotations

import difflib
import json
import os
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from backpressure.errors import ConfigError
from backpressure.settings import Section, Settings

__all__ = ["NESTED", "PREFIX", "allowed", "as_environment", "find_field", "load", "render", "replaced"]

PREFIX = "PACE_"
NESTED = "__"

_COMMON_NAMES = {
    "RABBITMQ_HOST": "broker.host",
    "RABBITMQ_PORT": "broker.port",
    "RABBITMQ_USER": "broker.username",
    "RABBITMQ_PASS": "broker.password",
    "LOG_LEVEL": "log.level",
}
_NOT_SETTINGS = {"PACE_CONFIG", "PACE_REQUIRE_BROKERS"}
_HIDDEN = {"process"}  # set by `pace run`, of no use in a config file


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings in force.

    Args:
        flags: dotted keys with their values, e.g. ``{"producer.rate": 500}``; the strongest source.
        config_file: the file to read; None: ``PACE_CONFIG``, else ``config.py`` in this folder if there is one.
        environ: the environment; None: this process's.

    Raises:
        ConfigError: naming key, value, source and what is allowed.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, tuple[Any, str]] = {}
    path = _config_path(config_file, environ)
    if path is not None:
        values |= {key: (value, path.name) for key, value in _from_file(path)}
    variables = {name: value for name, value in dotenv_values(".env").items() if value is not None} | dict(environ)
    for name, key in _COMMON_NAMES.items():
        if variables.get(name):
            values[key] = (variables[name], f"environment, {name}")
    values |= {key: (value, f"environment, {_variable(key)}") for key, value in _from_environment(variables)}
    values |= {key: (value, "command line") for key, value in (flags or {}).items()}
    return _validated(values)


def replaced(settings: Settings, changes: Mapping[str, Any], source: str = "request") -> Settings:
    """Return ``settings`` with the dotted keys of ``changes`` replaced, all or none; raises `ConfigError`."""
    values = {key: (value, "settings") for key, value in _flat(settings)}
    return _validated(values | {key: (value, source) for key, value in changes.items()})


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the ``PACE_…`` variables that give another process exactly these settings."""
    variables = {"PACE_CONFIG": ""}
    defaults = dict(_flat(Settings()))
    for key, value in _flat(settings):
        if value != defaults[key]:
            variables[_variable(key)] = _as_text(value)
    return variables


def find_field(key: str, value: object = "", source: str = "") -> FieldInfo:
    """Return the declaration of the setting with the dotted ``key``; raises `ConfigError` with the nearest names.

    ``value`` and ``source`` only complete that error.
    """
    section, _, name = key.partition(".")
    models = _sections()
    if section not in models:
        raise ConfigError(key, value, _unknown(section, models), source)
    fields = models[section].model_fields
    if name not in fields:
        raise ConfigError(key, value, _unknown(name, fields), source)
    return fields[name]


def allowed(field: FieldInfo) -> str:
    """Return in words what a setting may be, e.g. "a number > 0 and ≤ 1000 (msg/s)"."""
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(field.annotation))
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    limits = [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in signs.items()
        if hasattr(rule, name)
    ]
    unit = _unit(field)
    return " and ".join(limits) + (f" ({unit})" if unit and limits else "")


def render() -> str:
    """Return the text of a ``config.py`` with every setting at its default: what `pace init` writes."""
    lines = [
        '"""Every knob of the experiment: value, unit, reason.',
        "",
        "A flag (--rate 500) is stronger than an environment variable (PACE_PRODUCER__RATE=500), which is stronger than",
        "this file. Leave out what you do not change: the defaults fill the gaps. A wrong value is named when you start.",
        '"""',
    ]
    for name, model in _sections().items():
        if name in _HIDDEN:
            continue
        lines += ["", "", f"class {name}:", f'    """{(model.__doc__ or "").strip()}"""', ""]
        for key, field in model.model_fields.items():
            unit = _unit(field)
            reason = f"{unit} · {field.description}" if unit else field.description
            lines.append(f"    {f'{key} = {_literal(field.default)}':<38} # {reason}")
    return "\n".join(lines) + "\n"


def _config_path(config_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    if config_file is None and "PACE_CONFIG" in environ:
        if not environ["PACE_CONFIG"]:
            return None  # explicitly none: children of `pace run` take their settings from the environment alone
        config_file = Path(environ["PACE_CONFIG"])
    if config_file is None:
        here = Path("config.py")
        return here if here.is_file() else None
    if not config_file.is_file():
        raise ConfigError("config", str(config_file), "no such file")
    return config_file


def _from_file(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        content = runpy.run_path(str(path))
    except Exception as error:  # a user's file may raise anything; it must become one clear line
        raise ConfigError("config", str(path), f"cannot be read: {type(error).__name__}: {error}") from error
    models = _sections()
    for name, section in content.items():
        if not isinstance(section, type) or section.__module__ != "<run_path>":
            continue
        if name not in models:
            raise ConfigError(name, "class", _unknown(name, models), path.name)
        for key, value in vars(section).items():
            if not key.startswith("_"):
                yield f"{name}.{key}", value


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of ``PACE_SECTION__KEY``, over variables that include the ``.env`` file."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items()}
        super().__init__(
            Settings, env_prefix=PREFIX, env_nested_delimiter=NESTED, env_parse_none_str="none", case_sensitive=False
        )

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {k: None if v == "none" else v for k, v in self._variables.items()}


def _from_environment(variables: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for name in variables:
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS:
            section, delimiter, key = name[len(PREFIX) :].lower().partition(NESTED)
            if not delimiter or section not in _sections():
                raise ConfigError(name, variables[name], _unknown(section, _sections()), "environment")
            find_field(f"{section}.{key}", variables[name], f"environment, {name}")
    for section, values in _Environment(variables)().items():
        for key, value in values.items():
            yield f"{section}.{key}", value


def _validated(values: Mapping[str, tuple[Any, str]]) -> Settings:
    nested: dict[str, dict[str, Any]] = {}
    for key, (value, source) in values.items():
        section, _, name = key.partition(".")
        if section not in _sections() or not name:
            raise ConfigError(key, value, _unknown(section, _sections()), source)
        nested.setdefault(section, {})[name] = value
    try:
        return Settings(**nested)  # type: ignore[arg-type]  # sections are validated from plain mappings
    except ValidationError as error:
        raise _as_config_error(error, values) from None


def _as_config_error(error: ValidationError, values: Mapping[str, tuple[Any, str]]) -> ConfigError:
    first = error.errors(include_url=False)[0]
    section, *rest = (str(part) for part in first["loc"])
    name = rest[0] if rest else ""
    key = f"{section}.{name}" if name else section
    value, source = values.get(key, (first["input"], ""))
    if isinstance(value, SecretStr) or name in {"password", "token"}:
        value = "***"
    fields = _sections()[section].model_fields
    if first["type"] == "extra_forbidden":
        return ConfigError(key, value, _unknown(name, fields), source)
    problem = first["msg"].removeprefix("Value error, ")
    if name in fields and (range_text := allowed(fields[name])) and first["type"] != "value_error":
        problem = f"{problem[0].lower()}{problem[1:]}; allowed: {range_text}"
    if not name:
        value = {k.split(".")[1]: v for k, (v, _) in values.items() if k.startswith(f"{section}.")}
        value = {k: v for k, v in value.items() if k in problem} or section
    return ConfigError(key, value, problem, source)


def _sections() -> dict[str, type[Section]]:
    return {name: field.annotation for name, field in Settings.model_fields.items() if _is_section(field.annotation)}  # type: ignore[misc]  # narrowed by _is_section


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _flat(settings: Settings) -> Iterator[tuple[str, Any]]:
    for section in _sections():
        for name in _sections()[section].model_fields:
            yield f"{section}.{name}", getattr(getattr(settings, section), name)


def _variable(key: str) -> str:
    return PREFIX + key.replace(".", NESTED).upper()


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return json.dumps(value)
    return "none" if value is None else str(value)


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"unknown setting; {hint}"


def _unit(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["unit"]) if isinstance(extra, dict) else ""


def _literal(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:_}"
    return repr(value)
