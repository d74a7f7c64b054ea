"""The group of all commands: what it loads, and how a command ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from backpressure.cli.commands import PaceGroup, pace
from backpressure.errors import ExperimentError

ROOT = Path(__file__).parents[3]


def test_help_loads_no_command_and_shows_every_summary_on_one_line() -> None:
    code = (
        "import sys; from backpressure.cli.commands import pace; pace(['--help'], standalone_mode=False);"
        " print(sorted(m for m in sys.modules if m.partition('.')[0] in {'pydantic', 'rich', 'pika', 'asyncio'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    listed = done.stdout.partition("Commands:\n")[2].splitlines()[:-1]
    assert [line.split()[0] for line in listed] == pace.list_commands(click.Context(pace))
    assert all(line.endswith(".") for line in listed)


def test_every_command_that_is_listed_can_be_loaded() -> None:
    context = click.Context(pace)
    assert all(pace.get_command(context, name) for name in pace.list_commands(context))
    assert pace.get_command(context, "nonsense") is None


def group(error: BaseException) -> PaceGroup:
    @click.command()
    def fail() -> None:
        raise error

    return PaceGroup(commands={"fail": fail})


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ExperimentError("no broker"), 3, "error: no broker\n"),
        (ExperimentError("queue \x1b[2J\n  advice"), 3, "error: queue ·[2J\n  advice\n"),
        (PermissionError(13, "Permission denied", "/a/file"), 3, "error: /a/file: Permission denied\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_command_ends_with_one_message_and_its_exit_code(error: BaseException, code: int, said: str) -> None:
    done = CliRunner().invoke(group(error), ["fail"])
    assert (done.exit_code, done.output) == (code, said)


def test_an_error_without_a_file_is_ours_and_shows_where() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        CliRunner().invoke(group(OSError(9, "Bad file descriptor")), ["fail"], catch_exceptions=False)


def test_a_question_that_is_answered_with_ctrl_c_ends_as_ctrl_c_does(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def ask() -> None:
        click.confirm("Sure?", abort=True)

    def interrupt(_prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.termui.visible_prompt_func", interrupt)
    with pytest.raises(SystemExit) as ended:
        PaceGroup(commands={"ask": ask}).main(["ask"])
    assert ended.value.code == 130


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(pace, ["init", str(tmp_path / "file" / "folder")])
    assert done.exit_code == 3
    assert done.output == f"error: {tmp_path / 'file' / 'folder'}: Not a directory\n"


@pytest.mark.parametrize("script", ["fast_producer.py", "slow_consumer.py", "monitor.py"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_a_script_shows_its_help_as_pace_does(script: str, flag: str) -> None:
    done = subprocess.run([sys.executable, ROOT / script, flag], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python {script} [OPTIONS]" in done.stdout


def test_a_scenario_in_place_of_a_command_is_pointed_to_the_one_that_prints_it() -> None:
    done = CliRunner().invoke(pace, ["scenarios", "normal"])
    assert done.exit_code == 2
    assert "`pace scenarios show normal` prints" in done.output


def test_a_scenario_in_yaml_is_told_that_toml_is_expected(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nphases:\n  - name: all\n")
    done = CliRunner().invoke(pace, ["simulate", str(tmp_path / "mine.yaml")])
    assert done.exit_code == 2
    assert "written in TOML, not YAML" in done.output
