"""What the core of the package does without the extras, and what it says where one is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from backpressure.cli.commands import _BENCH, _COMMANDS
from backpressure.cli.main import _CORE
from backpressure.errors import MissingExtraError
from backpressure.extras import EXTRAS, lacks, require

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if {condition}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""
OPTIONAL = {package for packages in EXTRAS.values() for package in packages}
CORE_ALONE = BLOCK.format(condition=f"name in {OPTIONAL!r}")
STANDARD_LIBRARY_ALONE = BLOCK.format(
    condition="name.partition('.')[0] not in {*sys.stdlib_module_names, 'backpressure'}"
)
IMPORT_ALL = """
import json, pkgutil, importlib, backpressure
from backpressure.errors import MissingExtraError
result = {"imported": [], "refused": [], "wrong": {}}
for found in pkgutil.walk_packages(backpressure.__path__, "backpressure."):
    if found.name.startswith("backpressure.cli.") or found.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(found.name)
        result["imported"].append(found.name)
    except MissingExtraError as error:
        result["refused"].append(found.name)
    except Exception as error:
        result["wrong"][found.name] = repr(error)
print(json.dumps(result))
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def distributions(requirements: list[str]) -> set[str]:
    """Return the names in ``requirements``, as they are compared."""
    return {re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def brought_by(packages: tuple[str, ...]) -> set[str]:
    """Return the distributions that have ``packages``, as far as their names tell them apart."""
    known = packages_distributions()
    return {name.lower().replace("_", "-") for package in packages for name in known[package.partition(".")[0]]}


def test_every_extra_of_the_project_is_known_with_its_packages() -> None:
    declared = PROJECT["optional-dependencies"]
    assert set(declared) == set(EXTRAS)
    for extra, packages in EXTRAS.items():
        assert distributions(declared[extra]) <= brought_by(packages), extra


def test_what_the_core_needs_is_known_by_the_message_for_a_missing_library() -> None:
    assert distributions(PROJECT["dependencies"]) <= brought_by(tuple(_CORE))


def test_what_a_development_environment_has_lacks_nothing() -> None:
    assert not any(lacks(extra) for extra in EXTRAS)


def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtraError) as caught:
        require("bench", "the report")
    assert str(caught.value) == "the report needs the extra bench: pip install 'pace-matching[bench]'"
    assert (caught.value.exit_code, caught.value.extra) == (2, "bench")
    assert isinstance(caught.value, ImportError)  # for those who try to import it


def test_a_pacer_needs_nothing_but_the_standard_library() -> None:
    result = run(
        f"{STANDARD_LIBRARY_ALONE}\n"
        "from backpressure import ConfirmWindow, OrderTracker, Pacer, RetryPolicy, SignalBoard, TokenBucket\n"
        "from backpressure import create_law\n"
        "pacer = Pacer('pace', now=0.0)\nprint(type(pacer).__name__)"
    )
    assert (result.stdout, result.stderr) == ("Pacer\n", "")


def test_the_package_itself_loads_none_of_its_parts() -> None:
    code = "import sys; before = set(sys.modules); import backpressure; print(sorted(set(sys.modules) - before))"
    assert run(code).stdout == "['__future__', 'backpressure', 'backpressure.version']\n"


def test_every_public_name_is_there_without_any_extra() -> None:
    result = run(f"{CORE_ALONE}\nimport backpressure\nfor name in backpressure.__all__: getattr(backpressure, name)")
    assert result.stderr == ""


def test_a_module_without_its_extra_says_so_and_all_others_can_be_imported() -> None:
    result = json.loads(run(CORE_ALONE + IMPORT_ALL).stdout)
    assert result["wrong"] == {}
    assert "backpressure.transports.rabbitmq.publisher" in result["imported"]
    assert "backpressure.broker.server" in result["imported"]
    layers = {name.split(".")[1] for name in result["refused"]}
    assert layers == {
        "api",
        "dashboards",
        "experiments",
        "integrations",
        "lab",
        "presentation",
        "telemetry",
        "transports",
        "ui",
    }
    assert {name for name in result["refused"] if name.split(".")[1] in {"telemetry", "transports"}} == {
        "backpressure.telemetry.tracing_otel",
        "backpressure.transports.kafka",
    }


def pace(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `pace` with the core alone."""
    return run(f"{CORE_ALONE}\nfrom backpressure.cli.main import main\nmain()", *arguments)


@pytest.mark.parametrize("command", sorted(_BENCH))
def test_a_command_that_needs_more_than_the_core_says_so_in_one_line(command: str) -> None:
    result = pace(command, "anything", "--once")
    assert result.stderr == f"error: pace {command} needs the extra bench: pip install 'pace-matching[bench]'\n"
    assert (result.returncode, result.stdout) == (2, "")


@pytest.mark.parametrize("command", sorted(set(_COMMANDS) - _BENCH))
def test_every_other_command_works_with_the_core_alone(command: str) -> None:
    result = pace(command, "--help")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "feature", "extra"),
    [
        (["producer", "--url", "memory://here", "--api-port", "0"], "an HTTP API", "bench"),
        (["producer", "--url", "kafka://localhost"], "Kafka", "kafka"),
        (["consumer", "--window"], "--window", "bench"),
        (["cleanup", "--all", "--url", "kafka://localhost"], "Kafka", "kafka"),
    ],
)
def test_an_option_that_needs_more_than_the_core_says_so_in_one_line(
    arguments: list[str], feature: str, extra: str
) -> None:
    result = pace(*arguments)
    assert result.stderr == f"error: {feature} needs the extra {extra}: pip install 'pace-matching[{extra}]'\n"
    assert result.returncode == 2


def test_a_producer_without_the_extra_for_its_control_api_runs_and_mentions_it() -> None:
    result = pace("producer", "--url", "memory://here", "--count", "3", "--strategy", "unbounded")
    assert "WARNING the control API is not served: it needs the extra bench" in result.stderr
    assert "confirmed=3" in result.stdout
    assert result.returncode == 0


def test_the_list_of_commands_tells_which_ones_need_more_than_the_core() -> None:
    core, _, bench = pace("--help").stdout.partition(
        "Commands of the extra bench (pip install 'pace-matching[bench]'):"
    )
    assert "  producer " in core
    assert "  monitor " not in core
    assert "  monitor " in bench


def test_a_script_outside_its_environment_says_what_to_do_instead_of_a_traceback() -> None:
    result = run(BLOCK.format(condition="name == 'click'") + "from backpressure.cli.main import main\nmain()")
    assert result.stderr == (
        f"error: click is not installed for {sys.executable}: run `make install`, then use .venv/bin/python\n"
    )
    assert result.returncode == 2
