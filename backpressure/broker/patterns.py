"""Regular expressions of policies, matched in bounded time.

Python's matcher backtracks: for ``^(a+)+$`` and a name of forty letters it takes years, and blocks the broker.
A pattern with a small worst case is left to Python. Any other one is matched here, by visiting each pair of a position
in the pattern and a position in the name at most once. A pattern that needs backtracking is refused. RabbitMQ stops its
matcher after ten million steps instead. Must not know: policies, queues.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from re import _constants as c  # type: ignore[attr-defined]  # private; a test fails if it changes
from re import _parser as parser  # type: ignore[attr-defined]  # as above
from typing import Any

LONGEST_NAME = 255
CHEAP = LONGEST_NAME**2 * 16
"""Python's matcher is used for patterns with at most this many ways through them."""
LARGEST_PROGRAM = 5000

_CATEGORIES: dict[Any, Callable[[str], object]] = {
    c.CATEGORY_DIGIT: re.compile(r"\d").match,
    c.CATEGORY_NOT_DIGIT: re.compile(r"\D").match,
    c.CATEGORY_SPACE: re.compile(r"\s").match,
    c.CATEGORY_NOT_SPACE: re.compile(r"\S").match,
    c.CATEGORY_WORD: re.compile(r"\w").match,
    c.CATEGORY_NOT_WORD: re.compile(r"\W").match,
}
_PLACES: dict[Any, re.Pattern[str]] = {
    c.AT_BEGINNING: re.compile(r"^"),
    c.AT_BEGINNING_STRING: re.compile(r"\A"),
    c.AT_END: re.compile(r"$"),
    c.AT_END_STRING: re.compile(r"\Z"),
    c.AT_BOUNDARY: re.compile(r"\b"),
    c.AT_NON_BOUNDARY: re.compile(r"\B"),
}


class PatternError(ValueError):
    """The text is not a regular expression, or cannot be matched in bounded time."""


class Pattern:
    """A compiled pattern."""

    def __init__(self, text: str) -> None:
        """Raises `PatternError`."""
        self.text = text
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", FutureWarning)  # [[:alpha:]] would have another meaning than in PCRE
                expression = re.compile(text)
                tree = parser.parse(text)
        except (re.error, FutureWarning, OverflowError, RecursionError) as cause:
            raise PatternError(f"is not a regular expression: {cause}") from cause
        if _choices(tree) * LONGEST_NAME <= CHEAP:
            self._search: Callable[[str], object] = expression.search
        else:
            self._search = _Program(tree).search

    def found_in(self, name: str) -> bool:
        """Whether some part of ``name`` matches."""
        return bool(self._search(name))


def _choices(tree: Any) -> float:
    """Return an upper bound of the ways through this part of a pattern, for the longest name."""
    ways: float = 1
    for op, argument in tree:
        if op in {c.MAX_REPEAT, c.MIN_REPEAT}:
            least, most, body = argument
            times = LONGEST_NAME if most is c.MAXREPEAT else int(most)
            each = _choices(body)
            if each == 1:
                ways *= times - least + 1
            else:
                ways *= each**times if times * math.log(each) < math.log(CHEAP) else CHEAP
        elif op is c.SUBPATTERN:
            ways *= _choices(argument[3])
        elif op is c.BRANCH:
            ways *= sum(map(_choices, argument[1]))
        elif op in {c.ASSERT, c.ASSERT_NOT}:
            ways *= _choices(argument[1])
        elif op not in {c.LITERAL, c.NOT_LITERAL, c.ANY, c.IN, c.AT}:
            ways = CHEAP
        ways = min(ways, CHEAP)
    return ways


