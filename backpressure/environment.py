"""Settings in the environment: in the process's own variables and in those of a ``.env`` file.

Kubernetes and Docker links describe every service to every container in variables named after it. For a service called
``rabbitmq`` or ``pace-broker`` these names look like settings; `without_injected` recognises and drops them.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from backpressure.catalogue import allowed, each, find_field
from backpressure.errors import ConfigError
from backpressure.settings import Settings

__all__ = ["NESTED", "PREFIX", "as_environment", "dotenv", "from_common_names", "from_environment", "without_injected"]

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

    A name with a double underscore is always one of our settings.
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
