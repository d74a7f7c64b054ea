"""Errors: one tree, an exit code each, data behind the message, and no secrets in it."""

from __future__ import annotations

import inspect

import pytest

from backpressure import errors
from backpressure.errors import (
    ConfigError,
    MissingExtraError,
    PaceError,
    PlatformError,
    PortTakenError,
    PreconditionFailedError,
    UndeliveredError,
)

EXPORTED = [getattr(errors, name) for name in errors.__all__]


def test_every_error_of_the_module_is_exported_and_belongs_to_one_tree() -> None:
    defined = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    assert set(defined) == set(EXPORTED)
    assert all(issubclass(kind, PaceError) for kind in EXPORTED)


def test_bad_usage_exits_with_2_and_what_could_not_run_with_3_and_a_job_that_lost_messages_with_4() -> None:
    bad_usage = {kind for kind in EXPORTED if kind.exit_code == 2}
    assert bad_usage == {ConfigError, MissingExtraError, PlatformError, PreconditionFailedError}
    assert UndeliveredError.exit_code == 4
    assert all(kind.exit_code == 3 for kind in EXPORTED if kind not in bad_usage | {UndeliveredError})


def test_a_config_error_names_key_value_source_and_what_is_allowed() -> None:
    error = ConfigError("producer.rate", -1, "expected a number > 0", "command line")
    assert str(error) == "producer.rate = -1 (from command line): expected a number > 0"
    assert (error.key, error.value, error.allowed, error.source) == (
        "producer.rate",
        -1,
        "expected a number > 0",
        "command line",
    )


@pytest.mark.parametrize(
    "key", ["broker.password", "api.token", "broker.pasword", "api.tokens", "PACE_API__TOKEN", "RABBITMQ_PASS"]
)
def test_a_value_that_may_be_a_secret_is_not_shown(key: str) -> None:
    error = ConfigError(key, "hunter2", "unknown setting")
    assert "hunter2" not in str(error)
    assert error.value == "***"


@pytest.mark.parametrize("key", ["phases", "queue.passive", "control.setpoint"])
def test_a_name_that_merely_looks_like_one_hides_nothing(key: str) -> None:
    assert "[1, 2]" in str(ConfigError(key, [1, 2], "unknown setting"))


@pytest.mark.parametrize("url", ["http://guest:hunter2@host/", "amqp://guest:hunter2/@@host:1/v", "//x:hunter2@h"])
def test_a_url_is_shown_without_user_and_password(url: str) -> None:
    error = ConfigError("broker.url", url, "expected amqp://")
    assert "hunter2" not in str(error)
    assert "guest" not in str(error)


def test_a_taken_port_names_the_flag_that_chooses_another() -> None:
    assert str(PortTakenError("127.0.0.1", 5000, "--api-port")) == (
        "port 5000 on 127.0.0.1 is taken: choose another one with --api-port (0 picks a free one)"
    )


def test_a_queue_with_other_arguments_names_the_argument_and_numbers_the_advice() -> None:
    error = PreconditionFailedError("work.queue", "x-max-length", "inequivalent arg")
    assert str(error) == "'work.queue' already exists with another x-max-length: inequivalent arg"
    text = str(error.advised([("to use it as it is", "--lazy"), ("to use another", "--queue q")]))
    assert text.splitlines()[1:] == ["  1. to use it as it is: --lazy", "  2. to use another: --queue q"]
