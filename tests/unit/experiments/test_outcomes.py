"""The outcomes that a service leaves behind: ids and times in files, answers and lines of the run's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backpressure.experiments.outcomes import (
    LedgerSettings,
    Sighting,
    line_of,
    read_line,
    sightings_in,
    size_of,
    tail_of,
)


def ids(text: str, **ledger: Any) -> list[str]:
    settings = LedgerSettings(outcome=["file:x"], **ledger)
    return [sighting.id for sighting in sightings_in(text, settings.reader())]


def test_ids_are_read_from_bare_lines_json_lines_and_arrays() -> None:
    assert ids("a\n b \n\n17\n") == ["a", "b", "17"]
    assert ids('["a", 17]') == ["a", "17"]
    assert ids('{"order": {"id": 5}}\n{"order": {"id": "x"}}\n', id="json:order.id") == ["5", "x"]
    assert ids('[{"message_id": "m"}, {"correlation_id": "c"}, {"other": 1}]') == ["m", "c"]
    assert ids('{"order_id": "h"}', id="header:order_id") == ["h"]


def test_a_line_that_is_still_being_written_is_left_out() -> None:
    assert ids('{"id": "a"}\n{"id": "b', id="json:id") == ["a"]


def test_times_of_an_outcome_are_read_in_any_usual_unit() -> None:
    reader = LedgerSettings(outcome=["file:x"], id="json:id", started="json:at", created="json:made").reader()
    text = '{"id": 1, "at": 1767323045.5, "made": "2026-01-02T03:04:05+00:00"}\n{"id": 2, "at": 1767323045500}'
    first, second = sightings_in(text, reader)
    assert (first.started_ns, first.created_ns) == (1_767_323_045_500_000_000, 1_767_323_045_000_000_000)
    assert second.started_ns == 1_767_323_045_500_000_000


def test_a_line_of_the_runs_file_is_read_as_it_was_written() -> None:
    sighting = Sighting('with\t"all" sorts\n', 1, 2, 3)
    assert read_line(line_of(-2, sighting)) == (-2, sighting)


def test_only_what_was_added_to_a_file_during_the_run_counts(tmp_path: Path) -> None:
    path = tmp_path / "done.txt"
    assert size_of(path) == 0
    path.write_text("old\n")
    before = size_of(path)
    with path.open("a") as file:
        file.write("new\n")
    assert tail_of(path, before) == "new\n"
    path.write_text("x\n")  # the service began a new file
    assert tail_of(path, before) == "x\n"


def test_a_source_may_lie_in_the_folder_of_the_run() -> None:
    settings = LedgerSettings.model_validate({"outcome": "file:{run}/done.txt", "dead_letter": "queue:failed"})
    done, failed = settings.sources(run="/runs/one")
    assert (done.kind, done.name, done.dead) == ("file", "/runs/one/done.txt", False)
    assert (failed.kind, failed.name, failed.dead) == ("queue", "failed", True)
    with pytest.raises(ValueError, match="expected queue:NAME"):
        LedgerSettings.model_validate({"outcome": ["queue:ok", "ftp://x"]})
