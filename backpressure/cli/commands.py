"""``pace``: the group of all commands, each imported only when it is used, and what happens when one ends."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

import click

from backpressure import program
from backpressure.errors import MissingExtraError, PaceError
from backpressure.extras import lacks, require
from backpressure.version import __version__

log = logging.getLogger(__name__)

_COMMANDS = {
    "run": ("run:run", "Run a scenario with real processes, judge it and write a report."),
    "agent": ("agent:agent", "Give this machine to runs that are started elsewhere."),
    "ui": ("ui:ui", "Drive runs from a page: start, watch, disturb, stop, compare."),
    "scenarios": ("shipped:scenarios", "List the scenarios that ship, or print one."),
    "report": ("report:report", "Analyse a recorded run again, or show two side by side."),
    "history": ("report:history", "List the runs of a folder, and say what broke them."),
    "compare": ("compare:compare", "Rank the control laws on one scenario."),
    "find-rate": ("find_rate:find_rate", "Find the highest offered load at which all expectations hold."),
    "simulate": ("simulate:simulate", "Run a scenario in virtual time, without a broker."),
    "producer": ("producer:producer", "Send messages at the pace the consumer can take."),
    "consumer": ("consumer:consumer", "Work on messages at a steady rate."),
    "status": ("process_status:status", "Say how the producer and the consumer on this machine are."),
    "proxy": ("proxy:proxy", "Pace any AMQP client, unchanged, to the consumers of its queues."),
    "monitor": ("monitor:monitor", "Watch queues, rates, waits and back-pressure."),
    "broker": ("broker:broker", "Run the embedded AMQP broker, or a private RabbitMQ or Kafka."),
    "lab": ("lab:lab", "Serve a page and an HTTP API to try queues with."),
    "classroom": ("classroom:classroom", "Serve a page that simulates the loop, without a broker."),
    "init": ("shipped:init", "Write a config.py with every setting at its default."),
    "laws": ("shipped:laws", "List the rate-control laws, or describe some of them."),
    "cleanup": ("cleanup:cleanup", "Delete queues and exchanges that are left over."),
    "doctor": ("doctor:doctor", "Check this machine, the broker and the permissions on it."),
    "check": ("check:check", "Test a running stack, from health to delivery."),
}
"""Command name → module of this package and attribute, and its summary in `pace --help`, in this order."""

_HIDDEN = {"lab-worker": ("lab:worker", "")}
"""The same for commands that only other commands start."""

_CORE = {"producer", "consumer", "status", "proxy", "broker", "init", "laws", "cleanup"}
_BENCH = (_COMMANDS | _HIDDEN).keys() - _CORE
"""Commands that need the extra `bench`: runner, reports, dashboards, HTTP."""


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""How all programs show their help."""


class Failure(click.ClickException):
    """Shows a `PaceError` on the terminal: one message, its exit code, no traceback."""

    def __init__(self, error: PaceError) -> None:
        """``error`` has the exit code."""
        super().__init__(program.printable_lines(str(error)))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click declares it on the class; ours differ

    def show(self, file: Any = None) -> None:
        """Print it to standard error, in the format of the log."""
        from backpressure.telemetry import logs

        if logs.for_machines():
            log.error("%s", self.message)
            return
        click.secho(f"error: {self.message}", fg="red", err=True, file=file)


class PaceGroup(click.Group):
    """A group whose commands end without a traceback: a `PaceError` with its message, Ctrl-C silently."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` name. Once it is imported, Ctrl-C lets it clean up."""
        found = super().resolve_command(ctx, args)
        ctx.with_resource(program.interruptible())
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PaceError as error:
            raise Failure(error) from error
        except OSError as error:
            if error.filename is None:
                raise
            raise Failure(PaceError(f"{error.filename}: {error.strerror}")) from error
        except KeyboardInterrupt:
            raise SystemExit(program.interrupted_code()) from None
        except click.Abort as abort:  # a question was answered with Ctrl-C, or not at all
            if isinstance(abort.__context__, KeyboardInterrupt):
                raise SystemExit(program.interrupted_code()) from None
            raise


class _LazyGroup(PaceGroup):
    """Imports the module of a command when the command is used: `pace --help` imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click passes it
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click passes it
        return load(cmd_name) if cmd_name in _COMMANDS | _HIDDEN else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - see above
        beyond = _BENCH if lacks("bench") else set()
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items() if name not in beyond])
        if beyond:
            with formatter.section(f"Commands of the extra bench ({MissingExtraError('bench', '').remedy})"):
                formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items() if name in beyond])


def load(name: str) -> click.Command:
    """Import the command ``name`` and return it; without the extra it needs, one that says so."""
    if name in _BENCH and lacks("bench"):
        return _without_extra(name)
    where, _ = (_COMMANDS | _HIDDEN)[name]
    module, _, attribute = where.partition(":")
    command: click.Command = getattr(import_module(f"backpressure.cli.{module}"), attribute)
    return command


def _without_extra(name: str) -> click.Command:
    def say_so(_arguments: tuple[str, ...]) -> None:
        require("bench", f"pace {name}")

    anything = click.Argument(["_arguments"], nargs=-1, type=click.UNPROCESSED)
    allowing = {"ignore_unknown_options": True}
    return click.Command(name, params=[anything], callback=say_so, add_help_option=False, context_settings=allowing)


@click.group(cls=_LazyGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="pace")
def pace() -> None:
    """Match the pace of a fast producer to a slow consumer: run it, see it, measure it, prove it.

    Start with `pace run`: a minute of normal operation, a stopped consumer and its recovery, with a verdict and a
    report at the end. No broker is needed.
    """
