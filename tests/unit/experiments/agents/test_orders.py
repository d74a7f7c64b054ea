"""An agent starts programs of its own with settings of the run, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from backpressure.catalogue import value_of
from backpressure.config import replaced
from backpressure.errors import ConfigError
from backpressure.experiments.agents.orders import check_orders, ordered, orders_for
from backpressure.experiments.roles import RoleName
from backpressure.settings import Settings

OWN = replaced(
    Settings(), {"broker.url": "amqp://me:secret@there:5671/", "broker.ca_file": "/etc/ca.pem", "log.level": "DEBUG"}
)


@pytest.mark.parametrize("role", ["consumer", "producer"])
def test_what_a_run_decides_arrives_and_what_an_agent_decides_stays(role: RoleName) -> None:
    given = {f"{role}.rate": 77.0, "queue.work": "pace.x.work", "feedback.exchange": "pace.x", "process.seed": 9}
    theirs = replaced(Settings(), {**given, "broker.url": "amqp://elsewhere/", "log.level": "ERROR"})
    settings = ordered(OWN, role, orders_for(role, theirs))
    assert {key: value_of(settings, key) for key in given} == given
    assert settings.broker == OWN.broker
    assert settings.log == OWN.log


def test_no_secret_and_no_address_is_told() -> None:
    settings = replaced(OWN, {"api.token": "hush", "agent.token": "hush" * 4})
    told = orders_for("consumer", settings)
    assert not {key.partition(".")[0] for key in told} & {"broker", "api", "agent", "monitor", "log", "tracing", "lab"}
    assert not [key for key in told if key.startswith("process.") and key != "process.seed"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("broker.url", "amqp://evil/"),
        ("api.host", "0.0.0.0"),
        ("process.journal_file", "/etc/passwd"),
        ("process.folder", "/"),
        ("tracing.endpoint", "http://evil/"),
        ("log.format", "json"),
        ("producer.rate", 5),
        ("nothing.known", 1),
    ],
)
def test_an_order_about_anything_else_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        ordered(OWN, "consumer", {key: value})


@pytest.mark.parametrize(
    ("role", "key", "value"),
    [
        ("consumer", "consumer.handler", "os:abort"),
        ("producer", "producer.handler", "os:abort"),
        ("producer", "producer.strategy", "subprocess:Popen"),
        ("producer", "producer.samples", "/etc/shadow"),
        ("producer", "producer.profile", "table:file=/etc/shadow"),
    ],
)
def test_code_and_files_are_refused_by_name(role: RoleName, key: str, value: str) -> None:
    settings = replaced(Settings(), {key: value})
    with pytest.raises(ConfigError, match=key):
        check_orders(role, settings)
    with pytest.raises(ConfigError, match=key):
        ordered(OWN, role, orders_for(role, settings))


def test_code_of_the_other_role_stays_where_it_is() -> None:
    check_orders("consumer", replaced(Settings(), {"producer.handler": "mine:make"}))
