"""What a CI server runs: action, workflows and GitLab jobs name options, inputs and files that exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from backpressure.cli.run import run as run_command
from backpressure.experiments import library

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
WORKFLOWS = [ROOT / ".github/workflows/pace.yml", ROOT / "examples/github-workflow.yml"]
GITLAB: dict[str, Any] = yaml.safe_load((ROOT / "examples/gitlab-ci.yml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
OPTIONS = {name for parameter in run_command.params for name in parameter.opts}


def uses_of_the_action() -> Iterator[dict[str, Any]]:
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            for step in job["steps"]:
                if step.get("uses", "").startswith(("./", "pace-matching/")):
                    yield step["with"]
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        yield from (step["with"] for step in yaml.safe_load(block))


def commands() -> Iterator[str]:
    """Yield every `pace run` of the files and of the page."""
    scripts = [line for job in GITLAB.values() for line in job["script"]]
    scripts += [line for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    yield from (line for line in scripts if "pace run" in line)


def test_the_workflows_use_inputs_that_the_action_has() -> None:
    uses = list(uses_of_the_action())
    assert len(uses) == 3
    for inputs in uses:
        assert inputs.keys() <= ACTION["inputs"].keys()


def test_the_page_documents_every_input_with_its_default() -> None:
    for name, declared in ACTION["inputs"].items():
        [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
        default = declared["default"]
        assert row.split("|")[2].strip() == (f"`{default}`" if default else "")


def test_every_command_has_options_and_scenarios_that_exist() -> None:
    found = list(commands())
    assert len(found) == 3
    for line in found:
        words = shlex.split(line)
        assert words[2] in library.shipped()
        assert {word for word in words if word.startswith("--")} <= OPTIONS


def test_no_input_is_pasted_into_a_script() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


def test_the_page_links_to_examples_that_exist() -> None:
    for link in re.findall(r"\]\(\.\./(examples/[^)]+)\)", PAGE):
        assert (ROOT / link).is_file()


@pytest.mark.parametrize(("code", "baseline"), [(0, ""), (1, "old"), (3, "missing")])
def test_the_step_of_the_action_passes_its_inputs_on_and_ends_as_the_run_does(
    code: int, baseline: str, tmp_path: Path
) -> None:
    [step] = [step for step in ACTION["runs"]["steps"] if step.get("id") == "run"]
    stand_in = tmp_path / "bin" / "pace"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > called\nmkdir -p results/1\nexit {code}\n')
    stand_in.chmod(0o755)
    (tmp_path / "old").mkdir()
    given = {
        "SCENARIO": "my scenario.toml",
        "BROKER": "embedded",
        "STRATEGY": "",
        "OVERRIDES": "producer.rate=500\nexpect.lost=== 0\n",
        "REPEAT": "2",
        "BASELINE": baseline,
        "MAX_REGRESSION": "10%",
        "RUNS": "results",
        "JUNIT": "j.xml",
    }
    assert given.keys() == step["env"].keys()
    files = {"GITHUB_STEP_SUMMARY": "summary.md", "GITHUB_OUTPUT": "output"}
    search = {"PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=given | files | search, check=False)
    assert done.returncode == code
    called = (tmp_path / "called").read_text().splitlines()
    assert called[:2] == ["run", "my scenario.toml"]
    assert called[-4:] == ["--set", "producer.rate=500", "--set", "expect.lost=== 0"]
    assert ("--baseline" in called) == (baseline == "old")
    assert (tmp_path / "output").read_text() == "summary=results/1/summary.json\nreport=results/1/report.html\n"
