"""The options of all commands.

Most are views of settings: help text, type and default come from the setting's declaration. `setting` declares one,
`switch` one that takes no value, and `overrides` collects what the user gave as dotted keys for
`backpressure.config.load`. Options that several commands share are decorators here; others are in their commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args, get_origin

import click
from pydantic import SecretStr

from backpressure.catalogue import find_field

Command = TypeVar("Command", bound=Callable[..., Any])
Assign = Callable[[Any], Mapping[str, Any]]


class _Decorator(Protocol):
    """Adds an option to a command."""

    def __call__(self, command: Command, /) -> Command: ...


class SettingOption(click.Option):
    """An option that stands for one or more settings; if not given (None), it changes nothing."""

    def __init__(self, *args: Any, assign: Assign, **kwargs: Any) -> None:
        """``assign`` maps the given value to dotted keys and values."""
        super().__init__(*args, **kwargs)
        self.assign = assign


class _NumberOr(click.ParamType[Any]):
    """A number, or one word instead."""

    name = "number"

    def __init__(self, word: str) -> None:
        self._word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == self._word else click.FLOAT.convert(value, param, ctx)


class FiniteRange(click.FloatRange):
    """A finite number within limits; click's own range accepts nan."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; raises `click.BadParameter`."""
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def setting(
    *declarations: str,
    key: str,
    assign: Assign | None = None,
    help: str | None = None,  # noqa: A002 - click's own name for it
    **attributes: Any,
) -> _Decorator:
    """Return a decorator that adds an option for the setting ``key``.

    Args:
        declarations: as click takes them, e.g. ``"--rate"`` or ``"--wait/--no-wait"``.
        key: dotted name of the setting that gives help text, type and default.
        assign: what the value sets, when it is more than (or not simply) ``key``.
        help: another help text than the setting's reason.
        attributes: passed on to click.
    """
    field = find_field(key)
    is_switch = isinstance(field.default, bool) or attributes.get("is_flag")
    if not is_switch:
        extra = field.json_schema_extra
        word = str(extra.get("word", "")) if isinstance(extra, dict) else ""
        attributes.setdefault("type", _NumberOr(word) if word else _type(field.annotation))
        if not isinstance(attributes["type"], click.Choice):  # click shows the choices themselves
            attributes.setdefault("metavar", _metavar(declarations[0]))
    attributes["help"] = f"{help or _capitalised(field.description)}  [{key}{_default(field.default)}]"
    return click.option(
        *declarations, cls=SettingOption, default=None, assign=assign or (lambda value: {key: value}), **attributes
    )


def overrides(context: click.Context) -> dict[str, Any]:
    """Return the dotted keys of every `SettingOption` that was given on the command line."""
    result: dict[str, Any] = {}
    for parameter in context.command.params:
        if isinstance(parameter, SettingOption):
            value = context.params.get(parameter.name or "")
            if value is not None:
                result |= parameter.assign(value)
    return result


def switch(flag: str, changes: Mapping[str, Any], help: str | None = None) -> _Decorator:  # noqa: A002 - as above
    """Return a decorator that adds an option without a value; given, it makes the ``changes`` (by dotted key)."""
    key = next(iter(changes))
    return setting(flag, key=key, assign=lambda _: changes, help=help, is_flag=True, flag_value=True)


def _together(*options: _Decorator) -> _Decorator:
    """Return a decorator that adds several options, which the help lists in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _type(annotation: Any) -> click.ParamType[Any]:
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    arguments = get_args(annotation) or (annotation,)
    if str in arguments or SecretStr in arguments:
        return click.STRING
    if float in arguments:
        return click.FLOAT
    return click.INT if int in arguments else click.STRING


def _metavar(declaration: str) -> str:
    return declaration.lstrip("-").rsplit("-", 1)[-1].upper()


def _default(value: object) -> str:
    if isinstance(value, SecretStr) or value in ("", None):
        return ""
    return f"; default {value}"


def _capitalised(text: str | None) -> str:
    text = text or ""
    return text[:1].upper() + text[1:]


# -- where the broker is -----------------------------------------------------------------------------------------------

url = setting("--url", key="broker.url", help="Broker URL: amqp://user:pass@host:port/vhost, amqps://… or kafka://…")

login = _together(
    setting("--username", key="broker.username"),
    setting(
        "--password",
        key="broker.password",
        help="Password of the user; better in RABBITMQ_PASS, where no process list shows it",
    ),
)

no_wait = switch(
    "--no-wait", {"broker.wait": False}, "Fail at once (exit 3) when there is no broker, instead of waiting for one"
)

connection = _together(setting("--host", key="broker.host"), setting("--port", key="broker.port"), login, url, no_wait)

management_url = setting("--management-url", key="broker.management_url")

# -- what a program does ----------------------------------------------------------------------------------------------


def _queue_names(name: str) -> dict[str, Any]:
    key = "work" if name == "work.queue" else name
    return {"queue.work": name, "queue.dead_letter": f"{name}.dlq", "queue.routing_key": key}


queue = _together(
    setting(
        "--queue",
        key="queue.work",
        assign=_queue_names,
        help="Work queue; any other than work.queue gets a routing key and a dead-letter queue of its own",
    ),
    switch(
        "--lazy",
        {"queue.type": "lazy", "queue.max_length": None},
        "Keep the queues on disk, without a bound, for large volumes (as RabbitMQ does anyway from 3.12 on)",
    ),
    setting("--durable/--no-durable", key="queue.durable"),
    switch(
        "--predeclared",
        {"queue.predeclared": True},
        "Use a queue that somebody else has declared as it is: declare, bind and limit nothing",
    ),
)

publishing_to = _together(
    setting("--exchange", key="queue.exchange", help="Exchange to publish to; with --predeclared the default exchange"),
    setting("--routing-key", key="queue.routing_key", help="Routing key to publish with"),
)


def control_api(port_key: str) -> _Decorator:
    """Return a decorator that adds ``--api-port``, for the setting ``port_key``, and ``--no-api``."""
    return _together(
        setting("--api-port", key=port_key, help="Port of the control API; 0: any free one"),
        switch("--no-api", {"api.enabled": False}, "Serve no control API"),
    )


logs = _together(
    click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Settings file  [default: $PACE_CONFIG, else config.py in this folder]",
    ),
    setting("--log-level", key="log.level"),
    setting("--log-format", key="log.format"),
)

# -- experiments -------------------------------------------------------------------------------------------------------

broker_choice = click.option(
    "--broker",
    default="embedded",
    show_default=True,
    help="embedded, rabbitmq, kafka (private ones), rabbitmq:3, kafka:3 (clusters) or a URL.",
)

runs_folder = click.option(
    "--runs",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the folder with the results is made.",
)

assignments = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override, e.g. producer.rate=500 (repeatable)."
)

strategy = click.option(
    "--strategy",
    default="",
    metavar="LAW",
    help="Rate-control law: one of `pace laws`, or package.module:Class of your own.",
)

quiet = click.option("--quiet", is_flag=True, help="Print nothing but the verdict.")
