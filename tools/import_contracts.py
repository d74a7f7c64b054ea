"""A contract for import-linter that forbids circles of modules; pyproject.toml loads it as the type ``no_circles``.

import-linter's own ``acyclic_siblings`` compares whole packages, and says nothing of a circle between a module and one
inside its package. This one looks at single modules, on the graph that all contracts share: it has imports inside
functions and those for types only, because a reader has to follow both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output

__all__ = ["NoCirclesContract", "circles", "shortest_circle"]


class NoCirclesContract(Contract):
    """Kept when no module imports itself by way of others. It takes no options."""

    type_name = "no_circles"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002 - import-linter passes it
        """Look for circles in ``graph``, and describe a shortest one of each group of entangled modules."""
        found = []
        for group in circles(graph):
            path = shortest_circle(graph, group)
            imports = [_where(graph, importer, imported) for importer, imported in pairwise(path)]
            found.append({"modules": sorted(group), "imports": imports})
        return ContractCheck(kept=not found, metadata={"circles": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print each group, and the imports of its shortest circle."""
        for circle in cast("list[dict[str, Any]]", check.metadata["circles"]):
            output.print_error(f"{len(circle['modules'])} modules import each other in a circle, for example by way of")
            for line in circle["imports"]:
                output.print_error(f"- {line}")
            output.new_line()


def circles(graph: ImportGraph) -> list[set[str]]:
    """Return the groups of modules in which each imports every other, directly or by way of others."""
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


def shortest_circle(graph: ImportGraph, group: Iterable[str]) -> list[str]:
    """Return a shortest circle within ``group``, in the order of the imports; the first module is the last one too."""
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
