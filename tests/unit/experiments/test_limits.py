"""The search for a limit: the values it tries, how chance is dealt with, and the scenarios it runs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from backpressure.cli.commands import pace
from backpressure.errors import ConfigError
from backpressure.experiments import library
from backpressure.experiments.analysis import summarise
from backpressure.experiments.limits import (
    Limit,
    Search,
    Variation,
    Vary,
    failing_share_below,
    find_limit,
    parse_demand,
    sentence_of,
)
from backpressure.experiments.scenario import Scenario
from backpressure.experiments.simulate import simulate
from backpressure.experiments.summary import Summary


def searched(search: Search, holds: Callable[[float], bool], most: int = 200) -> list[float]:
    """Return the values that were tried."""
    tried: list[float] = []
    while (value := search.next()) is not None:
        tried.append(value)
        assert len(tried) < most, "the search does not end"
        search.tell(value, held=holds(value))
    return tried


@pytest.mark.parametrize("start", [1.0, 10.0, 437.0, 1000.0, 1e6])
def test_the_limit_is_found_from_either_side_within_the_precision_and_confirmed(start: float) -> None:
    search = Search(start, easiest=1.0, hardest=1e6, precision=0.02, confirmations=5)
    searched(search, lambda value: value <= 437)
    assert search.held is not None
    assert search.failed is not None
    assert search.held <= 437 < search.failed <= 1.021 * search.held
    assert search.outcomes[search.held] == (5, 5)


@pytest.mark.parametrize("start", [1.0, 5.0, 40.0, 64.0])
def test_the_smallest_whole_number_is_found(start: float) -> None:
    search = Search(start, easiest=64.0, hardest=1.0, whole=True)
    tried = searched(search, lambda value: value >= 5)
    assert (search.held, search.failed) == (5, 4)
    assert all(value == round(value) for value in tried)


def test_what_always_holds_is_tried_up_to_the_hardest_and_confirmed_there() -> None:
    search = Search(10.0, easiest=1.0, hardest=1000.0, confirmations=3)
    assert searched(search, lambda _: True) == [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000]
    assert (search.held, search.failed) == (1000, None)


def test_what_never_holds_is_tried_down_to_the_easiest() -> None:
    search = Search(10.0, easiest=1.0, hardest=1000.0)
    assert searched(search, lambda _: False) == [10, 5, 2.5, 1.25, 1]
    assert search.held is None


@pytest.mark.parametrize("holds", [True, False])
def test_a_search_comes_to_bounds_with_many_digits(holds: bool) -> None:
    search = Search(1000.0, easiest=1000 / 1024, hardest=64_123.456, confirmations=1)
    assert searched(search, lambda _: holds)[-1] == (64_123.456 if holds else 1000 / 1024)


def test_a_value_that_held_by_luck_is_given_up_for_one_where_every_run_holds() -> None:
    chance = random.Random(3)
    for _ in range(20):
        search = Search(1000.0, easiest=1.0, hardest=1e6, confirmations=5)
        searched(search, lambda value: chance.random() < 1 / (1 + (value / 437) ** 20))
        assert search.held is not None
        assert search.outcomes[search.held] == (5, 5)
        assert 200 < search.held < 500
        assert search.failed is not None
        assert search.held < search.failed


def test_a_search_ends_after_the_most_runs_it_may_make() -> None:
    search = Search(100.0, easiest=1.0, hardest=100.0, step=1.1, precision=0.1, most=4)
    assert searched(search, lambda _: False) == [100, 90.91, 82.65, 75.14]


def test_how_sure_a_confirmed_value_is_follows_from_the_number_of_runs() -> None:
    assert failing_share_below(5) == pytest.approx(0.45, abs=0.01)
    assert failing_share_below(59) == pytest.approx(0.05, abs=0.001)
    assert failing_share_below(0) == 1


def variation(name: str, vary: Vary, *demands: str, sets: tuple[str, ...] = (), law: str = "unbounded") -> Variation:
    return Variation.of(library.load(name, sets, law), vary, [parse_demand(text) for text in demands], name)


def test_the_load_is_scaled_in_every_phase_that_states_one() -> None:
    twice = variation("burst", "rate", "wait_ms.p99 <= 200").at(2000.0, number=3)
    assert [phase.settings.producer.rate for phase in twice.phases] == [100, 2000, 100]
    assert twice.seed == 4


def test_a_phase_without_consumers_keeps_none_while_others_get_another_number() -> None:
    changed = variation("recovery", "consumers", "wait_ms.p99 <= 200").at(3.0, number=0)
    assert [phase.settings.consumer.count for phase in changed.phases] == [3, 0, 3]


def test_only_what_is_asked_for_is_expected_and_that_nothing_is_lost_or_discarded() -> None:
    asked = variation("normal", "rate", "wait_ms.p99 <= 200").plan
    assert {e.metric for e in asked.expectations} == {"lost", "wait_ms.p99", "discarded"}
    own = variation("normal", "rate").plan
    assert own.expectations == library.load("normal").expectations


def test_the_settings_that_are_told_make_the_scenario_of_the_result() -> None:
    found = variation("burst", "rate", "wait_ms.p99 <= 200")
    again = library.load("burst", found.settings_at(300.0))
    assert [p.settings.producer.rate for p in again.phases] == [
        p.settings.producer.rate for p in found.at(300.0, 0).phases
    ]


@pytest.mark.parametrize("text", ["", "wait_ms.p99"])
def test_an_expectation_without_a_limit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--expect"):
        parse_demand(text)


@pytest.mark.parametrize(
    "load",
    ["producer.profile='table:file=rates.csv'", "producer.recorded_at='json:at'", "phase.again.producer.profile"],
)
def test_a_load_that_does_not_follow_the_rate_cannot_be_searched_by_the_rate(
    load: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    phases = "".join(f'[[phase]]\nname = "{name}"\nduration_s = 5\n' for name in ("once", "again"))
    if load.startswith("phase"):
        phases += "[phase.producer]\nprofile = 'table:file=rates.csv'\n"
        producer = ""
    else:
        producer = f"{load.removeprefix('producer.')}\n" + ('samples = "x.jsonl"\n' if "recorded" in load else "")
    Path("x.toml").write_text(f'name = "x"\n[producer]\nrate = 50\n{producer}{phases}[expect]\nlost = "== 0"\n')
    plan = library.load("x.toml")
    with pytest.raises(ConfigError, match="fixes the load of phase"):
        Variation.of(plan, "rate", [], "x.toml")
    assert Variation.of(plan, "consumers", [], "x.toml").start == 1


def test_bursts_are_varied_as_a_whole() -> None:
    plan = library.load("normal", ["producer.profile=bursts:on_s=1,off_s=4,low=0.1"])
    variation = Variation.of(plan, "rate", [], "normal")
    twice = variation.at(2 * variation.start, 0).settings.producer
    assert twice.rate == 2 * plan.settings.producer.rate
    assert twice.profile == "bursts:on_s=1,off_s=4,low=0.1"


def test_a_program_that_is_not_ours_is_varied_only_in_what_the_run_decides(tmp_path: Path) -> None:
    text = library.read("normal").replace("[consumer]", '[consumer]\ncommand = "true"')
    file = tmp_path / "mine.toml"
    file.write_text(text)
    plan = library.load(str(file))
    assert not plan.can_be_simulated
    varied = Variation.of(plan, "rate", [("depth.max", "<= 30")], "mine")
    assert "lost" not in {expectation.metric for expectation in varied.plan.expectations}  # nobody would know
    with pytest.raises(ConfigError, match="the consumer is not ours"):
        Variation.of(plan, "prefetch", [], "mine")
    done = CliRunner().invoke(pace, ["find-rate", str(file), "--runs", str(tmp_path)])
    assert done.exit_code == 2
    assert "that no model knows is searched on a broker" in done.output


def test_bounds_that_leave_nothing_to_try_are_refused() -> None:
    with pytest.raises(ConfigError, match="below --to"):
        variation("normal", "rate", "lost == 0").search(10.0, 5.0, 0.02, 1)


def found_limit(varied: Variation, play: Callable[[Scenario], Summary] | None = None) -> Limit:
    limit, failure = find_limit(
        varied,
        varied.search(None, None, 0.05, 2),
        play or (lambda plan: summarise(simulate(plan))),
        trying=lambda _value, _number: None,
        tried=lambda _: None,
    )
    assert (failure is not None) == (limit.verdict == "interrupted")
    return limit


SHORT = ("phase.normal.duration_s=10",)


def test_an_open_loop_takes_little_more_than_the_capacity_of_its_consumers() -> None:
    limit = found_limit(variation("normal", "rate", "wait_ms.p99 <= 200", sets=SHORT))
    assert limit.verdict == "found"
    assert limit.held is not None
    assert 95 <= limit.held <= 105
    told = sentence_of(limit)
    assert told.startswith("highest offered load: ")
    assert "held in 2 of 2 runs" in told
    assert "the law unbounded never slowed" in told


def test_a_law_that_slows_the_producers_has_no_limit_and_is_told_so() -> None:
    limit = found_limit(variation("normal", "rate", "wait_ms.p99 <= 200", sets=SHORT, law="pace"))
    assert limit.verdict == "always"
    assert "no limit found" in sentence_of(limit)
    assert "end_to_end_ms counts what it holds back" in sentence_of(limit)


def test_the_fewest_consumers_for_a_load_are_found() -> None:
    sets = (*SHORT, "producer.rate=450")
    limit = found_limit(variation("normal", "consumers", "wait_ms.p99 <= 200", sets=sets))
    assert (limit.held, limit.failed) == (5, 4)
    assert sentence_of(limit).startswith("fewest consumers: 5, held in 2 of 2 runs")


def test_what_never_holds_says_so_and_why() -> None:
    limit = found_limit(variation("normal", "consumers", "processed <= 5", sets=SHORT))
    assert limit.verdict == "never"
    assert "not even consumers 64 holds" in sentence_of(limit)
    assert "processed " in sentence_of(limit)


def test_ctrl_c_keeps_what_is_known() -> None:
    runs = 0

    def play(plan: Scenario) -> Summary:
        nonlocal runs
        runs += 1
        if runs > 7:
            raise KeyboardInterrupt
        return summarise(simulate(plan))

    limit = found_limit(variation("normal", "rate", "wait_ms.p99 <= 200", sets=SHORT), play)
    assert limit.verdict == "interrupted"
    assert len(limit.trials) == 7
    assert sentence_of(limit).startswith("so far, highest offered load: ")


def test_the_command_writes_its_result_and_says_how_to_try_it(tmp_path: Path) -> None:
    arguments = ["find-rate", "normal", "--strategy", "unbounded", "--expect", "wait_ms.p99 <= 200", "--precision", "5"]
    shorter = ["--set", "phase.normal.duration_s=10", "--runs", str(tmp_path)]
    done = CliRunner().invoke(pace, [*arguments, *shorter], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "simulation: highest offered load: " in done.output
    assert "try it: pace run normal --set phase.normal.duration_s=10 --set producer.rate=" in done.output
    [file] = tmp_path.glob("*-normal-limit/limit.json")
    [limit] = json.loads(file.read_text())
    assert Limit.model_validate(limit).verdict == "found"
    never = CliRunner().invoke(pace, [*arguments[:4], "--expect", "processed <= 0", *shorter], catch_exceptions=False)
    assert never.exit_code == 1
