"""How a command says what it ends with."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import click
import pytest

from backpressure.cli.process import Failure, logging_options, settings_from
from backpressure.errors import BrokerUnavailableError, ConfigError
from backpressure.settings import LogSettings
from backpressure.telemetry import logs


@pytest.fixture(autouse=True)
def _kept_logging() -> Iterator[None]:
    """The logging of the test run is put back afterwards."""
    root, package = logging.getLogger(), logging.getLogger("backpressure")
    kept, level, package_level = root.handlers[:], root.level, package.level
    yield
    root.handlers[:] = kept
    root.setLevel(level)
    package.setLevel(package_level)


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_last_error_comes_in_the_form_of_the_log(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings.model_validate({"format": form}))
    Failure(BrokerUnavailableError("amqp://mq:5672", "connection refused")).show()
    said = capsys.readouterr().err
    text = json.loads(said)["message"] if form == "json" else said.strip().removeprefix("error: ")
    assert text == "no broker at amqp://mq:5672: connection refused"


def test_what_is_wrong_with_the_settings_comes_in_the_form_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    @logging_options
    @click.pass_context
    def program(context: click.Context, **_: object) -> None:
        settings_from(context)

    monkeypatch.setenv("PACE_CONFIG", "")
    monkeypatch.setenv("PACE_PRODUCER__RATE", "fast")
    with pytest.raises(ConfigError) as refused:
        program.main(["--log-format", "json"], standalone_mode=False)
    Failure(refused.value).show()
    assert "producer.rate" in json.loads(capsys.readouterr().err)["message"]
