"""What all tests share: a run ends by saying which brokers and tools it went without.

What is not on this machine skips its share of the tests, unless ``PACE_REQUIRE_BROKERS`` or ``PACE_REQUIRE_TOOLS``
(comma lists, as the continuous integration sets them) names it: then each of them fails.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Generator
from typing import NoReturn

import pytest

pytest_plugins = ["pytester"]

_OPTIONAL = {
    "PACE_REQUIRE_BROKERS": {"rabbitmq", "kafka"},
    "PACE_REQUIRE_TOOLS": {"prometheus", "chromium", "tk", "tmux"},
}
_MISSING = re.compile(r"no (\w+) on this machine: (.*)")


def pytest_configure() -> None:
    for variable, known in _OPTIONAL.items():
        if unknown := _required(variable) - known:
            raise pytest.UsageError(f"{variable}: unknown {sorted(unknown)}; there are {sorted(known)}")


@pytest.fixture(scope="session", autouse=True)
def state_directory(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """Keep away from the brokers that `pace broker` runs for this user: no program of a test is to find one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def go_without() -> Callable[[str, str], NoReturn]:
    """Return a function (name, what is missing) that skips the test, or fails it where that name is required."""

    def give_up(name: str, missing: str) -> NoReturn:
        text = f"no {name} on this machine: {missing}"
        for variable in _OPTIONAL:
            if name in _required(variable):
                pytest.fail(f"{text}, and {variable} asks for it", pytrace=False)
        pytest.skip(text)

    return give_up


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Name what was missing, and how many tests that skipped, below everything else."""
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
