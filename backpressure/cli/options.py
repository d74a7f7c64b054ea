"""Command-line flags that are views of settings: help, type and default come from the setting's declaration.

`setting` makes one; `overrides` collects what the user gave as dotted keys for `backpressure.config.load`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic import SecretStr

from backpressure.config import find_field

__all__ = ["SettingOption", "connection", "overrides", "queue", "setting"]

_PASSWORD = "Its password; better in RABBITMQ_PASS, where no process list shows it"  # noqa: S105 - a help text

Command = TypeVar("Command", bound=Callable[..., Any])
Assign = Callable[[Any], Mapping[str, Any]]


class SettingOption(click.Option):
    """An option that stands for one or more settings; not given (None) it changes nothing."""

    def __init__(self, *args: Any, assign: Assign, **kwargs: Any) -> None:
        """``assign`` maps the given value to dotted keys and values."""
        super().__init__(*args, **kwargs)
        self.assign = assign


class _NumberOr(click.ParamType[Any]):
    """A number, or one word in place of it."""

    name = "number"

    def __init__(self, word: str) -> None:
        self._word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == self._word else click.FLOAT.convert(value, param, ctx)


def setting(
    *declarations: str,
    key: str,
    assign: Assign | None = None,
    help: str | None = None,  # noqa: A002 - click's own name for it
    **attributes: Any,
) -> Callable[[Command], Command]:
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


def connection(command: Command) -> Command:
    """Add ``--host --port --username --password --url --no-wait`` to a command."""
    for decorate in (
        setting(
            "--no-wait",
            key="broker.wait",
            is_flag=True,
            flag_value=True,
            assign=lambda _: {"broker.wait": False},
            help="Fail at once (exit 3) when there is no broker, instead of waiting for one",
        ),
        setting("--url", key="broker.url", help="Broker URL: amqp://user:pass@host:port/vhost, amqps://… or kafka://…"),
        setting("--password", key="broker.password", help=_PASSWORD),
        setting("--username", key="broker.username"),
        setting("--port", key="broker.port"),
        setting("--host", key="broker.host"),
    ):
        command = decorate(command)
    return command


def queue(command: Command) -> Command:
    """Add ``--queue --lazy --durable`` to a command."""
    for decorate in (
        setting("--durable/--no-durable", key="queue.durable"),
        setting(
            "--lazy",
            key="queue.type",
            is_flag=True,
            flag_value="lazy",
            assign=lambda _: {"queue.type": "lazy", "queue.max_length": None},
            help="Keep the queues on disk, without a bound, for large volumes (as RabbitMQ does anyway from 3.12 on)",
        ),
        setting(
            "--queue",
            key="queue.work",
            assign=_queue_names,
            help="Work queue; any other than work.queue gets a routing key and a dead-letter queue of its own",
        ),
    ):
        command = decorate(command)
    return command


def _queue_names(name: str) -> dict[str, Any]:
    key = "work" if name == "work.queue" else name
    return {"queue.work": name, "queue.dead_letter": f"{name}.dlq", "queue.routing_key": key}


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