class _Program:
    """The pattern as a list of steps: test a character, test a position, or fork."""

    def __init__(self, tree: Any) -> None:
        self._steps: list[tuple[Any, ...]] = [("end",)]
        self._start = self._compile(tree, 0, tree.state.flags)

    def search(self, name: str) -> bool:
        """Whether some part of ``name`` matches."""
        return self._reaches_end(name, [(self._start, at) for at in range(len(name) + 1)])

    def _reaches_end(self, name: str, pending: list[tuple[int, int]]) -> bool:
        seen = set(pending)
        while pending:
            number, at = pending.pop()
            step = self._steps[number]
            if step[0] == "end":
                return True
            for then in self._after(step, name, at):
                if then not in seen:
                    seen.add(then)
                    pending.append(then)
        return False

    def _after(self, step: tuple[Any, ...], name: str, at: int) -> Iterator[tuple[int, int]]:
        kind, test, *ways = step
        if kind == "fork":
            yield from ((way, at) for way in test)
        elif kind == "character":
            if at < len(name) and test(name[at]):
                yield ways[0], at + 1
        elif kind == "place":
            if test.match(name, at):
                yield ways[0], at
        else:
            back, wanted, following = ways
            holds = at >= back and self._reaches_end(name, [(test, at - back)])
            if holds is wanted:
                yield following, at

    def _add(self, *step: Any) -> int:
        if len(self._steps) >= LARGEST_PROGRAM:
            raise PatternError("is too large")
        self._steps.append(step)
        return len(self._steps) - 1

    def _compile(self, tree: Any, following: int, flags: int) -> int:
        """Return the number of the first step of ``tree``, after which ``following`` is next."""
        for op, argument in reversed(list(tree)):
            following = self._compile_one(op, argument, following, flags)
        return following

    def _compile_one(self, op: Any, argument: Any, following: int, flags: int) -> int:
        if op in {c.MAX_REPEAT, c.MIN_REPEAT}:
            return self._compile_repeat(argument, following, flags)
        if op is c.SUBPATTERN:
            _, more, less, body = argument
            return self._compile(body, following, (flags | more) & ~less)
        if op is c.BRANCH:
            return self._add("fork", [self._compile(way, following, flags) for way in argument[1]])
        if op in {c.ASSERT, c.ASSERT_NOT}:
            direction, body = argument
            back = body.getwidth()[0] if direction < 0 else 0
            return self._add("look", self._compile(body, 0, flags), back, op is c.ASSERT, following)
        if op is c.AT:
            place = _PLACES[argument]
            if flags & re.MULTILINE:
                place = re.compile(place.pattern, re.MULTILINE)
            return self._add("place", place, following)
        test = _character(op, argument, flags)
        if test is None:
            raise PatternError(f"takes too long, and has {str(op).lower()}, which cannot be matched in bounded time")
        return self._add("character", test, following)

    def _compile_repeat(self, repeat: tuple[int, Any, Any], following: int, flags: int) -> int:
        least, most, body = repeat
        if most is c.MAXREPEAT:
            loop = self._add("fork", [])
            self._steps[loop][1].extend((self._compile(body, loop, flags), following))
            following = loop
        else:
            end = following
            for _ in range(most - least):
                following = self._add("fork", [self._compile(body, following, flags), end])
        for _ in range(least):
            following = self._compile(body, following, flags)
        return following


def _character(op: Any, argument: Any, flags: int) -> Callable[[str], bool] | None:
    """Return the test for a single character, or None if ``op`` is something else."""
    if op is c.ANY:
        return lambda char: char != "\n" or bool(flags & re.DOTALL)
    if op is c.LITERAL:
        return _one_of([(c.LITERAL, argument)], flags)
    if op is c.NOT_LITERAL:
        return _one_of([(c.NEGATE, None), (c.LITERAL, argument)], flags)
    return _one_of(argument, flags) if op is c.IN else None


def _one_of(items: list[Any], flags: int) -> Callable[[str], bool]:
    negated = items[0][0] is c.NEGATE
    tests = [_CATEGORIES[argument] for op, argument in items if op is c.CATEGORY]
    ranges = [argument for op, argument in items if op is c.RANGE]
    ranges += [(argument, argument) for op, argument in items if op is c.LITERAL]

    def holds(char: str) -> bool:
        forms = {char, char.lower(), char.upper()} if flags & re.IGNORECASE else {char}
        codes = [ord(form) for form in forms if len(form) == 1]
        found = any(low <= code <= high for code in codes for low, high in ranges) or any(test(char) for test in tests)
        return found is not negated

    return holds
