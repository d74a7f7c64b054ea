"""The runs of a folder: in order, held against those before them, with what changed where one broke."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backpressure.cli.commands import pace
from backpressure.errors import ConfigError
from backpressure.experiments import library
from backpressure.experiments.analysis import summarise
from backpressure.experiments.document import to_toml
from backpressure.experiments.past_runs import Series, past_runs, series_of
from backpressure.experiments.regression import differences, versus
from backpressure.experiments.simulate import simulate
from backpressure.experiments.summary import Percentiles, Summary

SHORT = ("phase.burst.duration_s=4", "phase.calm.duration_s=2", "phase.after.duration_s=2")


@pytest.fixture(scope="module")
def calm() -> Summary:
    return summarise(simulate(library.load("burst", SHORT)))


def write(folder: Path, day: int, run: Summary, *sets: str, **versions: str) -> Path:
    """Write the parts of a run's folder that a history reads."""
    path = folder / f"202601{day:02}-120000-{run.scenario}"
    path.mkdir(parents=True)
    run = run.model_copy(update={"started_at": f"2026-01-{day:02}T12:00:00.000+00:00"})
    (path / "summary.json").write_text(run.model_dump_json())
    (path / "scenario.toml").write_text(to_toml(library.load("burst", (*SHORT, *sets)).document))
    facts = {"broker": "B", "broker_version": "1", "environment": {"pace": "0.1"} | versions}
    (path / "run.json").write_text(json.dumps(facts))
    return path


def slower(run: Summary, p99: float, **changes: Any) -> Summary:
    return run.model_copy(update={"wait_ms": run.wait_ms.model_copy(update={"p99": p99})} | changes)


def only(folder: Path) -> Series:
    [series] = series_of(past_runs(folder))
    return series


def test_a_run_that_became_worse_names_the_figure_and_what_changed_with_it(tmp_path: Path, calm: Summary) -> None:
    for day, p99 in enumerate((40.0, 44.0, 38.0), start=1):
        write(tmp_path, day, slower(calm, p99), commit="aaa")
    write(tmp_path, 4, slower(calm, 90.0), "consumer.prefetch=50", commit="bbb", pace="0.2")
    write(tmp_path, 5, slower(calm, 91.0), "consumer.prefetch=50", commit="bbb", pace="0.2")
    series = only(tmp_path)
    assert [judged.broke for judged in series.runs] == [False, False, False, True, False]
    assert series.sentence == (
        "broke at 2026-01-04 12:00:00 (20260104-120000-burst): p99 wait 90 ms, 2.2 times the usual 40 ms (median of 3 "
        "passed runs); what changed: consumer.prefetch unset → 50, commit aaa → bbb, pace 0.1 → 0.2; 1 run since"
    )


def test_a_seed_that_differs_from_repeat_to_repeat_is_blamed_only_where_nothing_else_changed(
    tmp_path: Path, calm: Summary
) -> None:
    write(tmp_path, 1, slower(calm, 40.0), "seed=1", commit="aaa")
    write(tmp_path, 2, slower(calm, 90.0), "seed=2", commit="bbb")
    assert only(tmp_path).runs[-1].reason.endswith("; what changed: commit aaa → bbb")
    write(tmp_path, 3, slower(calm, 300.0), "seed=3", commit="bbb")
    assert only(tmp_path).runs[-1].reason.endswith("; nothing that is recorded changed but the seed (2 → 3)")


def test_runs_that_failed_are_not_what_is_usual(tmp_path: Path, calm: Summary) -> None:
    failed = slower(calm, 900.0, verdict="failed", sentence="failed: p99 wait 900 ms > 300 ms")
    write(tmp_path, 1, slower(calm, 40.0))
    for day in (2, 3, 4):
        write(tmp_path, day, failed)
    write(tmp_path, 5, slower(calm, 44.0))
    write(tmp_path, 6, slower(calm, 90.0))
    runs = only(tmp_path).runs
    assert [judged.broke for judged in runs] == [False, True, False, False, False, True]
    assert "p99 wait 90 ms, 2.1 times the usual 42 ms (median of 2 passed runs)" in runs[-1].reason


def test_a_series_that_never_passed_has_nothing_to_compare_with(tmp_path: Path, calm: Summary) -> None:
    for day in (1, 2):
        write(tmp_path, day, calm.model_copy(update={"verdict": "failed"}))
    assert [judged.compared for judged in only(tmp_path).runs] == [(), ()]


def test_what_varies_from_run_to_run_is_noise(tmp_path: Path, calm: Summary) -> None:
    for day, p99 in enumerate((40.0, 90.0, 45.0, 85.0, 60.0), start=1):
        write(tmp_path, day, slower(calm, p99))
    assert [judged.broke for judged in only(tmp_path).runs[2:]] == [False, False, False]


def test_a_run_that_fails_after_one_that_passed_has_broken_whatever_its_figures_say(
    tmp_path: Path, calm: Summary
) -> None:
    write(tmp_path, 1, calm)
    write(tmp_path, 2, calm.model_copy(update={"verdict": "failed", "sentence": "failed: 1 of 9 messages were lost"}))
    last = only(tmp_path).runs[-1]
    assert last.broke
    assert last.reason == "failed: 1 of 9 messages were lost; nothing that is recorded changed"


