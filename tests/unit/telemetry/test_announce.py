"""How a process announces that it is ready."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backpressure.telemetry.own_process import announce


def test_the_facts_and_the_pid_are_in_the_file(tmp_path: Path) -> None:
    announce(str(tmp_path / "ready.json"), api_url="http://127.0.0.1:5000")
    facts = json.loads((tmp_path / "ready.json").read_text(encoding="utf-8"))
    assert facts == {"pid": os.getpid(), "ready": True, "api_url": "http://127.0.0.1:5000"}


def test_a_second_announcement_replaces_the_first_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    announce(str(tmp_path / "ready.json"), port=1)
    announce(str(tmp_path / "ready.json"), port=2)
    assert [path.name for path in tmp_path.iterdir()] == ["ready.json"]
    assert json.loads((tmp_path / "ready.json").read_text(encoding="utf-8"))["port"] == 2


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    announce("", port=1)
    assert list(tmp_path.iterdir()) == []
