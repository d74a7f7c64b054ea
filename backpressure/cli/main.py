"""``pace``: the group of all commands, each loaded only when it is used."""

from __future__ import annotations

from importlib import import_module

import click

from backpressure import __version__
from backpressure.cli.process import PaceGroup

__all__ = ["main"]

_COMMANDS = {
    "run": "run:run",
    "scenarios": "run:scenarios",
    "report": "report:report",
    "compare": "compare:compare",
    "simulate": "simulate:simulate",
    "producer": "producer:producer",
    "consumer": "consumer:consumer",
    "monitor": "monitor:monitor",
    "broker": "broker:broker",
    "lab": "lab:lab",
    "init": "init:init",
    "laws": "laws:laws",
    "cleanup": "cleanup:cleanup",
    "doctor": "doctor:doctor",
    "check": "check:check",
}
"""Command name → module of this package and attribute; help is listed in this order."""

_HIDDEN = {"lab-worker": "lab:worker"}
"""The same for what other commands start."""


class _LazyGroup(PaceGroup):
    """Imports the module of a command when the command is named: `pace --version` need not load an HTTP stack."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click passes it
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click passes it
        target = (_COMMANDS | _HIDDEN).get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(import_module(f"backpressure.cli.{module}"), attribute)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pace")
def main() -> None:
    """Match the pace of a fast producer to a slow consumer: run it, see it, measure it, prove it.

    Start with `pace run`: a minute of normal operation, a stopped consumer and its recovery, with a verdict and a
    report at the end. No broker is needed.
    """
