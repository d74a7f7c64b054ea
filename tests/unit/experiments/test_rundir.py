"""The run directory: valid at every moment, read back as a recording."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backpressure.core.journal import ConsumerRecord, Outcome, ProducerRecord
from backpressure.errors import ConfigError, ExperimentError
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
from backpressure.experiments.recording import Sample
from backpressure.experiments.report import conclude
from backpressure.experiments.rundir import RunDirectory, RunFacts, create
from backpressure.telemetry.journal_file import JournalWriter

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
    with directory.writing_leftovers() as write:
        write(1, 9, "left_in_queue")
    directory.append_event(RunEnded(at_ns=ns(12), outcome="finished"))


def test_a_finished_run_is_read_back_and_balances(tmp_path: Path) -> None:
    directory = recorded_run(tmp_path)
    finish(directory)
    summary = conclude(directory)
    assert (summary.totals.processed, summary.totals.left_in_queue, summary.totals.lost) == (9, 1, 0)
    assert (summary.duration_s, summary.totals.offered, summary.depth.max) == (10, 10, 1)
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
    with pytest.raises(ZeroDivisionError), directory.writing_leftovers() as write:
        write(1, 1 // 0, "left_in_queue")
    assert directory.recording().queues_read is False


RECORD = ProducerRecord(1, 1, Outcome.CONFIRMED, 1, 1, 1).pack()
DELIVERY = ConsumerRecord(1, 1, Outcome.PROCESSED, 1, 1, 1, 1, 1).pack()
DAMAGES = [
    ("run.json", b"", "run.json cannot be read: Invalid JSON"),
    ("run.json", b"[]", "run.json cannot be read: Input should be an object"),
    ("run.json", b'{"strategy": 1}', "run.json cannot be read: strategy: "),
    ("run.json", None, "not the directory of a run that has begun"),
    ("scenario.toml", None, "scenario.toml cannot be read: No such file"),
    ("scenario.toml", b"name = \xff", "scenario.toml cannot be read: 'utf-8' codec"),
    ("scenario.toml", b"name = ", "not valid TOML"),
    ("scenario.toml", b'name = "t"', "is required"),
    ("events.jsonl", None, "events.jsonl cannot be read: No such file"),
    ("events.jsonl", b'{"kind": "nonsense"}\n', "events.jsonl cannot be read: line 1: "),
    ("events.jsonl", b'\n{"kind": "note"}\n', "events.jsonl cannot be read: line 1: "),
    ("events.jsonl", b'{"kind": "phase_began", "name": "a", "at_ns": 1e300}\n', "line 1: phase_began.at_ns"),
    ("events.jsonl", b"\xff\xfe\n", "events.jsonl cannot be read: line 1: "),
    ("samples.jsonl", b'{"t_s": 1}\n[]\n', "samples.jsonl cannot be read: line 2: "),
    ("samples.jsonl", b'{"t_s": "1"}\n', "samples.jsonl cannot be read: line 1: t_s"),
    ("samples.jsonl", b'{"t_s": NaN}\n', "samples.jsonl cannot be read: line 1: t_s"),
    ("samples.jsonl", b'{"t_s": 1, "rss_mb": 7}\n', "samples.jsonl cannot be read: line 1: rss_mb"),
    ("remains.csv", b"1,2\n", "remains.csv cannot be read: line 1 is not"),
    ("remains.csv", b"1,2,dropped\n1,2,eaten\n", "remains.csv cannot be read: line 2 is not"),
    ("remains.csv", b"1,2,dropped\n1,3,drop", "remains.csv cannot be read: line 2 is not"),
    ("remains.csv", b"\xff", "remains.csv cannot be read: 'ascii' codec"),
    ("journals/producer-1.journal", None, "journals/producer-1.journal cannot be read: No such file"),
    ("journals/producer-1.journal", b"{" * 64, "producer-1.journal cannot be read: there are no records of kind 123"),
    ("journals/producer-1.journal", b"\1\x63" + bytes(62), "kind 1 cannot have the outcome 99"),
    ("journals/producer-1.journal", b"\1\5" + bytes(62), "kind 1 cannot have the outcome 5"),
    (
        "journals/producer-1.journal",
        DELIVERY,
        "producer-1.journal cannot be read: it holds the records of another kind",
    ),
    ("journals/consumer-1.journal", RECORD, "consumer-1.journal cannot be read: it holds the records of another kind"),
    ("journals/producer-1.journal", RECORD + bytes(64) + RECORD, "there are records behind its end"),
    ("journals/consumer-1.journal", DELIVERY[:-8] + bytes(7) + b"\x80", "consumer-1.journal cannot be read"),
]


@pytest.mark.parametrize(("name", "content", "problem"), DAMAGES, ids=[f"{n}-{p[-20:]}" for n, _, p in DAMAGES])
def test_a_damaged_run_is_a_usage_error_that_names_the_file(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    directory = recorded_run(tmp_path)
    finish(directory)
    if content is None:
        (directory.path / name).unlink()
    else:
        (directory.path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        conclude(directory)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["run.json", "scenario.toml", "events.jsonl", "samples.jsonl", "remains.csv", "journals"]
)
def test_a_folder_instead_of_a_file_or_the_reverse_is_a_usage_error(tmp_path: Path, name: str) -> None:
    directory = recorded_run(tmp_path)
    finish(directory)
    path = directory.path / name
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        conclude(directory)


def test_a_record_that_was_cut_off_by_a_kill_does_not_count_and_spoils_nothing(tmp_path: Path) -> None:
    directory = recorded_run(tmp_path)
    with directory.journal("producer-1").open("ab") as file:
        file.write(RECORD[:40])
    assert conclude(directory).totals.confirmed == 10


def test_a_journal_whose_process_was_killed_ends_where_its_zeros_begin(tmp_path: Path) -> None:
    directory = recorded_run(tmp_path)
    with directory.journal("producer-1").open("ab") as file:
        file.write(bytes(3 << 20))  # more than is read at a time
    assert conclude(directory).totals.confirmed == 10


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
    head = page[: page.index('<script type="module">')]  # before the text of the charts
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
