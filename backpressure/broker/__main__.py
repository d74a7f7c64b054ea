"""``python -m backpressure.broker``: the embedded broker in a process of its own.

It imports as little as possible, because every experiment waits for it to start. ``pace broker`` has the same options.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from backpressure import program

if TYPE_CHECKING:
    from argparse import ArgumentParser


def main(arguments: list[str] | None = None) -> int:
    """Parse the options, serve until a signal, and return the exit code."""
    from backpressure.broker.command_line import configuration  # noqa: PLC0415 - Ctrl-C meanwhile shows no traceback
    from backpressure.broker.server import serve  # noqa: PLC0415
    from backpressure.errors import PaceError  # noqa: PLC0415

    given = vars(_parser().parse_args(arguments))
    announce = given.pop("announce")
    try:
        config = configuration(**given)
        with program.interruptible():
            program.run(serve(config, announce=announce))
    except KeyboardInterrupt:  # it was not listening yet
        return program.INTERRUPTED
    except PaceError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _parser() -> ArgumentParser:
    from argparse import ArgumentParser  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from backpressure.broker.command_line import OPTIONS  # noqa: PLC0415

    kinds: dict[str, Any] = {
        "text": str, "port": _within(int, 65_535), "count": _within(int, 10**9, 1), "megabytes": _within(float, 10**9),
        "file": Path, "folder": Path,
    }  # fmt: skip
    parser = ArgumentParser(prog="python -m backpressure.broker", description=__doc__)
    for option in OPTIONS:
        text = option.help.replace("%", "%%") + (f" (default: {option.default})" if option.default else "")
        how: dict[str, Any] = {"action": "store_true"}
        if option.kind != "switch":
            action, default = ("append", []) if option.repeatable else ("store", option.default)
            how = {
                "action": action, "default": default, "type": kinds[option.kind],
                "metavar": option.metavar or option.kind.upper(),
            }  # fmt: skip
        parser.add_argument(option.flag, dest=option.value_name, help=text, **how)
    return parser


def _within(number_type: type[int | float], most: int, least: int = 0) -> Any:
    """Return what reads a number within these limits."""
    from argparse import ArgumentTypeError  # noqa: PLC0415

    def read(text: str) -> float:
        try:
            number = number_type(text)
        except ValueError:
            number = -1
        if not least <= number <= most:
            raise ArgumentTypeError(f"expected {least} to {most}, not {text!r}")
        return number

    return read


if __name__ == "__main__":
    program.prepare(program.INTERRUPTED)
    sys.exit(main())
