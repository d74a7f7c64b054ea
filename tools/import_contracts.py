"""A contract for import-linter that forbids import cycles; pyproject.toml loads it as the type ``no_cycles``.

import-linter's own ``acyclic_siblings`` compares whole packages, and does not find a cycle between a package and one of
its modules. This contract checks single modules, on the graph that all contracts share. The graph includes imports
inside functions and imports for types only, because a reader has to follow both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output

__all__ = ["NoCyclesContract", "cycles", "shortest_cycle"]


class NoCyclesContract(Contract):
    """Kept if no module imports itself through others. It has no options."""

    type_name = "no_cycles"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002 - import-linter passes it
        """Find the groups of modules in ``graph`` that import each other, and describe a shortest cycle of each."""
        found = []
        for group in cycles(graph):
            path = shortest_cycle(graph, group)
            imports = [_where(graph, importer, imported) for importer, imported in pairwise(path)]
            found.append({"modules": sorted(group), "imports": imports})
        return ContractCheck(kept=not found, metadata={"cycles": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print the size of each group and the imports of its shortest cycle."""
        for cycle in cast("list[dict[str, Any]]", check.metadata["cycles"]):
            output.print_error(f"{len(cycle['modules'])} modules import each other in a cycle, for example:")
            for line in cycle["imports"]:
                output.print_error(f"- {line}")
            output.new_line()


def cycles(graph: ImportGraph) -> list[set[str]]:
    """Return the groups of modules in which each imports every other, directly or through others."""
    waiting = {module for module in graph.modules if not graph.is_module_squashed(module)}
    found = []
    while waiting:
        module = min(waiting)
        below = _reachable(module, graph.find_modules_directly_imported_by)
        above = _reachable(module, graph.find_modules_that_directly_import)
        group = below & above | {module}
        waiting -= group
        if len(group) > 1:
            found.append(group)
    return found


def shortest_cycle(graph: ImportGraph, group: Iterable[str]) -> list[str]:
    """Return a shortest cycle within ``group``, in import order; it starts and ends with the same module."""
    members = set(group)
    candidates = []
    for start in sorted(members):
        came_from: dict[str, str] = {}
        queue = deque([start])
        while queue and start not in came_from:
            module = queue.popleft()
            for imported in sorted(graph.find_modules_directly_imported_by(module) & members):
                if imported not in came_from:
                    came_from[imported] = module
                    queue.append(imported)
        path = [start, came_from[start]]
        while path[-1] != start:
            path.append(came_from[path[-1]])
        candidates.append(path[::-1])
    return min(candidates, key=len)


def _reachable(module: str, neighbours: Callable[[str], set[str]]) -> set[str]:
    found: set[str] = set()
    queue = [module]
    while queue:
        for name in neighbours(queue.pop()) - found:
            found.add(name)
            queue.append(name)
    return found


def _where(graph: ImportGraph, importer: str, imported: str) -> str:
    lines = {detail["line_number"] for detail in graph.get_import_details(importer=importer, imported=imported)}
    return f"{importer} -> {imported} (line {', '.join(map(str, sorted(lines)))})"
