"""What is checked before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from backpressure.errors import ConfigError
from backpressure.experiments import library
from backpressure.experiments.brokers import BrokerChoice, check_broker
from backpressure.experiments.library import check_programs

CHANGES_BOUND = """
name = "x"
[queue]
max_length = 7
[[phase]]
name = "first"
duration_s = 1
[[phase]]
name = "second"
duration_s = 1
queue.max_length = 5
"""
LAW = """
class Law:
    def __init__(self, config):
        self.config = config

    def update(self, signals, now):
        raise NotImplementedError

class Broken:
    def __init__(self, config):
        raise KeyError("no such thing")
"""


@pytest.mark.parametrize("choice", [BrokerChoice("kafka"), BrokerChoice("external", "kafka://localhost:9092")])
def test_kafka_is_not_asked_to_change_a_bound_it_does_not_have(tmp_path: Path, choice: BrokerChoice) -> None:
    (tmp_path / "x.toml").write_text(CHANGES_BOUND)
    scenario = library.load(str(tmp_path / "x.toml"))
    with pytest.raises(ConfigError, match="Kafka's topics have no such bound") as caught:
        check_broker(scenario, choice)
    assert caught.value.key == "phase.second.queue.max_length"
    check_broker(scenario, BrokerChoice("embedded"))
    check_broker(library.load("normal", ("queue.max_length=7",)), choice)  # a bound from the start is only ignored


def test_a_private_kafka_cluster_plays_every_scenario_but_the_alarm_that_it_does_not_have() -> None:
    choice = BrokerChoice("kafka", nodes=3)
    refused = []
    for name in library.shipped():
        try:
            check_broker(library.load(name, defaults=choice.defaults), choice)
        except ConfigError:
            refused.append(name)
    assert refused == ["memory-alarm"]


@pytest.mark.parametrize("kind", ["embedded", "rabbitmq", "kafka"])
def test_strangers_are_refused_where_consumers_are_real(kind: str) -> None:
    with pytest.raises(ConfigError, match="only simulations"):
        check_broker(library.load("normal", ("strangers.count=all",)), BrokerChoice(kind))
    check_broker(library.load("normal", ("strangers.prefetch=5",)), BrokerChoice(kind))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("strangers.cuont=1", "did you mean count"),
        ("strangers.count=-1", "greater than or equal to 0"),
        ("strangers.acks=never", "'each', 'auto' or 'commit'"),
    ],
)
def test_a_mistake_about_strangers_is_named(change: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        library.load("normal", (change,))
    assert caught.value.key == change.partition("=")[0]


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        ("no_such_module:Law", "cannot be imported"),
        ("laws_of_mine:Lawww", "cannot be imported"),
        ("laws_of_mine:Broken", "cannot be built: KeyError"),
    ],
)
def test_a_law_that_cannot_be_had_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, problem: str
) -> None:
    (tmp_path / "laws_of_mine.py").write_text(LAW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    with pytest.raises(ConfigError, match=problem):
        check_programs(library.load("normal", strategy=strategy))


def test_a_law_in_this_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "laws_of_mine.py").write_text(LAW)
    monkeypatch.chdir(tmp_path)
    check_programs(library.load("normal", strategy="laws_of_mine:Law"))
