"""The example scenarios with consumers that nobody here wrote: a Celery worker, a Node worker, Java's PerfTest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from backpressure.experiments.document import parse
from backpressure.experiments.scenario import build
from backpressure.experiments.summary import Summary

ROOT = Path(__file__).parents[2]
SERVICES = ROOT / "examples" / "services"
PERF_TEST = ROOT / ".perf-test"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder in which the examples are found as in the repository."""
    shutil.copytree(SERVICES, tmp_path / "examples" / "services", ignore=shutil.ignore_patterns("node_modules"))
    return tmp_path


def judged(folder: Path, scenario: str, *assignments: str) -> tuple[int, Summary]:
    """Run an example, shortened to its calm phase and the kill."""
    path = folder / "examples" / "services" / scenario
    head, *phases = path.read_text(encoding="utf-8").split("[[phase]]")
    expectations = phases[-1][phases[-1].index("[expect]") :]
    path.write_text("[[phase]]".join([head, *phases[:2]]) + expectations, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "backpressure",
        "run",
        str(path),
        "--runs",
        "runs",
        "--set",
        "phase.calm.duration_s=2",
    ]
    for assignment in ("phase.killed.duration_s=4", *assignments):
        command += ["--set", assignment]
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False)
    found = [*folder.glob("runs/*/summary.json")]
    assert found, ran.stderr
    return ran.returncode, Summary.model_validate(json.loads(found[0].read_bytes()))


@pytest.mark.parametrize("path", sorted(SERVICES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_is_a_scenario(path: Path) -> None:
    scenario = build(parse(path.read_text(encoding="utf-8"), path.name), path.name)
    assert [phase.name for phase in scenario.phases] == ["calm", "killed", "hung", "slow"]


@pytest.mark.slow
@pytest.mark.parametrize("late", [True, False])
def test_a_celery_worker_that_is_killed_loses_nothing_only_if_it_acknowledges_late(folder: Path, *, late: bool) -> None:
    code, summary = judged(folder, "celery.toml", f"consumer.environment.ACKS_LATE={int(late)}")
    assert summary.totals.processed
    assert summary.totals.lost is not None
    if late:
        assert (code, summary.totals.lost) == (0, 0)
    else:  # it may have been killed between two tasks
        assert code == (1 if summary.totals.lost else 0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["", " auto"])
def test_a_node_worker_that_is_killed_is_found_out_if_it_acknowledges_automatically(
    folder: Path, mode: str, go_without: Callable[[str, str], NoReturn]
) -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        go_without("node", "the example needs node and npm")
    services = folder / "examples" / "services"
    fetched = subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund"], cwd=services, capture_output=True, check=False
    )
    if fetched.returncode:
        go_without("node", "npm cannot fetch amqplib")
    code, summary = judged(
        folder, "node.toml", "consumer.command=node examples/services/worker.js {url} {queue} results" + mode
    )
    assert summary.totals.processed
    assert summary.totals.lost is not None
    assert summary.totals.lost > 0 if mode else summary.totals.lost == 0
    assert code == (1 if mode else 0)


@pytest.mark.slow
def test_perf_test_is_judged_by_its_acknowledgements_and_what_it_lost_is_unknown(
    folder: Path, go_without: Callable[[str, str], NoReturn]
) -> None:
    if shutil.which("java") is None or not PERF_TEST.is_dir():
        go_without("perftest", "the example needs Java and what `make perf-test` fetches")
    (folder / ".perf-test").symlink_to(PERF_TEST)
    code, summary = judged(folder, "perf-test.toml")
    assert code == 0
    assert summary.totals.processed == summary.totals.acknowledged
    assert summary.totals.processed
    assert summary.totals.lost is None
    assert summary.sources["processed"] == "acknowledgements, counted by the broker (management API)"
