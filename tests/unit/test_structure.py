"""Names are easy to find: a class name is defined once, and modules of one name mean the same."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "backpressure"

SHARED_NAMES = {
    "__init__": "packages",
    "__main__": "`python -m` of a package",
    "admin": "one for each transport",
    "agent": "the agent: its command and its side of a run",
    "consumer": "the consumer: its command, its engine, its HTTP API",
    "deaths": "the header x-death: its table in AMQP, and what transports do with it",
    "failures": "one for each transport",
    "faults": "what can be broken on purpose: in the embedded broker, and in a scenario",
    "feedback": "one for each transport",
    "lab": "the lab: its command and the package",
    "monitor": "the monitor: its command and its HTTP API",
    "prefetch": "the rule, and its use by the consumer",
    "probe": "one for each transport",
    "producer": "the producer: its command, its engine, its HTTP API",
    "proxy": "the proxy: its command and its HTTP API",
    "publisher": "one for each transport",
    "simulate": "simulations: the command and what it runs",
    "subscriber": "one for each transport",
}
"""Names that several modules have because they mean the same."""

LISTED = {
    "__init__", "errors", "laws", "settings", "testing", "version",
    *(f"integrations/{name}" for name in ("celery_app", "kombu_producer", "paced_metrics", "paced_queues")),
    *(f"integrations/{name}_middleware" for name in ("dramatiq", "faststream", "taskiq")),
    "core/controllers/__init__", "core/plant/__init__", "transports/memory/__init__",
}  # fmt: skip
"""The modules that list their names: users import from them, or they pass on names of others."""


def test_no_class_name_is_defined_twice() -> None:
    found = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_amqp_is_read_and_written_in_one_package() -> None:
    others = {"store.py": "SQLite's format"}
    packages = [PACKAGE / "broker", PACKAGE / "transports" / "rabbitmq"]
    modules = [path for package in packages for path in package.glob("*.py") if path.name not in others]
    assert [path.name for path in modules if re.search(r"\bimport struct\b", path.read_text(encoding="utf-8"))] == []


def test_modules_of_one_name_mean_the_same() -> None:
    found = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        found[path.stem].append(path.relative_to(PACKAGE).as_posix())
    assert {name: places for name, places in found.items() if len(places) > 1 and name not in SHARED_NAMES} == {}


def test_only_modules_that_users_import_from_list_their_names() -> None:
    listing = {
        path.relative_to(PACKAGE).with_suffix("").as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^__all__ = ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert listing == LISTED


def test_every_contract_test_that_a_broker_leaves_out_exists() -> None:
    folder = PACKAGE.parent / "tests" / "contract" / "transports"
    left_out = set(re.findall(r'"(test_\w+)"', (folder / "conftest.py").read_text(encoding="utf-8")))
    defined = {
        name for path in folder.glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    }
    assert left_out - defined == set()
    assert left_out


_LEAST_PATIENCE_S = 60
_REQUEST = re.compile(r"httpx\.(get|post|put|delete|request|stream|Client|AsyncClient)")
_AWAITS = re.compile(r"subprocess\.(run|check_output)|.*\.(communicate|wait|join)|asyncio\.timeout")


def test_what_waits_for_other_processes_has_patience() -> None:
    """On a busy machine a program of a second takes ten; httpx waits for five unless told otherwise."""
    tests = PACKAGE.parent / "tests"
    hasty = [
        f"{path.relative_to(tests)}: {ast.unparse(node)}"
        for folder in ("acceptance", "contract", "docs")
        for path in sorted((tests / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (limit_s := _limit_of(node)) is not None and limit_s < _LEAST_PATIENCE_S
    ]
    assert hasty == ["contract/integrations/test_frameworks.py: process.communicate(timeout=15)"]  # then it is killed


def _limit_of(node: ast.AST) -> float | None:
    """Return how many seconds a call waits, or an expression of a deadline leaves; None for anything else."""
    limits: list[ast.expr] = []
    if isinstance(node, ast.Call):
        called, named = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
        if _REQUEST.fullmatch(called) and "transport" not in named:
            limits = [named.get("timeout", ast.Constant(5))]
        elif _AWAITS.fullmatch(called):
            limits = [named["timeout"]] if "timeout" in named else node.args[:1]
    elif isinstance(node, ast.BinOp) and ast.unparse(node.left) == "time.monotonic()":
        limits = [node.right]
    [limit] = limits or [None]
    is_number = isinstance(limit, ast.Constant) and isinstance(limit.value, int | float)
    return limit.value if is_number else None  # type: ignore[union-attr, return-value]
