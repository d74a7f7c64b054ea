"""Common to all tests: missing brokers and tools skip tests, and the summary of the run names them.

Tests that need what this machine lacks are skipped. They fail instead if ``PACE_REQUIRE_BROKERS`` or
``PACE_REQUIRE_TOOLS`` names it (comma-separated lists, as the continuous integration sets them).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Generator
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester"]

# A busy machine must not fail a test: examples have no time limit.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_OPTIONAL = {
    "PACE_REQUIRE_BROKERS": {"rabbitmq", "kafka"},
    "PACE_REQUIRE_TOOLS": {"prometheus", "chromium", "axe", "tk", "tmux", "go", "java", "node", "perftest"},
}
_MISSING = re.compile(r"no (\w+) on this machine: (.*)")


def pytest_configure() -> None:
    for variable, known in _OPTIONAL.items():
        if unknown := _required(variable) - known:
            raise pytest.UsageError(f"{variable}: unknown {sorted(unknown)}; there are {sorted(known)}")


@pytest.fixture(scope="session", autouse=True)
def state_directory(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """Hide the brokers that `pace broker` runs for this user, so that no program of a test finds one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def go_without() -> Callable[[str, str], NoReturn]:
    """Return a function (name, what is missing) that skips the test, or fails it if that name is required."""

    def give_up(name: str, missing: str) -> NoReturn:
        text = f"no {name} on this machine: {missing}"
        for variable in _OPTIONAL:
            if name in _required(variable):
                pytest.fail(f"{text}, and {variable} asks for it", pytrace=False)
        pytest.skip(text)

    return give_up


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Print last what was missing, and how many tests were skipped for it."""
    yield
    skipped = Counter(
        match.groups()
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple) and (match := _MISSING.search(report.longrepr[2]))
    )
    for (name, missing), count in sorted(skipped.items()):
        terminalreporter.write_line(f"no {name} on this machine ({missing}): {count} tests skipped", yellow=True)


def _required(variable: str) -> set[str]:
    return set(filter(None, os.environ.get(variable, "").replace(" ", "").split(",")))
