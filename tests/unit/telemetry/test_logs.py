"""The format of log lines, and that a flood of warnings is limited and counted."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from backpressure.settings import LogSettings
from backpressure.telemetry.logs import _MOST_KINDS, _Repeats, configure


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger of the package; the logging of the test run is put back afterwards."""
    root, package = logging.getLogger(), logging.getLogger("backpressure")
    kept, level, package_level = root.handlers[:], root.level, package.level
    yield logging.getLogger("backpressure.engines.producer")
    root.handlers[:] = kept
    root.setLevel(level)
    package.setLevel(package_level)


def warning(
    at_s: float, text: str = "cannot settle %s", *args: object, level: int = logging.WARNING
) -> logging.LogRecord:
    record = logging.LogRecord("backpressure.x", level, "x.py", 1, text, args, None)
    record.created = at_s
    return record


def test_json_is_one_object_a_line_whatever_the_text(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogSettings(format="json"))
    log.info('two\nlines, a "quote" and an é: %s', "value")
    log.error("it failed", exc_info=ValueError("broken"))
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["message"] == 'two\nlines, a "quote" and an é: value'
    assert (first["level"], first["logger"]) == ("INFO", "backpressure.engines.producer")
    assert first["time"].endswith("+00:00")
    assert "exception" not in first
    assert "ValueError: broken" in second["exception"]


def test_text_says_when_how_bad_and_what(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogSettings())
    log.warning("the queue is %s", "full")
    time, level, message = capsys.readouterr().err.strip().split(None, 2)
    assert (level, message) == ("WARNING", "the queue is full")
    assert len(time.split(":")) == 3


def test_text_of_other_processes_does_not_steer_the_terminal(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(LogSettings())
    log.warning("%s", "queue \x1b[2J\ud800 is gone\n  1. \x9b31m")
    said = capsys.readouterr().err
    assert "queue ·[2J· is gone\n  1. ·31m\n" in said


def test_libraries_speak_up_only_when_something_is_wrong(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(LogSettings(level="DEBUG"))
    logging.getLogger("httpx").info("chatter")
    logging.getLogger("httpx").error("trouble")
    log.debug("detail")
    assert [line.split(None, 2)[2] for line in capsys.readouterr().err.splitlines()] == ["trouble", "detail"]


def test_a_warning_that_repeats_is_said_a_few_times_then_counted() -> None:
    repeats = _Repeats()
    records = [warning(100 + n / 1000, "cannot settle %s", n) for n in range(1000)]
    assert [record.args for record in records if repeats.filter(record)] == [(n,) for n in range(5)]
    later = warning(111, "cannot settle %s", 1000)
    assert repeats.filter(later)
    assert later.getMessage() == "cannot settle 1000 (995 more of these were left out)"


def test_another_kind_of_warning_is_not_held_back_by_a_flood() -> None:
    repeats = _Repeats()
    for _ in range(100):
        repeats.filter(warning(100))
    assert repeats.filter(warning(100, "something else"))


def test_what_is_not_a_warning_is_never_held_back() -> None:
    repeats = _Repeats()
    assert all(repeats.filter(warning(100, level=logging.INFO)) for _ in range(100))


def test_after_a_quiet_time_nothing_is_said_to_be_left_out() -> None:
    repeats = _Repeats()
    repeats.filter(warning(100))
    again = warning(200, "cannot settle %s", 7)
    assert repeats.filter(again)
    assert again.getMessage() == "cannot settle 7"


def test_texts_without_end_take_no_memory_without_end() -> None:
    repeats = _Repeats()
    for number in range(3 * _MOST_KINDS):
        assert repeats.filter(warning(100, f"text {number}"))
    assert len(repeats._windows) <= _MOST_KINDS
