"""Who plays producer and consumer in a run: our own processes, programs of the user's, or ones that run already.

A *stranger* is a program that is not ours: a command that the run starts, or an external one, which it only observes.
The tables ``[consumer]`` and ``[producer]`` of a scenario say so, beside the settings of our own processes.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import ValidationError, field_validator

from backpressure.core.addresses import BrokerAddress
from backpressure.errors import ConfigError
from backpressure.knobs import Section, knob
from backpressure.settings import QueueSettings

RoleName = Literal["consumer", "producer"]
ROLES: tuple[RoleName, ...] = ("consumer", "producer")

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_NAMES = (
    "url",
    "host",
    "port",
    "username",
    "password",
    "virtual_host",
    "exchange",
    "routing_key",
    "queue",
    "dead_letter",
    "name",
    "index",
    "run",
)
_VARIABLES = ("url", "queue", "name", "index")
_MEANT_FOR_OURS = {
    "consumer": {"count", "rate", "distribution", "processing_min_ms", "processing_max_ms"},
    "producer": {"count", "rate"},
}
"""The settings that mean something for a stranger: how many there are, and what each can do or offers, if known."""


class RoleSettings(Section):
    """Which program plays a role, where it is not our own."""

    command: str = knob(
        "", "", "program and arguments to start for each, without a shell; {url} and others are filled in"
    )
    environment: dict[str, str] = knob({}, "", "more environment variables of the command; filled in as well")
    external: bool = knob(False, "", "it runs already: it is observed, never started or stopped")
    on: Literal["here", "agents"] = knob(
        "here", "", "where the processes run: on this machine, or on those of `pace agent`"
    )
    ready_s: float = knob(
        30.0,
        "s",
        "a consumer is ready once it consumes the queue, within this time at the latest; 0: do not wait",
        ge=0,
    )
    stop_s: float = knob(15.0, "s", "time to end after SIGTERM; then SIGKILL", gt=0, le=3600)
    on_exit: Literal["fail", "restart"] = knob(
        "fail", "", "a command that ends although nobody stopped it: the run fails, or it is started again"
    )

    @field_validator("command")
    @classmethod
    def _can_be_split(cls, text: str) -> str:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"the quotes do not match ({error})") from None
        if text and not words:
            raise ValueError("expected a program, with its arguments")
        for word in words:
            _refuse_unknown(word)
        return text

    @field_validator("environment", mode="before")
    @classmethod
    def _as_text(cls, variables: object) -> object:
        if not isinstance(variables, dict):
            return variables
        return {name: str(value) if type(value) in {int, float} else value for name, value in variables.items()}

    @field_validator("environment")
    @classmethod
    def _is_known(cls, variables: dict[str, str]) -> dict[str, str]:
        for text in variables.values():
            _refuse_unknown(text)
        return variables

    @property
    def is_stranger(self) -> bool:
        """Whether the program is not one of ours."""
        return bool(self.command) or self.external

    def words(self) -> list[str]:
        """Return program and arguments, placeholders included."""
        return shlex.split(self.command)

    def check_program(self, key: str) -> None:
        """Raise `ConfigError` when the command's program is not there, before anything is started."""
        program, *_ = self.words()
        if _PLACEHOLDER.search(program) or shutil.which(program) is not None:
            return
        if Path(program).exists():
            reason = "it cannot be executed: chmod +x, or name its interpreter first, as in: python FILE"
        elif os.sep in program:
            reason = "there is no such file (seen from this folder)"
        else:
            reason = "there is no such program on the PATH"
        raise ConfigError(key, program, reason)


ROLE_KEYS = frozenset(RoleSettings.model_fields)


def read_role(role: RoleName, table: Mapping[str, Any], source: str) -> RoleSettings:
    """Return what the table of a scenario says about ``role``; raises `ConfigError`."""
    given = {key: value for key, value in table.items() if key in ROLE_KEYS}
    try:
        settings = RoleSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{role}.{key}", first["input"], f"{message[0].lower()}{message[1:]}", source) from None
    if settings.command and settings.external:
        raise ConfigError(f"{role}.external", True, "a command is started by the run: leave one of the two out", source)
    if not settings.is_stranger:
        needed = f"{role}.command is empty: name a program there" if "command" in given else f"add {role}.command"
        for key, value in given.items():
            if key not in {"command", "external", "on"}:  # empty and false: the role is ours, as without them
                raise ConfigError(f"{role}.{key}", value, f"belongs to a command: {needed}, or leave this out", source)
        return settings
    kind = "command" if settings.command else "external"
    if settings.on == "agents":
        allowed = f"agents start pace's own programs only: leave {role}.{kind} out, or this"
        raise ConfigError(f"{role}.on", settings.on, allowed, source)
    for key, value in table.items():
        if key not in ROLE_KEYS and key not in _MEANT_FOR_OURS[role]:
            allowed = f"with {role}.{kind} the {role} is not our process, so this has no effect: leave it out"
            raise ConfigError(f"{role}.{key}", value, allowed, source)
    return settings


def _refuse_unknown(text: str) -> None:
    for name in _PLACEHOLDER.findall(text):
        if name not in _NAMES:
            raise ValueError(
                f"{{{name}}} cannot be filled in; there are {' '.join(f'{{{known}}}' for known in _NAMES)}"
            )


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """Return ``text`` with its placeholders replaced; other braces stay."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


def placeholders(url: str, queue: QueueSettings, *, name: str, index: int, run: str) -> dict[str, str]:
    """Return what can be filled in. The URL names its virtual host in full: client libraries differ over ``/``."""
    parts = BrokerAddress.parse(url)
    host, port = parts.servers[0]
    path = "/%2F" if parts.scheme.startswith("amqp") and parts.path in {"", "/"} else parts.path
    scheme, rest = url.split("://", 1)
    return {
        "url": f"{scheme}://{rest.partition('/')[0]}{path}",
        "host": host,
        "port": str(port or ""),
        "username": parts.username,
        "password": parts.password,
        "virtual_host": unquote(path[1:]),
        "exchange": queue.exchange,
        "routing_key": queue.key,
        "queue": queue.work,
        "dead_letter": queue.dead_letter,
        "name": name,
        "index": str(index),
        "run": run,
    }


def environment_of(role: RoleSettings, values: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command: that of the user, ``RUN_URL`` and its like, and what the scenario adds."""
    given = {f"RUN_{name.upper()}": values[name] for name in _VARIABLES}
    return {**os.environ, **given, **{key: filled_in(text, values) for key, text in role.environment.items()}}
