"""The files for contributors are true: workflow, templates and hooks name commands and files that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MAKE_TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
HOOKS: list[dict[str, Any]] = [
    hook
    for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    for hook in repository["hooks"]
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_workflow_tests_every_python_that_is_declared() -> None:
    declared = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert WORKFLOW["jobs"]["python"]["strategy"]["matrix"]["python"] == declared


def test_the_workflow_runs_what_exists_and_may_only_read() -> None:
    commands = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    for program, *words in (shlex.split(command, comments=True) for command in commands):
        if program == "make":
            assert {word for word in words if "=" not in word} <= MAKE_TARGETS
        elif program != "apt-get":
            assert (ROOT / program).is_file(), program
    assert {"make lint", "make test"} <= {command.partition("  #")[0] for command in commands}
    assert WORKFLOW["permissions"] == {"contents": "read"}
    actions = [step["uses"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in actions)


def test_the_hooks_run_the_checks_of_make_lint() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    tools = set(re.findall(r"\$\(BIN\)/([\w-]+)", recipe[1]))
    hooks = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in HOOKS}
    assert tools <= hooks
    wanted = {re.split(r"[<>=]", requirement)[0] for requirement in PROJECT["dependency-groups"]["dev"]}
    assert {"ruff", "mypy", "import-linter"} <= wanted


@pytest.mark.parametrize(("subject", "code"), [("x" * 72, 0), ("x" * 73, 1), ("Say ü in 72 " + "ü" * 60, 0), ("", 1)])
def test_a_long_subject_is_refused(tmp_path: Path, subject: str, code: int) -> None:
    (hook,) = [hook for hook in HOOKS if hook["id"] == "subject"]
    message = tmp_path / "message"
    message.write_text(f"{subject}\n\n{'body ' * 40}\n", encoding="utf-8")
    done = subprocess.run([*shlex.split(hook["entry"]), message], capture_output=True, check=False)
    assert done.returncode == code


FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_template_is_a_form_that_github_takes(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert all({"name", "url", "about"} == link.keys() for link in form["contact_links"])
        return
    assert {"name", "description", "body"} <= form.keys()
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
    assert all({"type", "attributes"} <= field.keys() and field["attributes"]["label"] for field in form["body"])


def test_the_page_names_the_files_for_each_kind_of_addition() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for what in ("law", "fault", "scenario", "broker"):
        section = page.partition(f"## How to add a {what}\n")[2].partition("\n## ")[0]
        assert re.search(r"`(backpressure|tests)/", section), what
