"""Where settings come from: ``config.py``, the environment and flags, merged and checked once.

In order of precedence, the weakest first: the defaults in `settings`, the config file, ``RABBITMQ_HOST/PORT/USER/PASS``
and ``LOG_LEVEL``, ``PACE_SECTION__KEY``, command-line flags. A ``.env`` file is part of the environment, which overrides
it. The source of each value is kept, so that an error can name it.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import runpy
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from backpressure.catalogue import (
    allowed,
    changes_with_present_names,
    each,
    find_field,
    find_section,
    former_name_notices,
    value_of,
    with_present_names,
)
from backpressure.core.addresses import BrokerAddress
from backpressure.derived import bound_of_strategy
from backpressure.errors import ConfigError
from backpressure.settings import Settings

PREFIX = "PACE_"
NESTED = "__"

_COMMON_NAMES = {
    "RABBITMQ_HOST": "broker.host",
    "RABBITMQ_PORT": "broker.port",
    "RABBITMQ_USER": "broker.username",
    "RABBITMQ_PASS": "broker.password",
    "LOG_LEVEL": "log.level",
}
_NOT_SETTINGS = {"PACE_CONFIG", "PACE_REQUIRE_BROKERS", "PACE_REQUIRE_TOOLS"}

_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://", re.IGNORECASE)
_SERVICE = re.compile(rf"((?:{PREFIX.rstrip('_')}|RABBITMQ)(?:_(?!_)\w+?)?)_(?:SERVICE_HOST|(?P<port>PORT))")
_MEMBER = re.compile(
    r"_(?:SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PORT|PROTO|ADDR))?)?|NAME|ENV_\w+)"
)
log = logging.getLogger(__name__)
_FILE = 0  # the weakest layer of `load`
_BOUND = ("queue.max_length", "queue.overflow")


def dotenv(path: Path) -> dict[str, str]:
    """Return the variables in the file ``path``, none if there is no such file; raises `ConfigError`."""
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError("environment", str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without a byte order mark may be valid UTF-8
        raise ConfigError("environment", str(path), "is not UTF-8 text: save it in that encoding")
    return {name: value for name, value in dotenv_values(stream=io.StringIO(text)).items() if value is not None}


def without_injected(variables: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return ``variables`` without those that an orchestrator injects, and the prefixes of its services.

    Kubernetes and Docker links describe every service to every container in variables named after it. For a service
    called ``rabbitmq`` or ``pace-broker`` these names look like settings. A name with a double underscore is always one
    of our settings.
    """
    services = sorted(
        {
            found[1]
            for name, value in variables.items()
            if (found := _SERVICE.fullmatch(name)) and (found["port"] is None or _ADDRESS.match(value))
        }
    )
    kept = {
        name: value
        for name, value in variables.items()
        if NESTED in name or not any(_is_member(name, value, service) for service in services)
    }
    return kept, services


def _is_member(name: str, value: str, service: str) -> bool:
    if not name.startswith(service) or not _MEMBER.fullmatch(name, len(service)):
        return False
    return name != f"{service}_PORT" or _ADDRESS.match(value) is not None


