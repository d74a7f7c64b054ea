"""Payload templates: text with fields in braces, each filled in for every message, without any evaluation of code.

``{"id": "{uuid}", "n": {counter}, "status": "{choice:new*7|paid*3}"}``: a field is a name, perhaps with arguments after
a colon, and nothing else in braces is one, so JSON needs no escapes. ``{{uuid}}`` is the text ``{uuid}``. The same
field has the same value everywhere in one message; a label (``{int:1..6#second}``) makes it another one.

Values depend on the seed, the field and the number of the message only, so that a run can be repeated exactly. The
number takes the place of a state, as in Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b, shake_128
from itertools import accumulate
from math import exp, log
from statistics import NormalDist

_FIELD = re.compile(r"\{\{([a-z_]+(?::[^{}]*)?)\}\}|\{([a-z_]+)(?::([^{}#]*))?(?:#([^{}]*))?\}")
_LARGEST = 1 << 24
_TEXT = b"abcdefghijklmnopqrstuvwxyz      ABCDEFGHIJKLMNOPQRSTUVWXYZ01234567"
_LETTERS = bytes(_TEXT[byte % len(_TEXT)] for byte in range(256))
_RANGE = 1 << 64
_NORMAL = NormalDist()


@dataclass(slots=True)
class Draw:
    """What the fields of one message are made of; times in nanoseconds since the epoch."""

    number: int
    intended_ns: int = 0
    message_id: str = ""
    producer: str = ""


Filler = Callable[[Draw], str]


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    argument: str
    label: str


class Template:
    """A text with fields; parsing it checks names and arguments."""

    def __init__(self, text: str) -> None:
        """Raises `ValueError` for an unknown field or a wrong argument."""
        self.parts: list[str | _Field] = []
        end = 0
        for found in _FIELD.finditer(text):
            self._add(text[end : found.start()])
            if found[1] is not None:
                self._add(f"{{{found[1]}}}")
            else:
                field = _Field(found[2], found[3] or "", found[4] or "")
                if field.name not in _KINDS:
                    raise ValueError(f"there is no field {{{field.name}}}; there are {', '.join(sorted(_KINDS))}")
                _KINDS[field.name](field.argument, b"", lambda _: ["a sample"])
                self.parts.append(field)
            end = found.end()
        self._add(text[end:])

    def _add(self, text: str) -> None:
        if text:
            self.parts.append(text)

    @property
    def constant(self) -> str | None:
        """The text, if it has no fields."""
        return "".join(map(str, self.parts)) if all(isinstance(part, str) for part in self.parts) else None

    def bind(self, seed: int, lines: Callable[[str], Sequence[str]]) -> Filler:
        """Return what fills it in; ``lines`` returns the lines of a file of samples."""
        if self.constant is not None:
            text = self.constant
            return lambda _: text
        makers: list[str | Filler] = []
        for part in self.parts:
            if isinstance(part, str):
                makers.append(part)
            else:
                named = f"{seed}/{part.name}:{part.argument}#{part.label}".encode()
                makers.append(_KINDS[part.name](part.argument, blake2b(named, digest_size=32).digest(), lines))
        if len(makers) == 1 and not isinstance(makers[0], str):
            return makers[0]

        def fill(draw: Draw) -> str:
            return "".join([maker if isinstance(maker, str) else maker(draw) for maker in makers])

        return fill


def chosen_by_share(shares: Mapping[str, float], key: bytes) -> Callable[[int], str]:
    """Return what chooses one of the names for a message number, each as often as its share says."""
    names, bounds = list(shares), list(accumulate(shares.values()))
    whole = bounds[-1]

    def choose(number: int) -> str:
        return names[min(bisect_right(bounds, _uniform(number, key) * whole), len(names) - 1)]

    return choose


# --- fields -----------------------------------------------------------------------------------------------------------


def _bits(number: int, key: bytes) -> int:
    return int.from_bytes(blake2b(number.to_bytes(8, "little"), digest_size=8, key=key).digest(), "little")


def _uniform(number: int, key: bytes) -> float:
    return _bits(number, key) / _RANGE


_Lines = Callable[[str], Sequence[str]]


def _counter(argument: str, _key: bytes, _lines: _Lines) -> Filler:
    first = _whole(argument or "0")
    return lambda draw: str(first + draw.number)


def _uuid(argument: str, key: bytes, _lines: _Lines) -> Filler:
    _no_argument("uuid", argument)

    def fill(draw: Draw) -> str:
        digits = blake2b(draw.number.to_bytes(8, "little"), digest_size=16, key=key).hexdigest()
        variant = "89ab"[int(digits[16], 16) & 3]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"

    return fill


def _choice(argument: str, key: bytes, _lines: _Lines) -> Filler:
    shares: dict[str, float] = {}
    for option in argument.split("|"):
        text, star, share = option.rpartition("*")
        weight = _number(share) if star else 1.0
        if weight < 0:
            raise ValueError(f"{{choice:{argument}}}: a share cannot be negative")
        name = text if star else option
        shares[name] = shares.get(name, 0.0) + weight
    if sum(shares.values()) <= 0:
        raise ValueError("{choice:a|b*3}: expected options with | between them, each perhaps with * and its share")
    choose = chosen_by_share(shares, key)
    return lambda draw: choose(draw.number)


def _int(argument: str, key: bytes, _lines: _Lines) -> Filler:
    low, high = (_whole(text) for text in _pair(argument, "{int:1..6}"))
    if low > high:
        raise ValueError(f"{{int:{argument}}}: the first number is above the second")
    return lambda draw: str(low + _bits(draw.number, key) * (high - low + 1) // _RANGE)


def _float(argument: str, key: bytes, _lines: _Lines) -> Filler:
    low, high = (_number(text) for text in _pair(argument, "{float:0..1}"))
    return lambda draw: f"{low + (high - low) * _uniform(draw.number, key):.6g}"


def _text(argument: str, key: bytes, _lines: _Lines) -> Filler:
    size = _size(argument, key)

    def fill(draw: Draw) -> str:
        number = draw.number.to_bytes(8, "little")
        return shake_128(key + number).digest(size(draw.number)).translate(_LETTERS).decode("ascii")

    return fill


_SIZE = re.compile(r"(exp|normal|lognormal)\(([^(),]+)(?:,([^(),]+))?\)")


def _size(argument: str, key: bytes) -> Callable[[int], int]:
    """Return what draws the length of a text: ``200``, ``20..200``, ``exp(200)``, ``normal(200,50)`` and others."""
    if found := _SIZE.fullmatch(argument):
        law, mean = found[1], _number(found[2])
        if (found[3] is None) is not (law == "exp"):
            raise ValueError("expected exp(MEAN), normal(MEAN,DEVIATION) or lognormal(MEDIAN,SIGMA)")
        spread = _number(found[3] or "0")
        if mean < 0 or spread < 0:
            raise ValueError(f"{{text:{argument}}}: expected numbers from 0")

        def drawn(number: int) -> int:
            share = (_bits(number, key) + 0.5) / _RANGE
            if law == "exp":
                size = -mean * log(share)
            else:
                normal = _NORMAL.inv_cdf(share)
                size = mean + spread * normal if law == "normal" else mean * exp(min(spread * normal, 30.0))
            return min(max(round(size), 0), _LARGEST)

        return drawn
    low, high = (_whole(text) for text in _pair(argument, "{text:20..200}, {text:exp(200)}", single=True))
    if not 0 <= low <= high <= _LARGEST:
        raise ValueError(f"{{text:{argument}}}: expected lengths from 0 to {_LARGEST}, the smaller one first")
    if low == high:
        return lambda _: low
    return lambda number: low + _bits(number, key) * (high - low + 1) // _RANGE


def _sample(argument: str, key: bytes, lines: _Lines) -> Filler:
    if not argument:
        raise ValueError("{sample:FILE}: expected the name of a file whose lines are samples")
    samples = lines(argument)
    count = len(samples)
    return lambda draw: samples[_bits(draw.number, key) * count // _RANGE]


def _time_s(argument: str, _key: bytes, _lines: _Lines) -> Filler:
    units = {"": 1_000_000_000, "s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
    if argument == "iso":
        return lambda draw: datetime.fromtimestamp(draw.intended_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    if argument not in units:
        raise ValueError("{time:ms}: expected s, ms, us, ns or iso")
    unit_ns = units[argument]
    return lambda draw: str(draw.intended_ns // unit_ns)


def _message_id(argument: str, _key: bytes, _lines: _Lines) -> Filler:
    _no_argument("id", argument)
    return lambda draw: draw.message_id


def _producer(argument: str, _key: bytes, _lines: _Lines) -> Filler:
    _no_argument("producer", argument)
    return lambda draw: draw.producer


_KINDS: Mapping[str, Callable[[str, bytes, _Lines], Filler]] = {
    "counter": _counter,
    "uuid": _uuid,
    "choice": _choice,
    "int": _int,
    "float": _float,
    "text": _text,
    "sample": _sample,
    "time": _time_s,
    "id": _message_id,
    "producer": _producer,
}


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise ValueError(f"{{{name}}} takes no argument")


def _pair(text: str, example: str, *, single: bool = False) -> tuple[str, str]:
    low, dots, high = text.partition("..")
    if not dots and not (single and low):
        raise ValueError(f"expected a range, for example {example}")
    return low, high if dots else low


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if value != value or abs(value) > 1e15:  # noqa: PLR0124 - not a number is unlike itself
        raise ValueError(f"{text!r} is not a usable number")
    return value
