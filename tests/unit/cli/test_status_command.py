"""`pace status` in words and as lines, from what the control APIs answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from backpressure.api.status import ConsumerStatus, ProducerStatus
from backpressure.cli.commands import pace


def example(kind: Any) -> dict[str, Any]:
    """Return the example in the reference of the API."""
    return dict(kind.model_config["json_schema_extra"]["examples"][0])


ANSWERS = {"producer": example(ProducerStatus), "consumer": example(ConsumerStatus)}

CONSUMED = ANSWERS["consumer"]["totals"]


class Api(HTTPServer):
    """Answers `/status` as one of the processes does; wants a token if it is given one."""

    def __init__(self, role: str, token: str = "") -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = not token or self.headers["Authorization"] == f"Bearer {token}"
                self.send_response(200 if allowed else 401)
                self.end_headers()
                self.wfile.write(json.dumps(ANSWERS[role] if allowed else {}).encode())

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def end(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that runs `pace status` beside the given processes."""
    apis: list[Api] = []

    def run(*arguments: str, token: str = "", wanted: str = "", **roles: str) -> Any:
        for name in ("producer", "consumer"):
            api = Api(roles.get(name, name), wanted)
            apis.append(api)
            monkeypatch.setenv(f"PACE_API__{name.upper()}_PORT", str(api.server_port))
        monkeypatch.setenv("PACE_CONFIG", "")
        monkeypatch.setenv("PACE_API__TOKEN", token)
        return CliRunner().invoke(pace, ["status", *arguments])

    yield run
    for api in apis:
        api.end()


def test_both_are_described_in_words(ask: Any) -> None:
    said = ask()
    assert said.exit_code == 0
    assert said.output.splitlines() == [
        "producer alice is running (pid 4711), pace: holding 12 messages",
        "  queue    work.queue: size 12, ready 8, bound 10000, memory 0 MB",
        "  rates    offered 1000/s, allowed 101.3/s, bottleneck 100.2/s",
        "  messages offered 4000, published 420, confirmed 418, nacked 0, rejected 0, returned 0, republished 0",
        "consumer consumer-4711 is running (pid 4711), holds 3 of 4",
        "  rates    can do 100/s",
        "  wait     p50 22 ms, p99 64 ms; in the last 10 s p50 22 ms, p99 64 ms",
        "  messages " + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in CONSUMED.items()),
    ]


def test_lines_come_as_often_as_asked(ask: Any) -> None:
    head, *lines = ask("--every", "0.05", "--count", "2").output.splitlines()
    assert head.split() == [
        *(
            "time",
            "state",
            "size",
            "ready",
            "memory",
            "offered",
            "allowed",
            "refused",
            "|",
            "done",
            "wait",
            "p99",
            "law",
        ),
    ]
    told = "running 12 8 0 MB 1000/s 101.3/s 0 | 400 64 ms pace: holding 12 messages"
    assert [" ".join(line.split()[1:]) for line in lines] == [told, told]


def test_a_process_id_and_everything_as_json(ask: Any) -> None:
    assert ask("consumer", "--pid").output == "4711\n"
    assert json.loads(ask("producer", "--json").output) == ANSWERS["producer"]
    assert "--pid needs a ROLE" in ask("--pid").output


def test_who_does_not_answer_is_named_with_the_reason(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ask("consumer", consumer="producer")
    assert said.exit_code == 3
    assert "no consumer answers at" in said.output
    assert "a producer does" in said.output
    assert "another token (PACE_API__TOKEN)" in ask("producer", wanted="right", token="wrong").output
    assert ask("producer", "--pid", wanted="right", token="right").output == "4711\n"
    monkeypatch.setenv("PACE_API__PRODUCER_PORT", "1")
    alone = CliRunner().invoke(pace, ["status", "producer"])
    assert (alone.exit_code, "no producer answers at" in alone.output) == (3, True)
