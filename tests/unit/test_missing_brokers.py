"""Tests of a missing broker are skipped and the end of the run names it; if the broker is required, they fail."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS_OF_A_BROKER = """
import pytest

@pytest.fixture
def node(go_without):
    go_without("rabbitmq", "rabbitmq-server is not installed")

def test_one(node): pass
def test_two(node): pass
def test_three(): pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A small suite under this project's conftest.py."""
    for variable in ("PACE_REQUIRE_BROKERS", "PACE_REQUIRE_TOOLS"):
        monkeypatch.delenv(variable, raising=False)
    pytester.makeconftest((Path(__file__).parents[1] / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(TESTS_OF_A_BROKER)
    return pytester


def test_without_the_broker_its_tests_are_skipped_and_the_run_says_so(suite: pytest.Pytester) -> None:
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=1, skipped=2)
    assert result.outlines[-2] == "no rabbitmq on this machine (rabbitmq-server is not installed): 2 tests skipped"
    assert "1 passed, 2 skipped" in result.outlines[-1]


def test_a_required_broker_that_is_missing_fails_its_tests(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACE_REQUIRE_BROKERS", "kafka, rabbitmq")
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*rabbitmq-server is not installed, and PACE_REQUIRE_BROKERS asks for it*"])


def test_a_misspelled_requirement_does_not_pass_silently(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACE_REQUIRE_BROKERS", "rabitmq")
    result = suite.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unknown ?'rabitmq'?; there are ?'kafka', 'rabbitmq'?*"])
