"""Standard output, which may lack a character, end early (``| head``) or vanish: no run depends on it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console

from backpressure.dashboards.palette import PALETTE

__all__ = ["accept_any_character", "console", "may_fail", "say"]


def console(**options: Any) -> Console:
    """Return a console in our colours for output that nobody has to read; ``options`` are those of rich's."""
    accept_any_character()
    return _Console(theme=PALETTE, **options)


def say(line: str) -> None:
    """Print ``line``, if there is anybody to read it."""
    accept_any_character()
    with may_fail():
        print(line, flush=True)  # noqa: T201 - this is the output


def accept_any_character() -> None:
    """Show a ? where the terminal's encoding has no ✔ or ●."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


@contextmanager
def may_fail() -> Iterator[None]:
    """Go on when what is printed within cannot be: from then on it goes nowhere, at the end of the process too."""
    try:
        yield
    except OSError:
        _print_nowhere()


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Go on: rich's own would end the process, and with it what is measured."""
        _print_nowhere()


def _print_nowhere() -> None:
    with suppress(OSError, ValueError):  # what has no file descriptor needs none
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
