"""The three OpenAPI documents, tested on the real programs with thousands of generated requests, valid and invalid.

Every check of schemathesis is on: no server error, only documented codes and content types, answers as their schemas
say, bad data refused, good data accepted, nothing without the token. It runs as a program of its own: its report is
what a failure shows, and its pytest plugin (switched off in pyproject.toml) costs no other test anything.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))
PACE = str(Path(sys.executable).with_name("pace"))
PROGRAMS = {
    "producer": ("fast_producer.py",),
    "consumer": ("slow_consumer.py",),
    "lab": (PACE, "lab"),
}
# Which values fit together is more than a schema can say: these may refuse what it allows.
HAVE_RULES = {"producer": ("/produce", "/batch-produce", "/admin/config"), "consumer": ("/admin/config",), "lab": ()}
SETTINGS = {
    "PACE_PRODUCER__START_PAUSED": "true",
    "PACE_LAB__MAX_WORKERS": "1",
    "PACE_LAB__SECONDS_PER_COMPLEXITY": "0.001",
}
_TIMEOUT_S = 600

Hold = Callable[..., None]


def configuration(*, rules: Iterable[str], away: Iterable[str]) -> str:
    """Return what schemathesis is told: ``rules`` are paths that may refuse, ``away`` those without a broker."""
    lines = ["[phases.stateful]", "enabled = false"]
    for path in rules:
        refusable = '["2xx", 401, 403, 404, 409, 422, 429, "5xx"]'
        lines += ["[[operations]]", f"include-path = {path!r}"]
        lines += [f"checks.positive_data_acceptance.expected-statuses = {refusable}"]
    for pattern in away:
        lines += ["[[operations]]", f"include-path-regex = {pattern!r}"]
        lines += ['checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503]']
    return "\n".join(lines)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port that is taken, so that nobody else gets it, and on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


@pytest.fixture
def hold(start: Any, free_port: int, tmp_path: Path, environment: dict[str, str]) -> Hold:
    """Return a function that starts a program and holds it against its document."""

    def run(name: str, url: str, *flags: str, away: Iterable[str] = (), **settings: str) -> None:
        program, *rest = PROGRAMS[name]
        start(program, *rest, "--url", url, "--api-port", str(free_port), **SETTINGS | settings)
        config = tmp_path / "schemathesis.toml"
        config.write_text(configuration(rules=HAVE_RULES[name], away=away), encoding="utf-8")
        command = [SCHEMATHESIS, "--config-file", str(config), "run", f"http://127.0.0.1:{free_port}/openapi.json"]
        options = ["--checks", "all", "--wait-for-schema", "120", "--seed", "1", "--no-color"]
        patience = ["--request-timeout", "120", "--max-response-time", "120"]  # how fast is not this test's business
        done = subprocess.run(
            [*command, *options, *patience, *flags],
            cwd=tmp_path, env=environment, timeout=_TIMEOUT_S, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("examples", [10, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(_TIMEOUT_S)])])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_does_what_its_document_says_and_nothing_without_the_token(
    hold: Hold, broker: Any, name: str, examples: int
) -> None:
    token = ("--header", "Authorization: Bearer sesame")
    hold(name, broker.url, *token, "-n", str(examples), away=["^/kafka/"], PACE_API__TOKEN="sesame")


@pytest.mark.parametrize("name", PROGRAMS)
def test_without_a_broker_the_document_stays_true(hold: Hold, closed_port: int, name: str) -> None:
    hold(name, f"amqp://guest:guest@127.0.0.1:{closed_port}/", "--phases", "examples,coverage", away=[".*"])
