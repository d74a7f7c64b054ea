"""Which programs play producer and consumer: the tables of a scenario, and what is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from backpressure.errors import ConfigError
from backpressure.experiments.brokers import check_broker, parse_choice
from backpressure.experiments.library import check_programs
from backpressure.experiments.roles import RoleSettings, environment_of, filled_in, placeholders, read_role
from backpressure.experiments.scenario import Scenario, build
from backpressure.experiments.simulate import simulate
from backpressure.settings import QueueSettings

PHASE = {"name": "p", "duration_s": 1}


def scenario(**tables: Any) -> Scenario:
    return build({"name": "t", "phase": [PHASE], **tables}, "test")


def refused(**tables: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        scenario(**tables)
    return str(caught.value)


def test_placeholders_are_filled_in_and_other_braces_stay() -> None:
    values = placeholders("amqp://me:p%40ss@broker:5673/", QueueSettings(), name="consumer-2", index=2, run="/runs/one")
    text = '{url} {queue} {name} {index} {username} {password} {{"a": {}}}'
    filled = 'amqp://me:p%40ss@broker:5673/%2F work.queue consumer-2 2 me p@ss {{"a": {}}}'
    assert filled_in(text, values) == filled
    assert values["virtual_host"] == "/"
    assert placeholders("amqp://h/shop", QueueSettings(), name="", index=1, run="")["url"] == "amqp://h/shop"


def test_a_command_gets_the_queue_in_its_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_USER", "kept")
    role = RoleSettings(command="worker", environment={"AMQP_URL": "{url}", "TOKEN": "x"})
    values = placeholders("amqp://h/v", QueueSettings(), name="consumer-1", index=1, run="/r")
    environment = environment_of(role, values)
    assert environment["AMQP_URL"] == environment["RUN_URL"] == "amqp://h/v"
    assert (environment["RUN_QUEUE"], environment["RUN_NAME"], environment["RUN_INDEX"]) == (
        "work.queue", "consumer-1", "1",
    )  # fmt: skip
    assert (environment["OF_THE_USER"], environment["TOKEN"]) == ("kept", "x")


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"consumer": {"command": "worker {quue}"}}, "{quue} cannot be filled in"),
        ({"consumer": {"command": "worker 'one"}}, "quotes do not match"),
        ({"consumer": {"command": "   "}}, "expected a program"),
        ({"consumer": {"command": "w", "environment": {"A": "{nothing}"}}}, "{nothing} cannot be filled in"),
        ({"consumer": {"command": "w", "external": True}}, "leave one of the two out"),
        ({"consumer": {"command": "w", "prefetch": 5}}, "is not our process"),
        ({"consumer": {"ready_s": 5}}, "add consumer.command"),
        ({"consumer": {"command": "", "ready_s": 5}}, "consumer.command is empty: name a program there, or leave"),
        ({"consumer": {"command": "w", "on_exit": "ignore"}}, "on_exit"),
        ({"producer": {"command": "w", "strategy": "pace"}}, "is not our process"),
        ({"ledger": {"outcome": "queue:results"}}, "our own consumers keep journals"),
        ({"consumer": {"command": "w"}, "ledger": {}}, "outcome is required"),
        ({"consumer": {"command": "w"}, "ledger": {"outcome": "results"}}, "expected queue:NAME"),
        ({"consumer": {"command": "w"}, "ledger": {"outcome": "queue:r", "id": "order"}}, "expected message_id"),
        ({"consumer": {"command": "w"}, "ledger": {"outcome": "queue:r", "ids": "order"}}, "unknown key"),
        (
            {"consumer": {"command": "w"}, "producer": {"command": "p"}, "ledger": {"outcome": "queue:r"}},
            "queue.auditing",
        ),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_with_the_reason(tables: dict[str, Any], reason: str) -> None:
    assert reason in refused(**tables)


@pytest.mark.parametrize(
    ("role", "phase", "reason"),
    [
        ({"command": "w"}, {"consumer": {"command": "other"}}, "cannot change during the run"),
        ({"command": "w"}, {"consumer": {"prefetch": 5}}, "cannot be changed"),
        ({"external": True}, {"consumer": {"count": 2}}, "not started or stopped"),
        ({"external": True}, {"fault": "consumer-kill"}, "not ours to kill"),
        ({"external": True}, {"fault": "consumer-slow"}, "not ours to kill"),
        ({"command": "w"}, {"fault": "poison"}, "can be killed, stopped and slowed down"),
        ({"command": "w"}, {"fault": "clock-jump"}, "can be killed, stopped and slowed down"),
        ({"handler": "m:f"}, {"fault": "processing-failures"}, "decides which messages fail"),
    ],
)
def test_a_phase_cannot_change_what_is_not_ours(role: dict[str, Any], phase: dict[str, Any], reason: str) -> None:
    assert reason in refused(consumer=role, phase=[PHASE | phase])


def test_an_empty_command_means_a_process_of_ours() -> None:
    assert read_role("consumer", {"command": "", "external": False}, "here") == RoleSettings()


def test_a_phase_cannot_wait_for_all_messages_of_a_producer_that_is_not_ours() -> None:
    assert "nobody knows when it has sent all" in refused(
        producer={"command": "p"}, phase=[PHASE | {"until": "consumed"}]
    )


def test_a_command_can_be_killed_stopped_and_slowed_down_and_others_have_their_own_faults() -> None:
    for fault in ("consumer-kill", "consumer-stop", "consumer-slow:share=0.5", "network-cut", "broker-restart"):
        scenario(consumer={"command": "w"}, phase=[PHASE | {"fault": fault}])
    scenario(consumer={"command": "w"}, phase=[PHASE | {"fault": "clock-jump:role=producer"}])
    scenario(producer={"command": "w"}, phase=[PHASE | {"fault": "poison"}])


def test_the_program_of_a_command_is_looked_for_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="no such program on the PATH"):
        check_programs(scenario(consumer={"command": "surely-no-such-program {url}"}))
    with pytest.raises(ConfigError, match="no such file"):
        check_programs(scenario(consumer={"command": "./surely/not/there"}))
    with pytest.raises(ConfigError, match="cannot be executed"):
        check_programs(scenario(consumer={"command": __file__}))
    check_programs(scenario(consumer={"command": "sh -c true"}))


def test_a_handler_is_imported_before_anything_starts() -> None:
    for handler, reason in {
        "backpressure:nothing_of_the_kind": "has no",
        "surely.no.such.module:f": "cannot be imported",
        "no_colon": "expected package.module:function",
        "backpressure.version:__version__": "is not a function",
    }.items():
        for role in ("consumer", "producer"):
            with pytest.raises(ConfigError, match=reason):
                check_programs(scenario(**{role: {"handler": handler}}))


def test_an_external_consumer_needs_a_queue_that_it_knows() -> None:
    plan = scenario(consumer={"external": True})
    with pytest.raises(ConfigError, match="--predeclared"):
        check_broker(plan, parse_choice("amqp://broker.example"))
    known = scenario(consumer={"external": True}, queue={"predeclared": True, "exchange": "", "work": "orders"})
    check_broker(known, parse_choice("amqp://broker.example"))


def test_a_simulation_models_a_command_whose_rate_is_stated_and_refuses_others_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"state consumer\.rate"):
        simulate(scenario(consumer={"command": "w"}))
    with pytest.raises(ConfigError, match="cannot be simulated"):
        simulate(scenario(producer={"command": "w"}))
    assert simulate(scenario(consumer={"command": "w", "rate": 50})).accounts.delivered > 0


def test_the_capacity_of_a_program_that_is_not_ours_is_known_only_if_it_is_stated() -> None:
    assert scenario().capacity_known
    assert not scenario(consumer={"command": "w"}).capacity_known
    assert not scenario(consumer={"handler": "m:f"}).capacity_known
    assert scenario(consumer={"command": "w"}, phase=[PHASE | {"consumer": {"rate": 5}}]).capacity_known
