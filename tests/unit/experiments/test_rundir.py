"""The run directory: valid at every moment, read back as a recording."""

from __future__ import annotations

import resource
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backpressure.core.journal import ConsumerRecord, Outcome, ProducerRecord
from backpressure.errors import ConfigError, ExperimentError
from backpressure.experiments.conclude import conclude
from backpressure.experiments.events import (
    LoadChanged,
    Note,
    PhaseBegan,
    PhaseEnded,
    ProcessEnded,
    ProcessStarted,
    RunEnded,
)
from backpressure.experiments.library import read
from backpressure.experiments.rundir import RunDirectory, RunFacts, create
from backpressure.experiments.sample import Sample
from backpressure.telemetry.journal import JournalWriter

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
T0_NS = 1_000_000_000_000


def ns(t_s: float) -> int:
    return T0_NS + round(t_s * 1e9)


def recorded_run(runs: Path) -> RunDirectory:
    """Write what a run of ten messages leaves behind: nine processed, one left in the queue."""
    directory = create(runs, "normal", NOW)
    directory.write_scenario(read("normal"))
    directory.write_facts(
        RunFacts(
            strategy="pace",
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
    directory.append_event(PhaseBegan(at_ns=ns(0), name="normal"))
    directory.append_event(LoadChanged(at_ns=ns(0), capacity_per_s=1, demand_per_s=10))
    directory.append_event(Note(at_ns=ns(1), text="the queue <b>grows</b>"))
    directory.append_sample(Sample(t_s=1, ready=1, unacked=1, offered_total=10))
    with JournalWriter(directory.journal("producer-1")) as journal:
        for n in range(10):
            journal.write(ProducerRecord(1, n, Outcome.CONFIRMED, ns(n), ns(n), ns(n + 0.1)))
    with JournalWriter(directory.journal("consumer-1")) as journal:
        for n in range(9):
            times = (ns(n), ns(n), ns(n), ns(n + 0.2), ns(n + 0.3))
            journal.write(ConsumerRecord(1, n, Outcome.PROCESSED, *times))
    return directory


def finish(directory: RunDirectory) -> None:
    directory.append_event(PhaseEnded(at_ns=ns(10), name="normal"))
    directory.append_event(ProcessEnded(at_ns=ns(11), id="producer-1", code=0))
    with directory.writing_remains() as write:
        write(1, 9, "left_in_queue")
    directory.append_event(RunEnded(at_ns=ns(12), outcome="finished"))


def test_a_finished_run_is_read_back_and_balances(tmp_path: Path) -> None:
    directory = recorded_run(tmp_path)
    finish(directory)
    summary = conclude(directory)
    assert (summary.totals.processed, summary.totals.left_in_queue, summary.totals.lost) == (9, 1, 0)
    assert (summary.duration_s, summary.totals.offered, summary.depth.max) == (10, 10, 2)
    assert [process.pid for process in summary.processes] == [11]
    assert (directory.path / "summary.json").exists()


def test_a_run_that_was_killed_is_interrupted_and_calls_nothing_lost(tmp_path: Path) -> None:
    directory = recorded_run(tmp_path)
    with (directory.path / "samples.jsonl").open("a") as file:
        file.write('{"t_s": 2.0, "rea')  # cut off in the middle of a line
    summary = conclude(directory)
    assert summary.verdict == "interrupted"
    assert (summary.totals.lost, summary.totals.processed) == (None, 9)
    assert summary.phases[0].end_s == 1  # the last thing that was written down


def test_remains_that_were_not_read_to_the_end_do_not_count(tmp_path: Path) -> None:
    directory = recorded_run(tmp_path)
    with pytest.raises(ZeroDivisionError), directory.writing_remains() as write:
        write(1, 1 // 0, "left_in_queue")
    assert directory.recording().queues_read is False


def test_a_spoiled_line_is_named(tmp_path: Path) -> None:
    directory = recorded_run(tmp_path)
    with (directory.path / "events.jsonl").open("a") as file:
        file.write('{"kind": "nonsense"}\n')
    with pytest.raises(ExperimentError, match=r"events\.jsonl, line 5"):
        directory.events()


def test_a_folder_that_holds_no_run_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the directory of a run"):
        conclude(RunDirectory(tmp_path))


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    names = [create(tmp_path / "runs", "normal", NOW).path.name for _ in range(3)]
    assert names == ["20260102-030405-normal", "20260102-030405-normal-2", "20260102-030405-normal-3"]


def test_a_runs_folder_that_is_a_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(ConfigError, match="--runs"):
        create(tmp_path / "runs", "normal", NOW)


def test_the_report_stands_alone_and_trusts_no_text(tmp_path: Path) -> None:
    directory = recorded_run(tmp_path)
    finish(directory)
    conclude(directory)
    page = directory.report.read_text()
    assert "{{" not in page[: page.index("<script")]
    assert "the queue &lt;b&gt;grows" in page
    assert page.index("verdict passed") < page.index("<h2>Expectations") < page.index("<h2>Timeline")
    head = page[: page.index("<script>")]  # before Plotly's own text
    assert "http://" not in head
    assert "src=" not in head
    assert "prefers-color-scheme: dark" in head
    assert 'name="viewport"' in head


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
@pytest.mark.parametrize(
    ("file", "name", "write"),
    [
        ("events.jsonl", "events.jsonl", lambda d: d.append_event(Note(at_ns=1, text="more"))),
        ("summary.json.part", "summary.json", conclude),
        ("remains.csv.part", "remains.csv", finish),
    ],
)
def test_a_full_disk_is_one_clear_error(
    tmp_path: Path, file: str, name: str, write: Callable[[RunDirectory], object]
) -> None:
    directory = recorded_run(tmp_path)
    (directory.path / file).unlink(missing_ok=True)
    (directory.path / file).symlink_to("/dev/full")
    with pytest.raises(ExperimentError, match=f"{name} cannot be written: No space left on device"):
        write(directory)


def test_a_line_for_which_there_was_no_space_leaves_the_file_whole(tmp_path: Path) -> None:
    directory = recorded_run(tmp_path)
    events = directory.events()
    size = (directory.path / "events.jsonl").stat().st_size
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, most))  # ten bytes of the line fit
    try:
        with pytest.raises(ExperimentError, match="cannot be written"):
            directory.append_event(Note(at_ns=1, text="more"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert directory.events() == events
    directory.append_event(Note(at_ns=2, text="space again"))
    assert directory.events()[:-1] == events
