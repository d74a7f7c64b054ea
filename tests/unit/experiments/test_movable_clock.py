"""A process with a wall clock that another one moves: what it reads, and what is not affected."""

from __future__ import annotations

import runpy
import time
from pathlib import Path
from struct import pack

import pytest

from backpressure.engines.clock import Clock
from backpressure.experiments import fleet

MOVABLE_CLOCK = Path(fleet.__file__).with_name("movable_clock.py")
NOW_NS = 1_800_000_000_000_000_000


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the wall clock of this process at `NOW_NS`, plus what the file says."""
    path = tmp_path / "clock"
    path.write_bytes(pack("=q", 0))
    monkeypatch.setattr(time, "time_ns", lambda: NOW_NS)
    monkeypatch.setattr(time, "time", time.time)  # so that it is restored
    runpy.run_path(str(MOVABLE_CLOCK))["_move_with"](str(path))
    return path


def move(file: Path, by_s: int) -> None:
    with file.open("r+b") as opened:
        opened.write(pack("=q", by_s * 1_000_000_000))


@pytest.mark.parametrize("by_s", [60, -60])
def test_the_date_follows_the_file_at_once_and_comes_back(file: Path, by_s: int) -> None:
    assert time.time_ns() == NOW_NS
    move(file, by_s)
    assert time.time_ns() == NOW_NS + by_s * 1_000_000_000
    assert time.time() == NOW_NS / 1e9 + by_s
    move(file, 0)
    assert time.time_ns() == NOW_NS


@pytest.mark.parametrize("by_s", [60, -60])
def test_the_clock_of_the_engines_never_jumps(file: Path, monkeypatch: pytest.MonkeyPatch, by_s: int) -> None:
    monkeypatch.setattr(time, "monotonic_ns", lambda: 5_000_000_000)
    clock = Clock()
    before = clock.wall_ns(), clock.to_wall_ns(7.0)
    move(file, by_s)
    assert (clock.wall_ns(), clock.to_wall_ns(7.0)) == before == (NOW_NS, NOW_NS + 2_000_000_000)
