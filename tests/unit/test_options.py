"""Flags are views of settings: help, type and default come from the declaration, and only given flags count."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from backpressure.cli.commands import pace
from backpressure.cli.options import FiniteRange, connection, overrides, queue, setting
from backpressure.config import load
from backpressure.errors import ConfigError


@click.command()
@connection
@queue
@setting("--rate", key="producer.rate")
@setting("--on-nack", key="producer.on_nack")
@setting("--prefetch", key="consumer.prefetch")
@setting("--purge", key="producer.purge", is_flag=True, flag_value=True)
@click.option("--other", help="no setting", default=1)
@click.pass_context
def command(context: click.Context, **_: Any) -> None:
    """Remember what was given."""
    context.find_root().obj.update(overrides(context))


def given(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    result = CliRunner().invoke(command, arguments, obj=found, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found


def test_no_flag_changes_nothing() -> None:
    assert given() == {}


def test_a_flag_that_is_not_a_setting_is_left_to_the_command() -> None:
    assert given("--other", "5") == {}


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["--rate", "500"], {"producer.rate": 500.0}),
        (["--on-nack", "reject"], {"producer.on_nack": "reject"}),
        (["--prefetch", "auto"], {"consumer.prefetch": "auto"}),
        (["--prefetch", "5"], {"consumer.prefetch": "5"}),
        (["--purge"], {"producer.purge": True}),
        (["--durable"], {"queue.durable": True}),
        (["--no-durable"], {"queue.durable": False}),
        (["--lazy"], {"queue.type": "lazy", "queue.max_length": None}),
        (["--no-wait"], {"broker.wait": False}),
        (["--host", "mq", "--port", "1"], {"broker.host": "mq", "broker.port": 1}),
        (["--url", "amqp://mq/"], {"broker.url": "amqp://mq/"}),
    ],
)
def test_a_flag_sets_what_it_says(arguments: list[str], changes: dict[str, Any]) -> None:
    assert given(*arguments) == changes


def test_another_queue_gets_a_key_and_a_dead_letter_queue_of_its_own() -> None:
    changes = given("--queue", "orders")
    assert changes == {"queue.work": "orders", "queue.dead_letter": "orders.dlq", "queue.routing_key": "orders"}


def test_naming_the_usual_queue_keeps_its_usual_surroundings() -> None:
    assert load(given("--queue", "work.queue"), environ={"PACE_CONFIG": ""}) == load(environ={"PACE_CONFIG": ""})


def test_a_value_of_the_wrong_type_is_bad_usage_and_one_out_of_range_a_config_error() -> None:
    assert CliRunner().invoke(command, ["--rate", "fast"], obj={}).exit_code == 2
    with pytest.raises(ConfigError, match=r"producer\.rate = -1\.0 \(from command line\): expected a number ≥ 0"):
        load(given("--rate", "-1"), environ={"PACE_CONFIG": ""})


@pytest.mark.parametrize("value", ["0", "max"])
def test_a_number_with_a_word_in_place_of_it_takes_both(value: str) -> None:
    assert load(given("--rate", value), environ={"PACE_CONFIG": ""}).producer.rate == 0


def test_help_gives_reason_key_and_default() -> None:
    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "--rate RATE Offered load: ten times what one consumer can do" in text
    assert "[producer.rate; default 1000.0]" in text
    assert "[auto|retry|reject]" in text.lower()


def test_help_does_not_show_the_default_password() -> None:
    assert "[broker.password]" in CliRunner().invoke(command, ["--help"]).output


def test_a_flag_for_a_setting_that_does_not_exist_fails_when_it_is_declared() -> None:
    with pytest.raises(ConfigError, match="did you mean rate"):
        setting("--rat", key="producer.rat")


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "-1", "11", "ten"])
def test_a_number_out_of_range_is_bad_usage(value: str) -> None:
    @click.command()
    @click.option("--limit", type=FiniteRange(0, 10))
    def limited(limit: float) -> None:
        click.echo(limit)

    assert CliRunner().invoke(limited, ["--limit", "2.5"]).output == "2.5\n"
    refused = CliRunner().invoke(limited, ["--limit", value])
    assert (refused.exit_code, "Traceback" in refused.output) == (2, False)


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_the_broker_and_the_check_refuse_what_is_not_a_number(value: str) -> None:
    assert CliRunner().invoke(pace, ["broker", "--memory-limit-mb", value]).exit_code == 2
    assert CliRunner().invoke(pace, ["check", "--timeout", value]).exit_code == 2
