"""`make lint` refuses import cycles: the contract sees each kind of import, and names the cycle."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest
from grimp import ImportGraph

ROOT = Path(__file__).parents[2]
CONTRACTS = runpy.run_path(str(ROOT / "tools" / "import_contracts.py"))
cycles, shortest_cycle = CONTRACTS["cycles"], CONTRACTS["shortest_cycle"]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def graph(*imports: str) -> ImportGraph:
    """Build a graph of imports that are written as "a b": a imports b."""
    result = ImportGraph()
    for importer, imported in (pair.split() for pair in imports):
        result.add_import(importer=importer, imported=imported)
    return result


def test_a_graph_without_cycles_has_none() -> None:
    assert cycles(graph("a b", "b c", "a c", "d c")) == []


def test_two_cycles_that_share_no_module_are_two_groups() -> None:
    assert cycles(graph("a b", "b a", "c d", "d e", "e c", "b c")) == [{"a", "b"}, {"c", "d", "e"}]


def test_the_shortest_cycle_of_a_group_is_found() -> None:
    entangled = graph("a b", "b c", "c d", "d a", "c b")
    (group,) = cycles(entangled)
    assert group == {"a", "b", "c", "d"}
    assert shortest_cycle(entangled, group) == ["b", "c", "b"]


@pytest.mark.parametrize(
    "back",
    [
        "from made_up.inner import first",
        "def late():\n    from made_up.inner.first import NAME\n    return NAME",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made_up.inner.first import NAME",
    ],
    ids=["plainly", "inside a function", "for types only"],
)
def test_a_made_up_cycle_breaks_the_contract_however_it_imports(tmp_path: Path, back: str) -> None:
    lint = _lint(tmp_path, back)
    assert lint.returncode == 1
    assert "No import cycles BROKEN" in lint.stdout
    text = re.sub(r"\x1b\[\d*m", "", lint.stdout)
    assert "2 modules import each other in a cycle" in text
    assert re.search(r"made_up\.inner\.first -> made_up\.second \(line 1\)", text)
    assert re.search(r"made_up\.second -> made_up\.inner\.first \(line \d\)", text)


def test_without_the_cycle_the_contract_is_kept(tmp_path: Path) -> None:
    lint = _lint(tmp_path, "NOTHING = 1")
    assert lint.returncode == 0, lint.stdout
    assert "No import cycles KEPT" in lint.stdout


def test_this_project_is_checked_with_all_its_imports() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = [contract for contract in settings["contracts"] if contract["type"] == "no_cycles"]
    assert contract.keys() == {"name", "type"}  # nothing is ignored
    assert "exclude_type_checking_imports" not in settings


def _lint(folder: Path, back: str) -> subprocess.CompletedProcess[str]:
    """Run import-linter, with this contract type, on a package of two modules."""
    (folder / "made_up" / "inner").mkdir(parents=True)
    (folder / "made_up" / "__init__.py").touch()
    (folder / "made_up" / "inner" / "__init__.py").touch()
    (folder / "made_up" / "inner" / "first.py").write_text("from made_up.second import NOTHING\nNAME = 1\n")
    (folder / "made_up" / "second.py").write_text(f"{back}\n")
    (folder / "tools").symlink_to(ROOT / "tools")
    (folder / "pyproject.toml").write_text(
        dedent("""\
            [tool.importlinter]
            root_package = "made_up"
            contract_types = ["no_cycles: tools.import_contracts.NoCyclesContract"]

            [[tool.importlinter.contracts]]
            name = "No import cycles"
            type = "no_cycles"
        """)
    )
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
