"""What the environment says: the process's own variables and those of a ``.env`` file, less what is not meant for us.

Kubernetes and Docker links announce every service to every container in variables named after it. A service called
``rabbitmq`` or ``pace-broker`` so sets names that look like settings; `without_injected` recognises and drops them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from backpressure.errors import ConfigError

__all__ = ["NESTED", "PREFIX", "dotenv", "without_injected"]

PREFIX = "PACE_"
NESTED = "__"

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
    if "\0" in text:  # UTF-16 without a mark may well be valid UTF-8
        raise ConfigError("environment", str(path), "is not UTF-8 text: save it in that encoding")
    return {name: value for name, value in dotenv_values(stream=io.StringIO(text)).items() if value is not None}


def without_injected(variables: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return ``variables`` without what an orchestrator injects for its services, and the prefixes of these services.

    A name with two underscores in a row is a setting of ours, whatever follows.
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
