"""The Makefile, the pinned versions and the scripts of the continuous integration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = [
    "install",
    "kafka",
    "experiment",
    "test",
    "lint",
    "bench",
    "up",
    "baseline",
    "down",
    "logs",
    "monitor",
    "scale-consumer",
    "clean",
]


def make(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run make in this project; ``path`` comes first in the search for programs."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    if path is not None:
        environ["PATH"] = f"{path}{os.pathsep}{environ['PATH']}"
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


def program(path: Path, script: str) -> Path:
    """Write a shell script that stands in for a program of the machine."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


OLD_PYTHON = 'case "$1" in --version) echo "Python 3.9.2";; *) exit 1;; esac'


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_exists_and_is_explained(target: str) -> None:
    assert re.search(rf"^{target}:.*  ## \w", MAKEFILE, re.MULTILINE)
    assert f"make {target} " in make("help").stdout


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "clean"])
def test_a_target_sets_up_what_it_needs(target: str, tmp_path: Path) -> None:
    docker = program(tmp_path / "docker", "exit 0").parent
    dry_run = make("-n", f"VENV={tmp_path}/venv", target, path=docker)
    assert dry_run.returncode == 0, dry_run.stderr
    if f"{tmp_path}/venv/bin" in dry_run.stdout:
        assert f"-m venv {tmp_path}/venv" in dry_run.stdout


def test_an_old_python_is_named_with_the_way_out(tmp_path: Path) -> None:
    result = make("install", f"VENV={tmp_path}/venv", f"PYTHON={program(tmp_path / 'python3', OLD_PYTHON)}")
    assert result.returncode != 0
    assert f"Python 3.11 or later is needed; {tmp_path}/python3 is Python 3.9.2." in result.stdout


def test_a_machine_without_any_suitable_python_gets_a_message_that_says_so(tmp_path: Path) -> None:
    result = make("install", f"VENV={tmp_path}/venv", "PYTHON=", path=program(tmp_path / "python3", OLD_PYTHON).parent)
    assert result.returncode != 0
    assert "no python3 on the PATH is one (found: Python 3.9.2)" in result.stdout


def test_a_newer_python_is_found_beside_an_old_python3(tmp_path: Path) -> None:
    program(tmp_path / "python3", OLD_PYTHON)
    program(tmp_path / "python3.14", OLD_PYTHON)
    program(tmp_path / "python3.13", f'exec "{sys.executable}" "$@"')
    dry_run = make("-n", "install", f"VENV={tmp_path}/venv", path=tmp_path)
    assert f"python3.13 -m venv {tmp_path}/venv" in dry_run.stdout


def test_a_python_that_cannot_make_environments_is_named_with_the_way_out(tmp_path: Path) -> None:
    without_venv = program(
        tmp_path / "python3", f'case "$2" in *ensurepip*) exit 1;; esac; exec "{sys.executable}" "$@"'
    )
    result = make("install", f"VENV={tmp_path}/venv", f"PYTHON={without_venv}")
    assert result.returncode != 0
    assert "cannot make virtual environments" in result.stdout
    assert "apt-get install python3-venv" in result.stdout


@pytest.mark.parametrize("target", ["up", "baseline", "down", "logs", "scale-consumer"])
def test_without_docker_a_target_says_so(target: str, tmp_path: Path) -> None:
    result = make(target, path=program(tmp_path / "docker", "exit 1").parent)
    assert result.returncode != 0
    assert result.stdout == (
        "Docker with its compose plugin is needed for this, and is not here. Without it: make experiment\n"
    )


def test_the_baseline_in_containers_is_that_of_the_labs_terminals(tmp_path: Path) -> None:
    docker = program(tmp_path / "docker", 'case "$*" in *up*) env;; esac')
    started = make("baseline", path=docker.parent).stdout.splitlines()
    assert {"PACE_PRODUCER__RATE=10", "PACE_PRODUCER__STRATEGY=unbounded", "PACE_CONSUMER__RATE=10"} < set(started)
    terminals = (ROOT / "docs" / "labs" / "README.md").read_text(encoding="utf-8")
    assert "fast_producer.py --rate 10 --strategy unbounded\n" in terminals
    assert "slow_consumer.py --rate 10 " in terminals


def normalised(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def test_everything_that_is_installed_directly_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert {normalised(requirement) for requirement in wanted} <= {normalised(pin) for pin in pins}


def test_the_scripts_are_sound_shell() -> None:
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=False).returncode == 0
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_continuous_integration_requires_what_it_installs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert {"packages+=(rabbitmq-server)", "packages+=(maven)", "packages+=(prometheus)"} <= set(
        re.findall(r"packages\+=\(.*?\)", script)
    )
    assert "export PACE_REQUIRE_BROKERS=rabbitmq,kafka PACE_REQUIRE_TOOLS=prometheus" in script
    assert script.rstrip().endswith("make test")