def test_an_unfinished_run_is_shown_and_compared_with_nothing(tmp_path: Path, calm: Summary) -> None:
    write(tmp_path, 1, calm)
    write(tmp_path, 2, slower(calm, 900.0, verdict="interrupted"))
    write(tmp_path, 3, calm)
    series = only(tmp_path)
    assert [judged.broke for judged in series.runs] == [False, False, False]
    assert series.runs[1].compared == ()
    assert series.sentence == "2 of 3 runs passed; nothing became worse"


def test_runs_of_other_scenarios_laws_and_brokers_are_series_of_their_own(tmp_path: Path, calm: Summary) -> None:
    others = ({"strategy": "aimd"}, {"broker": "RabbitMQ"}, {"scenario": "steps"})
    for day, change in enumerate(({}, *others), start=1):
        write(tmp_path, day, calm.model_copy(update=change))
    names = [series.name for series in series_of(past_runs(tmp_path))]
    assert names == [
        "burst · pace · simulation",
        "burst · aimd · simulation",
        "burst · pace · RabbitMQ",
        "steps · pace · simulation",
    ]
    assert [run.summary.scenario for run in past_runs(tmp_path, "steps")] == ["steps"]


def test_a_folder_without_runs_is_one_clear_line(tmp_path: Path, calm: Summary) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        past_runs(tmp_path)
    write(tmp_path, 1, calm)
    with pytest.raises(ConfigError, match="holds no run of steps"):
        past_runs(tmp_path, "steps")


def test_damaged_runs_and_those_of_older_versions_do_not_hide_the_others(tmp_path: Path, calm: Summary) -> None:
    path = write(tmp_path, 1, calm)
    for name in ("run.json", "scenario.toml"):
        (path / name).write_text("{")
    (write(tmp_path, 2, calm) / "summary.json").write_text("{}")
    (tmp_path / "half").mkdir()
    assert [run.folder for run in past_runs(tmp_path)] == [path]
    older = calm.model_dump(mode="json")
    for name in ("refused", "discarded"):
        del older["totals"][name]
    for name in ("sentence",):
        del older[name]
    for phase in older["phases"]:
        for name in ("capacity", "offered_rate", "depth_start", "refused", "strategy", "fault"):
            del phase[name]
    (write(tmp_path, 3, calm) / "summary.json").write_text(json.dumps(older))
    assert len(past_runs(tmp_path)) == 2


def test_the_command_prints_the_runs_and_writes_a_page_that_needs_nothing_else(tmp_path: Path, calm: Summary) -> None:
    write(tmp_path, 1, calm)
    write(tmp_path, 2, slower(calm, 900.0), "consumer.prefetch=50")
    done = CliRunner().invoke(pace, ["history", "--runs", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "▼ broke" in done.output
    assert "what changed: consumer.prefetch unset → 50" in done.output
    page = (tmp_path / "history.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert 'href="20260102-120000-burst/report.html"' in page
    assert page.count("<circle") == 8  # four figures of two runs
    assert page.count('class="broke"') == 4
    again = CliRunner().invoke(pace, ["history", "--runs", str(tmp_path), "--last", "1"], catch_exceptions=False)
    assert "broke" not in again.output


def test_markup_in_a_summary_stays_text_on_the_page(tmp_path: Path, calm: Summary) -> None:
    write(tmp_path, 1, calm.model_copy(update={"verdict": "failed", "sentence": "failed: <b>", "broker": "<i>"}))
    CliRunner().invoke(pace, ["history", "--runs", str(tmp_path)], catch_exceptions=False)
    page = (tmp_path / "history.html").read_text()
    assert "<b>" not in page
    assert "<i>" not in page


# --- two runs in a sentence -------------------------------------------------------------------------------------------


def in_phase(run: Summary, name: str, p99: float) -> Summary:
    phases = [
        phase.model_copy(update={"wait_ms": phase.wait_ms.model_copy(update={"p99": p99})})
        if phase.name == name
        else phase
        for phase in run.phases
    ]
    return run.model_copy(update={"phases": phases})


def test_two_runs_that_differ_in_one_phase_are_told_apart_by_it(calm: Summary) -> None:
    told = versus(differences([in_phase(calm, "burst", 30.0)], [in_phase(calm, "burst", 93.0)]))
    assert told == (
        "B waits 3.1 times longer at p99 in phase burst (93 ms, A 30 ms); nothing else differs beyond noise"
    )


def test_a_difference_in_several_phases_names_the_largest_first(calm: Summary) -> None:
    before, after = calm, calm
    for name, then, now in (("calm", 50.0, 30.0), ("burst", 90.0, 30.0)):
        before, after = in_phase(before, name, then), in_phase(after, name, now)
    told = versus(differences([before], [after]))
    assert told.startswith("B waits 67 % less at p99 in phase burst, and less in calm (30 ms, A 90 ms);")


def test_equal_runs_differ_in_nothing(calm: Summary) -> None:
    assert versus(differences([calm], [calm])) == "nothing differs beyond noise: A and B are within 10 %"


def test_lost_messages_come_first_and_a_long_list_is_cut(calm: Summary) -> None:
    totals = calm.totals.model_copy(update={"lost": 3, "processed": 10})
    after = calm.model_copy(
        update={"totals": totals, "utilisation": 0.2, "wait_ms": Percentiles(p50=500, p99=900), "duration_s": 99.0}
    )
    told = versus(differences([calm], [after]))
    assert told.startswith("B has 3 lost, A 0; B uses 80 % less of the capacity")
    assert told.endswith("more figures differ")
