"""Writes configuration.md and cli.md from the declarations that they describe: ``make docs``.

A test compares them with the code, so the pages are always current.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from backpressure.catalogue import allowed
from backpressure.cli.commands import pace
from backpressure.config import as_environment
from backpressure.settings import Settings

_CONFIGURATION = """\
# Configuration

Every setting has one name, `section.setting`, and can be set in four places. A stronger place overrides a weaker one:

| strength | where | example |
|---|---|---|
| weakest | the defaults below | |
| | `config.py` in this folder (`pace init` writes one), `PACE_CONFIG` or `--config` | `class producer:` `rate = 500` |
| | `RABBITMQ_HOST`, `RABBITMQ_PORT`, `RABBITMQ_USER`, `RABBITMQ_PASS`, `LOG_LEVEL` | `RABBITMQ_HOST=mq.example` |
| | `PACE_SECTION__SETTING` in the environment | `PACE_PRODUCER__RATE=500` |
| strongest | a command-line flag ([cli.md](cli.md)), or `--set` of `pace run` | `--rate 500` |

A `.env` file (UTF-8) in the current folder counts as environment; real environment variables override it. Copy
`.env.example` to start one. In the environment, `none` unsets a setting that may be unset, and a table is written as
JSON. `broker.url` overrides `broker.host` and `broker.port` from the same place and from weaker places, but not from a
stronger one. Variables that Kubernetes and Docker links set to announce services (`RABBITMQ_PORT=tcp://…`,
`PACE_BROKER_SERVICE_HOST`) are not settings: they are ignored, and the log says so.

A bad value stops the program with exit code 2 before anything starts:

    error: producer.rate = '-1' (from environment, PACE_PRODUCER__RATE): expected a number > 0 and ≤ 10000000 (msg/s)

This page is generated from `backpressure/settings.py` by `make docs`.
"""

_CLI = """\
# Commands

This page has the text of `pace --help` and `pace COMMAND --help`. Exit codes:

| code | meaning |
|---|---|
| 0 | success; every expectation was met |
| 1 | an expectation was not met |
| 2 | wrong usage, scenario or configuration |
| 3 | could not run or finish; also an experiment (`pace run`, `compare`, `simulate`) that Ctrl-C interrupted |
| 4 | `pace producer --count` sent all, but messages were returned (no queue is bound for them), or none was taken |
| 130 | any other command that Ctrl-C interrupted |

Programs that run until they are stopped (producer, consumer, proxy, monitor, lab, broker) shut down cleanly, with exit
code 0, on Ctrl-C, SIGTERM and SIGHUP (the terminal was closed; ignored under `nohup`). A second signal ends them at
once. Standard output that is closed or full stops no program. The exceptions are `pace laws`, `pace scenarios`,
`pace doctor` and `pace monitor --once`, whose only result is their output: they end with 3 if the disk is full. The
lines of `pace monitor` and `pace status --every` end with 0 when nobody reads them any more (`| head`). A character
that the terminal cannot show becomes a `?`.

`python fast_producer.py`, `python slow_consumer.py` and `python monitor.py` have the flags of `pace producer`,
`pace consumer` and `pace monitor`. If a flag sets a setting, its name is in brackets;
[configuration.md](configuration.md) describes the other places to set it.

This page is generated from the commands by `make docs`.
"""


def configuration() -> str:
    """Return the page of all settings."""
    defaults = as_environment(Settings())
    parts = [_CONFIGURATION]
    for section, declared in Settings.model_fields.items():
        model = declared.annotation
        assert model is not None
        rows = [
            (_code(name), _code(defaults[f"PACE_{section}__{name}".upper()]), allowed(field), _text(field.description))
            for name, field in model.model_fields.items()
        ]
        parts += [f"\n## {section}\n\n{model.__doc__}\n\n", _table(("setting", "default", "allowed", "why"), rows)]
    return "".join(parts)


def cli() -> str:
    """Return the page of all commands and flags."""
    parts = [_CLI]
    for context in _contexts(click.Context(pace, info_name="pace", **pace.context_settings)):
        command = context.command
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        parts.append(f"\n## {context.command_path}\n\n    {usage}\n\n{inspect.cleandoc(command.help or '')}\n\n")
        records = [parameter.get_help_record(context) for parameter in command.params]
        # A command keeps the option of the context that asked first, which a test may have made.
        records.append((", ".join(context.help_option_names), "Show this message and exit."))
        parts.append(_table(("flag", "meaning"), [(_code(flag), _text(text)) for flag, text in filter(None, records)]))
    return "".join(parts)


def _contexts(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of a command and of every command below it."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None:
                yield from _contexts(click.Context(command, info_name=name, parent=context))


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _text(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("<", "\\<")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ("---",) * len(head), *rows])


def main() -> None:
    """Write both pages."""
    here = Path(__file__).parent
    (here / "configuration.md").write_text(configuration(), encoding="utf-8")
    (here / "cli.md").write_text(cli(), encoding="utf-8")


if __name__ == "__main__":
    main()
