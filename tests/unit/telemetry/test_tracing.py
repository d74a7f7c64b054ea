"""Tracing is off unless asked for, and then costs not even an import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from backpressure.api.common import public_settings
from backpressure.config import replaced
from backpressure.errors import ConfigError
from backpressure.settings import Settings
from backpressure.telemetry.tracing import tracing


def test_by_default_there_is_no_tracer() -> None:
    with tracing(Settings(), "producer") as tracer:
        assert tracer is None


def test_a_program_without_tracing_does_not_even_load_the_library() -> None:
    code = """
import sys
from backpressure.cli import consumer, producer
from backpressure.settings import Settings
from backpressure.telemetry.tracing import tracing
with tracing(Settings(), "producer"):
    print([name for name in sys.modules if name.partition(".")[0] == "opentelemetry"])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backpressure.telemetry.tracing_otel", None)
    settings = replaced(Settings(), {"tracing.enabled": True})
    with pytest.raises(ConfigError, match=r"tracing\.enabled.*pace-matching\[otel\]"), tracing(settings, "consumer"):
        pass


def test_an_endpoint_that_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tracing\.endpoint.*http://"):
        replaced(Settings(), {"tracing.endpoint": "localhost:4318"})


def test_a_password_in_the_endpoint_is_not_shown() -> None:
    settings = replaced(Settings(), {"tracing.endpoint": "https://me:secret@traces.example:4318"})
    assert public_settings(settings)["tracing"]["endpoint"] == "https://traces.example:4318"
