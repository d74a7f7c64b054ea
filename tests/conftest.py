"""What all tests share: a run ends by saying which brokers it went without.

A broker that is not on this machine skips its share of the tests, unless ``PACE_REQUIRE_BROKERS`` (a comma list, as the
continuous integration sets it) names it: then each of them fails.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Generator
from typing import NoReturn

import pytest

pytest_plugins = ["pytester"]

_BROKERS = {"rabbitmq", "kafka"}
_MISSING = re.compile(r"no (\w+) on this machine: (.*)")


def pytest_configure() -> None:
    if unknown := _required() - _BROKERS:
        raise pytest.UsageError(f"PACE_REQUIRE_BROKERS: unknown {sorted(unknown)}; there are {sorted(_BROKERS)}")


@pytest.fixture(scope="session")
def go_without() -> Callable[[str, str], NoReturn]:
    """Return a function (broker, what is missing) that skips the test, or fails it where the broker is required."""

    def give_up(broker: str, missing: str) -> NoReturn:
        text = f"no {broker} on this machine: {missing}"
        if broker in _required():
            pytest.fail(f"{text}, and PACE_REQUIRE_BROKERS asks for it", pytrace=False)
        pytest.skip(text)

    return give_up


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Name the brokers that were missing, and how many tests that skipped, below everything else."""
    yield
    skipped = Counter(
        match.groups()
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple) and (match := _MISSING.search(report.longrepr[2]))
    )
    for (broker, missing), count in sorted(skipped.items()):
        terminalreporter.write_line(f"no {broker} on this machine ({missing}): {count} tests skipped", yellow=True)


def _required() -> set[str]:
    return set(filter(None, os.environ.get("PACE_REQUIRE_BROKERS", "").replace(" ", "").split(",")))
