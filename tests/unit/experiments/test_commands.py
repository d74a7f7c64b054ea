"""The commands of experiments, without processes or a broker."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from backpressure.cli.commands import pace
from backpressure.cli.verdict_files import JUnitFile
from backpressure.core.journal import ConsumerRecord, Outcome, ProducerRecord
from backpressure.errors import ExperimentError
from backpressure.experiments.events import LoadChanged, PhaseBegan, PhaseEnded, ProcessStarted, RunEnded
from backpressure.experiments.library import read
from backpressure.experiments.recording import Recording, Sample
from backpressure.experiments.rundir import RunDirectory, RunFacts, create
from backpressure.experiments.scenario import Scenario
from backpressure.experiments.simulate import simulate
from backpressure.telemetry.journal_file import JournalWriter

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
T0_NS = 1_000_000_000_000


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(pace, list(arguments), env={"COLUMNS": "200"})


def ns(t_s: float) -> int:
    return T0_NS + round(t_s * 1e9)


def recorded(runs: str, *, seconds: int, law: str = "pace") -> RunDirectory:
    """Write what a run of ``normal`` leaves behind that sent one message a second; 0: killed before anything began."""
    directory = create(Path(runs), "normal", NOW)
    directory.write_scenario(read("normal"))
    directory.write_facts(
        RunFacts(
            strategy=law,
            broker="B",
            broker_version="1",
            broker_address="amqp://127.0.0.1:1",
            started_at=NOW.isoformat(),
            start_ns=T0_NS,
            command="pace run normal",
            environment={"python": "3"},
        )
    )
    directory.append_event(ProcessStarted(at_ns=ns(-1), role="producer", id="producer-1", pid=11))
    if not seconds:
        JournalWriter(directory.journal("producer-1")).close()
        return directory
    directory.append_event(PhaseBegan(at_ns=ns(0), name="normal"))
    directory.append_event(LoadChanged(at_ns=ns(0), capacity_per_s=1, demand_per_s=10))
    directory.append_sample(Sample(t_s=1, ready=1, unacked=1, offered_total=10))
    with JournalWriter(directory.journal("producer-1")) as journal:
        for n in range(seconds):
            journal.write(ProducerRecord(1, n, Outcome.CONFIRMED, ns(n), ns(n), ns(n + 0.1)))
    with JournalWriter(directory.journal("consumer-1")) as journal:
        for n in range(seconds):
            journal.write(ConsumerRecord(1, n, Outcome.PROCESSED, ns(n), ns(n), ns(n), ns(n + 0.2), ns(n + 0.3)))
    directory.append_event(PhaseEnded(at_ns=ns(seconds), name="normal"))
    with directory.writing_leftovers():
        pass
    directory.append_event(RunEnded(at_ns=ns(seconds), outcome="finished"))
    return directory


def test_two_runs_of_one_name_in_different_folders_are_laid_side_by_side() -> None:
    here, there = recorded("here", seconds=10), recorded("there", seconds=20, law="aimd")
    done = call("report", str(here.path), str(there.path))
    assert done.exit_code == 0, done.output
    page = (here.path / "compare.html").read_text()
    assert "<h1>normal: pace against aimd</h1>" in page
    assert "A: normal · pace · B 1 · 2026-01-02 03:04:05 UTC – B: normal · aimd · B 1 ·" in page
    assert "<h2>Runs</h2>" in page
    told = "B processed 2.0 times as many messages (20, A 10)"
    assert told in done.output
    assert told.replace(" ", "") in page.replace("\u00a0", "").replace(" ", "")
    assert not (there.path / "compare.html").exists()


def test_a_run_is_not_compared_with_itself_whatever_it_is_called() -> None:
    run = recorded("here", seconds=10)
    done = call("report", str(run.path), f"here/../here/{run.path.name}")
    assert done.exit_code == 2
    assert "is the same run" in done.output


def test_a_run_that_was_killed_at_once_can_be_compared_too() -> None:
    done = call("report", str(recorded("here", seconds=10).path), str(recorded("there", seconds=0).path))
    assert done.exit_code == 0, done.output


def test_a_page_that_cannot_be_written_is_one_clear_line() -> None:
    here, there = recorded("here", seconds=10), recorded("there", seconds=10)
    (here.path / "compare.html").mkdir()
    done = call("report", str(here.path), str(there.path))
    assert done.exit_code == 3
    assert "compare.html cannot be written" in done.output


def test_a_run_with_too_many_messages_for_an_oracle_is_compared_without() -> None:
    here, there = recorded("here", seconds=10), recorded("there", seconds=10)
    for run in (here, there):
        run.write_scenario(read("stress-1m"))
    done = call("report", str(here.path), str(there.path))
    assert done.exit_code == 0, done.output
    assert "No oracle: " in (here.path / "compare.html").read_text()


def test_a_comparison_in_virtual_time_is_ranked_and_written() -> None:
    done = call("compare", "normal", "--simulate", "--laws", "pace,bounded", "--set", "phase.normal.duration_s=2")
    assert done.exit_code == 0, done.output
    [written] = Path("runs").glob("*/league.json")
    assert {standing["law"] for standing in json.loads(written.read_text())["standings"]} == {"pace", "bounded"}
    assert written.with_name("league.html").exists()


def test_a_later_run_that_fails_leaves_the_table_of_those_that_were_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(plan: Scenario) -> Recording:
        if plan.settings.producer.strategy == "bounded" and plan.duration_s > 1:
            raise ExperimentError("the machine is on fire")
        return simulate(plan)

    monkeypatch.setattr("backpressure.cli.compare.simulate", play)
    done = call("compare", "normal", "--simulate", "--laws", "pace,bounded", "--set", "phase.normal.duration_s=2")
    assert done.exit_code == 3
    assert "the machine is on fire; the table is of the runs that were finished" in done.output
    [written] = Path("runs").glob("*/league.json")
    assert [standing["law"] for standing in json.loads(written.read_text())["standings"]] == ["pace"]


def test_a_simulation_says_what_to_type_to_get_it_again() -> None:
    scenario = Path("my own.toml")
    scenario.write_text(read("normal"))
    length = "phase.normal.duration_s=2"
    done = call("simulate", str(scenario), "--set", length, "--set", "expect={}", "--strategy", "aimd", "--quiet")
    assert done.exit_code == 0, done.output
    [page] = Path("runs").glob("*/report.html")
    again = f"pace simulate &#x27;my own.toml&#x27; --set {length} --set &#x27;expect={{}}&#x27; --strategy aimd"
    assert f">{again}</pre>" in page.read_text()


def test_a_simulation_is_judged_like_a_run() -> None:
    done = call("simulate", "normal", "--set", "phase.normal.duration_s=2", "--set", "expect.processed=> 1e6")
    assert done.exit_code == 1
    assert "FAILED" in done.output


def junit_message(path: Path) -> str | None:
    [error] = ET.parse(path).getroot().iter("error")
    return error.get("message")


def test_a_run_that_never_began_replaces_the_verdict_of_the_one_before() -> None:
    junit = Path("junit.xml")
    junit.write_text("<testsuite/>")
    done = call("run", "recovry", "--junit", str(junit))
    assert done.exit_code == 2
    assert "did you mean recovery?" in (junit_message(junit) or "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_verdict_file_that_cannot_be_written_is_found_before_anything_starts() -> None:
    done = call("run", "normal", "--junit", "/dev/full")
    assert done.exit_code == 2
    assert done.output.count("\n") == 1
    assert "--junit = '/dev/full': cannot be written: No space left on device" in done.output
    assert not Path("runs").exists()


def test_a_run_that_ends_without_a_word_has_not_passed() -> None:
    junit = Path("junit.xml")
    JUnitFile(junit, "normal")
    assert junit_message(junit) == "the run did not come to its end"  # killed, or the machine was


def test_ctrl_c_while_the_report_is_made_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def conclude(_: RunDirectory) -> None:
        raise KeyboardInterrupt

    directory = recorded("a folder", seconds=1)

    def conducted(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr("backpressure.cli.run.conclude", conclude)
    monkeypatch.setattr("backpressure.cli.run._conduct", conducted)
    monkeypatch.setattr("backpressure.cli.run.create", lambda *_: directory)
    done = call("run", "normal")
    assert done.exit_code == 3
    again = f"pace report 'a folder/{directory.path.name}'"
    assert f"interrupted while the report was made; once it can be: {again}" in done.output


def test_ctrl_c_before_anything_was_measured_ends_a_run_with_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("backpressure.experiments.library.load", load)
    done = call("run", "normal", "--junit", "junit.xml")
    assert done.exit_code == 3
    assert "interrupted before the first phase had begun" in done.output
    assert "interrupted before the first phase had begun" in junit_message(Path("junit.xml"))


@pytest.mark.parametrize(("expected", "code", "verdict"), [("== 0", 0, "PASSED"), ("== 1", 1, "FAILED")])
def test_a_report_ends_with_the_exit_code_of_its_run(expected: str, code: int, verdict: str) -> None:
    directory = recorded("runs", seconds=3)
    directory.write_scenario(f'name = "t"\n[[phase]]\nname = "normal"\nduration_s = 3\n[expect]\nlost = "{expected}"\n')
    done = call("report", str(directory.path))
    assert (done.exit_code, verdict in done.output) == (code, True)


def test_a_report_of_a_run_that_did_not_finish_says_so_by_its_exit_code() -> None:
    assert call("report", str(recorded("runs", seconds=0).path)).exit_code == 3


def test_a_damaged_run_is_a_usage_error_of_one_line_for_a_report_and_a_comparison() -> None:
    sound, damaged = recorded("sound", seconds=3), recorded("damaged", seconds=3)
    (damaged.path / "samples.jsonl").write_text('{"t_s": "x"}\n')
    for folders in ([damaged], [damaged, sound], [sound, damaged]):
        done = call("report", *(str(directory.path) for directory in folders))
        assert done.exit_code == 2
        assert done.output.count("\n") == 1
        assert "samples.jsonl cannot be read: line 1: t_s" in done.output
