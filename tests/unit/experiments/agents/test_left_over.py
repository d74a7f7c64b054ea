"""What a killed agent has left is removed by the next one, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from backpressure.experiments.agents.agent import remove_left_over


def test_only_the_folders_of_agents_that_have_ended_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = tmp_path / f"pace-agent-{int(ended.stdout)}-x1y2"
    others = [
        tmp_path / name for name in (f"pace-agent-{os.getpid()}-x1y2", "pace-agent-notes-x", "pace-agent", "other")
    ]
    for folder in (dead, *others):
        (folder / "run").mkdir(parents=True)
    remove_left_over()
    assert sorted(tmp_path.iterdir()) == sorted(others)
