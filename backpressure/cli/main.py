"""Where every program begins: ``pace``, ``python -m backpressure`` and the three scripts.

It imports nothing at module level: a program takes up to half a second to load, and Ctrl-C must show no traceback then.
"""

import os
import sys

_EXPERIMENTS = {"run", "compare", "simulate"}  # an interrupted experiment has failed
_FAILED = 3  # "could not run or finish"
_INTERRUPTED = 130
_MISUSED = 2
_CORE = {"click", "dotenv", "h11", "pamqp", "pika", "prometheus_client", "psutil", "pydantic", "pydantic_core"}


def main() -> None:
    """Run the command given by the arguments, and exit."""
    try:
        from backpressure import program

        if _EXPERIMENTS.intersection(sys.argv[1:2]):
            program.prepare(_FAILED, "error: interrupted before anything had begun\n")
        else:
            program.prepare(_INTERRUPTED)
        from backpressure.cli.commands import pace

        pace()
    except ModuleNotFoundError as error:
        _end_if_not_installed(error)
        raise
    except KeyboardInterrupt:
        sys.exit(_FAILED if _EXPERIMENTS.intersection(sys.argv[1:2]) else _INTERRUPTED)


def run_script(name: str, script: str) -> None:
    """Run the command ``name`` as the program ``script``, with the ``config.py`` beside it, and exit."""
    try:
        from backpressure import program

        program.prepare(_INTERRUPTED)
        from backpressure.cli.commands import CONTEXT, PaceGroup, load

        beside = os.path.join(os.path.dirname(script), "config.py")  # noqa: PTH118, PTH120 - a script need not
        if os.path.isfile(beside):  # noqa: PTH113 - load pathlib for this
            os.environ.setdefault("PACE_CONFIG", beside)
        title = os.path.basename(script)  # noqa: PTH119
        PaceGroup(commands={title: load(name)}, context_settings=CONTEXT).main(
            [title, *sys.argv[1:]], prog_name="python"
        )
    except ModuleNotFoundError as error:
        _end_if_not_installed(error)
        raise
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _end_if_not_installed(error: ModuleNotFoundError) -> None:
    """Exit with one line if a library of the core is missing, as where a script runs outside its environment."""
    package, _, _ = (error.name or "").partition(".")
    if package in _CORE:
        sys.stderr.write(
            f"error: {package} is not installed for {sys.executable}: run `make install`, then use .venv/bin/python\n"
        )
        sys.exit(_MISUSED)
