"""The scenario model: what a file means, and that every mistake is one clear message."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from backpressure.errors import ConfigError
from backpressure.experiments import library
from backpressure.experiments.document import merge, parse, parse_assignment, to_toml
from backpressure.experiments.scenario import Scenario, build

EXAMPLE = """
name = "example"
seed = 7
[producer]
rate = 500
limit = 100
[consumer]
rate = 50
[[phase]]
name = "first"
duration_s = 10
[[phase]]
name = "second"
duration_s = 5.5
until = "consumed"
consumer.count = 0
consumer.rate = 20
[[phase]]
name = "third"
duration_s = 5
consumer.count = 2
[expect]
lost = "== 0"
wait_ms.p99 = "<= 300"
"phases.third.settle_s" = "between 0 and 2"
"""


def example(*assignments: str, text: str = EXAMPLE, tmp_path: Path) -> Scenario:
    path = tmp_path / "example.toml"
    path.write_text(text)
    return library.load(str(path), assignments)


def test_a_phase_carries_all_settings_in_force_and_what_changed(tmp_path: Path) -> None:
    scenario = example(tmp_path=tmp_path)
    first, second, third = scenario.phases
    assert (first.settings.producer.rate, first.settings.consumer.rate, first.settings.consumer.count) == (500, 50, 1)
    assert (second.settings.consumer.rate, second.settings.consumer.count) == (20, 0)
    assert (third.settings.consumer.rate, third.settings.consumer.count) == (20, 2)  # a change lasts
    assert (first.changes, third.changes) == ({}, {"consumer.count": 2})
    assert second.changes == {"consumer.count": 0, "consumer.rate": 20}
    assert scenario.duration_s == 20.5


def test_the_queue_of_a_run_is_read_as_often_as_it_is_sampled_unless_the_scenario_says_otherwise(
    tmp_path: Path,
) -> None:
    assert example(tmp_path=tmp_path).phases[0].settings.monitor.probe_interval_ms == 100
    slower = example("monitor.probe_interval_ms=500", tmp_path=tmp_path)
    assert slower.phases[0].settings.monitor.probe_interval_ms == 500


def test_expectations_are_read_and_a_phase_that_waits_expects_what_it_waits_for(tmp_path: Path) -> None:
    stated = {(e.metric, e.op, e.limit) for e in example(tmp_path=tmp_path).expectations}
    assert stated == {
        ("lost", "==", 0.0),
        ("wait_ms.p99", "<=", 300.0),
        ("phases.third.settle_s", "between", (0.0, 2.0)),
        ("phases.second.reached", "==", 1.0),
        ("discarded", "==", 0.0),
    }


@pytest.mark.parametrize("stated", ["discarded", "totals.rejected", "dropped", "returned"])
def test_a_scenario_expects_nothing_discarded_unless_it_says_something_about_that(stated: str, tmp_path: Path) -> None:
    own = example(f"expect.{stated}=>= 0", tmp_path=tmp_path).expectations
    assert not [expectation for expectation in own if expectation.default]
    assert stated in {expectation.metric for expectation in own}


def test_assignments_reach_settings_phases_seed_and_expectations(tmp_path: Path) -> None:
    scenario = example(
        "producer.strategy=aimd",
        "seed=9",
        "phase.second.duration_s=2",
        "phase.third.consumer.count=4",
        "expect.wait_ms.p50=< 5",
        "queue.max_length=none",
        tmp_path=tmp_path,
    )
    assert scenario.settings.producer.strategy == "aimd"
    assert scenario.settings.queue.max_length is None
    assert (scenario.seed, scenario.phases[1].duration_s) == (9, 2)
    assert scenario.phases[2].settings.consumer.count == 4
    assert "wait_ms.p50" in {e.metric for e in scenario.expectations}


@pytest.mark.parametrize("metric", ["lost", "totals.lost", "wait_ms.p99"])
def test_an_assignment_replaces_an_expectation_however_the_file_writes_it(metric: str, tmp_path: Path) -> None:
    before, after = example(tmp_path=tmp_path), example(f"expect.{metric}=<= 7", tmp_path=tmp_path)
    assert len(after.expectations) == len(before.expectations)
    assert (metric, "<=", 7.0) in {(e.metric, e.op, e.limit) for e in after.expectations}
    assert build(parse(to_toml(after.document), "copy"), "copy").expectations == after.expectations


def test_a_scenario_with_overrides_can_be_written_down_and_read_again(tmp_path: Path) -> None:
    scenario = example('producer.text="line\\nbreak, \\u007f and a é"', "expect.wait_ms.p50=< 5", tmp_path=tmp_path)
    text = to_toml(scenario.document)
    assert tomllib.loads(text) == scenario.document
    assert build(parse(text, "copy"), "copy").phases == scenario.phases


@pytest.mark.parametrize("name", sorted(library.shipped()))
def test_every_shipped_scenario_is_valid_named_like_its_file_and_ends_in_sensible_time(name: str) -> None:
    scenario = library.load(name)
    assert scenario.name == name
    assert scenario.summary
    assert scenario.expectations
    assert scenario.duration_s <= (2000 if name == "stress-1m" else 200)


MISTAKES = [
    (["consumer.rat=5"], "consumer.rat", "did you mean rate?"),
    (["consmer.rate=5"], "consmer", "did you mean consumer?"),
    (["producer.rate=0"], "producer.rate", "an offered load to compare with"),
    (["consumer.rate=0"], "consumer.rate", "no capacity to match"),
    (["consumer.rate=-1"], "consumer.rate", "a number ≥ 0"),
    (["phase.second.consumer.rate=-1"], "phase.second.consumer.rate", "a number ≥ 0"),
    (["phase.second.consumer.rat=1"], "phase.second.consumer.rat", "did you mean rate?"),
    (["phase.second.consmer.rate=1"], "phase.second.consmer", "did you mean consumer?"),
    (["phase.nope.duration_s=1"], "phase.nope.duration_s", "there are first, second, third"),
    (["phase.first.duration_s=0"], "phase.first.duration_s", "greater than 0"),
    (["phase.first.until=publishd"], "phase.first.until", "'published', 'drained' or 'consumed'"),
    (["phase.first.until=published", "producer.limit=0"], "phase.first.until", "needs producer.limit"),
    (["phase.second.fault=earthquake"], "phase.second.fault", "no such fault; there are consumer-kill, consumer-stop"),
    (["producer.strategy=pase"], "producer.strategy", "expected one of unbounded"),
    (["phase.second.producer.strategy=pase"], "phase.second.producer.strategy", "expected one of unbounded"),
    (["control.parameters.pace.nonsense=1"], "control.parameters.pace.nonsense", "unknown parameter"),
    (["phase.second.producer.producer_id=other"], "phase.second.producer.producer_id", "cannot change during"),
    (["phase.second.queue.type=lazy"], "phase.second.queue.type", "cannot change during the run"),
    (["phase.third.name=first"], "phase.first.name", "a name of its own"),
    (["broker.url=amqp://x"], "broker", "chosen with --broker"),
    (["api.producer_port=1"], "api", "free ports"),
    (["expect.los=== 0"], "expect.los", "did you mean lost?"),
    (["expect.lost=0"], "expect.lost", 'a text such as "<= 300"'),
    (["expect.lost=about 3"], "expect.lost", "operators: <= >= == != < >"),
    (["expect.lost=between 2 and 1"], "expect.lost", "first bound"),
    (["expect.phases.fourth.settle_s=< 1"], "expect.phases.fourth.settle_s", "no such metric"),
    (["seed=x"], "seed", "valid integer"),
    (["monitor.host=0.0.0.0"], "monitor.host", "serves on 127.0.0.1"),
    (["producer.processing_time_s=0"], "producer.processing_time_s", "more than 0"),
    (["phase.second.producer.processing_time_s=0"], "phase.second.producer.processing_time_s", "more than 0"),
    (
        ["consumer.distribution=uniform", "consumer.processing_min_ms=0", "consumer.processing_max_ms=0"],
        "consumer.processing_max_ms",
        "the mean work is 0",
    ),
    (["consumer=3"], "consumer", "a table of settings"),
    (["nonsense"], "--set", "expected key=value"),
    (["phase.first.duration_s.x=1"], "phase.first.duration_s.x", "is not a table"),
]


def test_a_parameter_is_read_under_its_former_name_with_a_notice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenario = example("control.rate_limit=7", "phase.second.control.depth_threshold=9", tmp_path=tmp_path)
    first, *_, last = [phase.settings.control.parameters for phase in scenario.phases]
    assert first == {"rate_limited": {"rate_per_s": 7}}
    assert last == {"rate_limited": {"rate_per_s": 7}, "threshold": {"pressure_depth": 9}}
    assert len(caplog.messages) == 2
    assert "control.rate_limit (from example.toml with overrides) is read; its name is now" in caplog.messages[0]


@pytest.mark.parametrize(("assignments", "key", "allowed"), MISTAKES, ids=lambda value: str(value)[:50])
def test_a_mistake_names_its_key_and_what_is_allowed(
    assignments: Sequence[str], key: str, allowed: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        example(*assignments, tmp_path=tmp_path)
    assert caught.value.key == key
    assert allowed in caught.value.allowed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name = ", "not valid TOML"),
        ('name = "x"', "is required"),
        ('name = "x"\nphase = []', "at least 1 item"),
        ('name = "x"\n[[phase]]\nname = "a"', "is required"),
        ('name = "../x"\n[[phase]]\nname = "a"\nduration_s = 1', "expected letters, digits, - and _"),
        ('name = "x"\nphase = 3', "under a line [[phase]]"),
        ('name = "x"\nphase = [3]', "a table of settings"),
        ('name = "x"\nexpect = 3\n[[phase]]\nname = "a"\nduration_s = 1', "a table of settings"),
        ('name = "x"\n[[phase]]\nname = "a"\nduration = 1', "did you mean duration_s?"),
        ('name = "x"\n[[phase]]\nname = "a"\nduration_s = "1"', "valid number"),
        ('name = "x"\n[[phase]]\nname = "a"\nduration_s = inf', "finite"),
    ],
)
def test_a_broken_file_is_one_clear_message(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"example\.toml") as caught:
        example(text=text, tmp_path=tmp_path)
    assert problem in caught.value.allowed


def test_a_byte_order_mark_is_not_part_of_a_scenario(tmp_path: Path) -> None:
    assert example(text="\ufeff" + EXAMPLE, tmp_path=tmp_path) == example(tmp_path=tmp_path)


def test_an_unknown_scenario_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"did you mean recovery\?.*normal"):
        library.load("recovry")


def test_a_value_that_is_not_toml_is_text() -> None:
    assert parse_assignment("producer.strategy = aimd") == ("producer.strategy", "aimd")
    assert parse_assignment("producer.rate=1_000.5") == ("producer.rate", 1000.5)
    assert parse_assignment('a="x=y"') == ("a", "x=y")


@pytest.mark.parametrize(
    ("text", "assignment", "problem"),
    [
        ('name = "x"\nphase = 3', "phase.a.duration_s=1", "has no phase 'a'"),
        ('name = "x"\nexpect = 3\n[[phase]]\nname = "a"\nduration_s = 1', "expect.lost=== 0", "a table of settings"),
    ],
)
def test_what_cannot_be_overridden_is_named_and_no_traceback(
    text: str, assignment: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=problem):
        example(assignment, text=text, tmp_path=tmp_path)


def test_the_million_messages_are_demanded_and_so_is_the_memory_of_every_process_under_test() -> None:
    demanded = {(e.metric, e.op, e.limit) for e in library.load("stress-1m").expectations}
    assert {(name, "==", 1e6) for name in ("published", "confirmed", "processed")} <= demanded
    assert {f"processes.{name}.rss_max_mb" for name in ("producer-1", "consumer-1", "monitor")} <= {
        m for m, *_ in demanded
    }


def test_a_law_whose_name_has_dots_is_named_in_quotes() -> None:
    document = merge({}, [parse_assignment('control.parameters."my.laws:LeaveRoom".full=60')], "x.toml")
    assert document["control"]["parameters"] == {"my.laws:LeaveRoom": {"full": 60}}
    assert parse(to_toml(document), "x.toml") == document