def from_common_names(variables: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and source of variables whose names other programs use as well."""
    for name, key in _COMMON_NAMES.items():
        if variables.get(name):
            yield key, variables[name], f"environment, {name}"


def from_environment(variables: Mapping[str, str], overridden: Collection[str]) -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and source of each ``PACE_SECTION__KEY`` not ``overridden``; raises `ConfigError`."""
    for name, text in variables.items():
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS:
            key = name[len(PREFIX) :].lower().replace(NESTED, ".", 1)
            source = f"environment, {name}"
            field = find_field(key, text, source)
            if key in overridden:
                continue  # a stronger source has another value: this one may be wrong
            try:
                yield key, _from_text(field, text), source
            except (ValueError, RecursionError) as error:
                raise ConfigError(key, text, f"expected {allowed(field)} as JSON: {error}", source) from None


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the ``PACE_…`` variables that give another process exactly these settings.

    It contains the defaults as well, because they must override the other process's own environment and ``.env``.
    """
    return {"PACE_CONFIG": ""} | {_variable(key): _as_text(value) for key, value in each(settings)}


def _variable(key: str) -> str:
    return PREFIX + key.replace(".", NESTED).upper()


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return json.dumps(value)
    return "none" if value is None else str(value)


def _from_text(field: FieldInfo, text: str) -> Any:
    if text.lower() == "none" and NoneType in get_args(field.annotation):
        return None
    return json.loads(text) if get_origin(field.annotation) is dict else text


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    discover: Callable[[Settings, bool], Mapping[str, Any]] | None = None,
) -> Settings:
    """Return the settings in force.

    Args:
        flags: dotted keys with their values, e.g. ``{"producer.rate": 500}``; the strongest source.
        config_file: the file to read; None: ``PACE_CONFIG``, else ``config.py`` in this folder if there is one.
        environ: the environment; None: this process's.
        discover: called with the settings so far and whether a source names the broker; returns what else to set, by
            dotted key.

    Raises:
        ConfigError: naming key, value, source and what is allowed.
    """
    flags = flags or {}
    variables, _ = without_injected(dotenv(Path(".env")) | dict(os.environ if environ is None else environ))
    layers = (
        _from_file(_config_path(config_file, variables)),
        from_common_names(variables),
        from_environment(variables, flags),
        ((key, value, "command line") for key, value in flags.items()),
    )
    values: dict[str, tuple[Any, str]] = {}
    strength: dict[str, int] = {}
    for rank, layer in enumerate(layers):
        found = {key: (value, source) for key, value, source in layer}
        if found.keys() & {"broker.host", "broker.port"}:
            values.pop("broker.url", None)  # a stronger source's host replaces the URL; within one source the URL wins
        if _names_a_host(found.get("broker.url", ("", ""))[0]):
            values = {key: given for key, given in values.items() if key not in {"broker.host", "broker.port"}}
        values |= found
        strength |= dict.fromkeys(found, rank)
    settings = _validated(with_present_names(values, strength))
    for key in _BOUND if strength.get("producer.strategy") == _FILE else ():
        if strength.get(key) == _FILE and _is_default(settings, key):
            del strength[key]  # `pace init` writes every default into the file: only what differs was chosen there
    settings = _with_bound_of_strategy(settings, strength)
    chosen = strength.get("queue.exchange", _FILE) > _FILE
    if settings.queue.predeclared and not chosen and _is_default(settings, "queue.exchange"):
        settings = replaced(settings, {"queue.exchange": ""}, "queue.predeclared")
    if discover is not None and (changes := discover(settings, _names_broker(settings, strength))):
        settings = replaced(settings, changes, "brokers of this machine")
    for notice in former_name_notices(values):
        log.warning("%s", notice)
    return settings


def _with_bound_of_strategy(settings: Settings, strength: Mapping[str, int]) -> Settings:
    """Return the settings with the bound that goes with the strategy, where nothing as strong states another."""
    strategy = settings.producer.strategy
    if settings.queue.predeclared:
        return settings  # the bound belongs to whoever declared the queue
    bound = {
        key: value
        for key, value in bound_of_strategy(strategy, settings.queue).items()
        if value != value_of(settings, key) and strength.get(key, -1) < strength.get("producer.strategy", -1)
    }
    return replaced(settings, bound, f"the strategy {strategy}") if bound else settings


def replaced(settings: Settings, changes: Mapping[str, Any], source: str = "request") -> Settings:
    """Return ``settings`` with the dotted keys of ``changes`` replaced, all or none; raises `ConfigError`."""
    values = {key: (value, "settings") for key, value in each(settings)}
    changes = changes_with_present_names(changes, settings, source)
    return _validated(values | {key: (value, source) for key, value in changes.items()})


def _is_default(settings: Settings, key: str) -> bool:
    return bool(value_of(settings, key) == find_field(key).default)


def _names_broker(settings: Settings, strength: Mapping[str, int]) -> bool:
    """Return whether a source says where the broker is; a default in a file, as `pace init` writes it, does not."""
    for key in ("broker.host", "broker.port"):
        if strength.get(key, _FILE) > _FILE or not _is_default(settings, key):
            return True
    return bool(settings.broker.url)


def _config_path(config_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    if config_file is None and "PACE_CONFIG" in environ:
        if not environ["PACE_CONFIG"]:
            return None  # explicitly none: children of `pace run` read the environment only
        config_file = Path(environ["PACE_CONFIG"])
    if config_file is None:
        here = Path("config.py")
        return here if here.is_file() else None
    if not config_file.is_file():
        raise ConfigError("config", str(config_file), "no such file")
    return config_file


def _from_file(path: Path | None) -> Iterator[tuple[str, Any, str]]:
    if path is None:
        return
    try:
        content = runpy.run_path(str(path))
    except Exception as error:  # the user's file may raise anything
        raise ConfigError("config", str(path), f"cannot be read: {type(error).__name__}: {error}") from error
    for name, section in content.items():
        if not isinstance(section, type) or section.__module__ != "<run_path>":
            continue
        find_section(name, path.name)
        for key, value in vars(section).items():
            if not key.startswith("_"):
                yield f"{name}.{key}", value, path.name


def _names_a_host(url: object) -> bool:
    """Return whether ``url`` names a host: then host and port of weaker sources, valid or not, do not matter."""
    try:
        return isinstance(url, str) and any(host for host, _ in BrokerAddress.parse(url).servers)
    except ValueError:  # an invalid URL is refused when it is checked
        return False


def _validated(values: Mapping[str, tuple[Any, str]]) -> Settings:
    nested: dict[str, dict[str, Any]] = {}
    for key, (value, source) in values.items():
        find_field(key, value, source)
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        raise _as_config_error(error, values) from None


def _as_config_error(error: ValidationError, values: Mapping[str, tuple[Any, str]]) -> ConfigError:
    given = list(values)

    def order(problem: ErrorDetails) -> int:
        key = ".".join(str(part) for part in problem["loc"][:2])
        return given.index(key) if key in given else len(given)

    first = min(
        error.errors(include_url=False), key=order
    )  # one flag may set several: report the one it is named after
    problem = first["msg"].removeprefix("Value error, ")
    section, *rest = (str(part) for part in first["loc"])
    if not rest:  # settings that contradict each other: name the given ones
        involved = {key: given for key, given in values.items() if key.startswith(f"{section}.")}
        involved = {key: given for key, given in involved.items() if key.partition(".")[2] in problem}
        sources = dict.fromkeys(source for _, source in involved.values())
        return ConfigError(section, {key: value for key, (value, _) in involved.items()}, problem, "; ".join(sources))
    key = f"{section}.{rest[0]}"
    value, source = values[key]
    within = ".".join(rest[1:]) if isinstance(value, dict) else ""  # a table with a wrong entry
    if within:
        problem = f"{within}: {problem[0].lower()}{problem[1:]}"
    elif first["type"] != "value_error":
        problem = f"expected {allowed(find_field(key))}"
    return ConfigError(key, value, problem, source)
