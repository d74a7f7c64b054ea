"""The table ``[ledger]``: which id identifies a message to its service, and where to see what became of it.

Our own consumers keep journals. A program of the user's does not, so a run looks at what the program leaves behind: a
queue of results, a file, or an HTTP endpoint. Every id that was sent and is neither there, nor among the dead letters,
nor left in the queue, is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError, field_validator, model_validator

from backpressure.core.fields import MessageField, time_ns
from backpressure.errors import ConfigError
from backpressure.knobs import Section, knob

_SOURCE = re.compile(r"queue:.+|file:.+|https?://[^/\s]+.*")
_SOURCES = "expected queue:NAME, file:PATH or http://…"


@dataclass(frozen=True, slots=True)
class OutcomeSource:
    """Where outcomes are seen; ``kind`` is "queue", "file" or "http". ``dead``: they count as dead letters."""

    text: str
    dead: bool = False

    @property
    def kind(self) -> str:
        """What kind of place it is."""
        kind = self.text.partition(":")[0]
        return "http" if kind.startswith("http") else kind

    @property
    def name(self) -> str:
        """The queue, the path, or the whole URL."""
        return self.text if self.kind == "http" else self.text.partition(":")[2]


class Sighting(NamedTuple):
    """An outcome of one message: its id, when it was seen, when its work began and when it was made (0: not known)."""

    id: str
    at_ns: int = 0
    started_ns: int = 0
    created_ns: int = 0


class LedgerSettings(Section):
    """What identifies a message to a service that is not ours, and where its outcome is seen."""

    id: str = knob("message_id", "", "message_id, header:NAME or json:KEY.KEY of what is sent; each is sent once")
    outcome: list[str] = knob([], "", "queue:NAME, file:PATH or http://…: where messages that are done are seen")
    outcome_id: str = knob(
        "", "", "where the id stands in an outcome; empty: as in what is sent, for message_id also correlation_id"
    )
    dead_letter: list[str] = knob([], "", "the same for messages that the service gives up by itself")
    started: str = knob("", "", "header:NAME or json:KEY.KEY of an outcome: when the work began, for the wait")
    created: str = knob("", "", "the same: when the message was made, where our producer's times are not there")

    @field_validator("outcome", "dead_letter", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("outcome", "dead_letter")
    @classmethod
    def _are_sources(cls, sources: list[str]) -> list[str]:
        for text in sources:
            if not _SOURCE.fullmatch(text):
                raise ValueError(f"{_SOURCES}, not {text!r}")
        return sources

    @field_validator("id", "outcome_id", "started", "created")
    @classmethod
    def _is_field(cls, text: str) -> str:
        if text:
            MessageField.parse(text)
        return text

    @model_validator(mode="after")
    def _has_an_outcome(self) -> LedgerSettings:
        if not self.outcome:
            raise ValueError(f"outcome is required: {_SOURCES}")
        return self

    @property
    def field(self) -> MessageField:
        """Where the id stands in what is sent."""
        return MessageField.parse(self.id)

    @property
    def id_is_ours(self) -> bool:
        """Whether the id is the message id that our producers give."""
        return self.id == "message_id"

    def sources(self, *, run: str) -> list[OutcomeSource]:
        """Return the places to look at; ``{run}`` in one is the folder of the run."""
        dead = [OutcomeSource(text.replace("{run}", run), dead=True) for text in self.dead_letter]
        return [*(OutcomeSource(text.replace("{run}", run)) for text in self.outcome), *dead]

    def reader(self) -> OutcomeReader:
        """Return what reads the id and the times of an outcome."""
        fields = [self.outcome_id] if self.outcome_id else [self.id, "correlation_id"] if self.id_is_ours else [self.id]
        return OutcomeReader(
            tuple(map(MessageField.parse, fields)),
            MessageField.parse(self.started) if self.started else None,
            MessageField.parse(self.created) if self.created else None,
        )


@dataclass(frozen=True, slots=True)
class OutcomeReader:
    """Reads ids and times out of outcomes."""

    ids: tuple[MessageField, ...]
    started: MessageField | None
    created: MessageField | None

    def read(self, value: Callable[[MessageField], object], at_ns: int = 0) -> Sighting | None:
        """Return the outcome, None if it has no id; ``value`` returns what stands in a field."""
        for field in self.ids:
            found = value(field)
            if isinstance(found, (str, int)) and not isinstance(found, bool) and found != "":
                break
        else:
            return None
        started = time_ns(value(self.started)) if self.started else None
        created = time_ns(value(self.created)) if self.created else None
        return Sighting(str(found), at_ns, started or 0, created or 0)


def read_ledger(table: Mapping[str, Any] | None, source: str) -> LedgerSettings | None:
    """Return what the table of a scenario says, None without one; raises `ConfigError`."""
    if table is None:
        return None
    try:
        return LedgerSettings.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(["ledger", *(str(part) for part in first["loc"])])
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown key; there are {', '.join(LedgerSettings.model_fields)}"
        raise ConfigError(key, first["input"], message, source) from None


def sightings_in(text: str, reader: OutcomeReader) -> Iterator[Sighting]:
    """Yield the outcomes in a file or an answer: a JSON array, or lines that are JSON objects or bare ids."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    entries: list[object] = whole if isinstance(whole, list) else [line.strip() for line in text.splitlines()]
    for entry in entries:
        document = entry
        if isinstance(entry, str) and entry.startswith(("{", '"')):
            try:
                document = json.loads(entry)
            except (ValueError, RecursionError):
                continue  # the last line of a file that is being written
        if isinstance(document, dict):
            found = reader.read(_in_document(document))
        else:
            found = Sighting(str(document)) if document not in {None, ""} else None
        if found is not None:
            yield found


def _in_document(document: Mapping[str, Any]) -> Callable[[MessageField], object]:
    def value(field: MessageField) -> object:
        return (
            field.within(document)
            if field.kind == "json"
            else document.get(field.path[0] if field.path else field.kind)
        )

    return value


def line_of(source: int, sighting: Sighting) -> str:
    """Return a line of ``outcomes.tsv``."""
    times = f"{sighting.at_ns}\t{sighting.started_ns}\t{sighting.created_ns}"
    return f"{source}\t{times}\t{json.dumps(sighting.id)}\n"


def read_line(line: str) -> tuple[int, Sighting]:
    """Return what `line_of` wrote; raises `ValueError`."""
    source, at_ns, started_ns, created_ns, text = line.split("\t", 4)
    return int(source), Sighting(str(json.loads(text)), int(at_ns), int(started_ns), int(created_ns))


def size_of(path: Path) -> int:
    """Return the size of a file, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def tail_of(path: Path, from_bytes: int) -> str:
    """Return what a file says from ``from_bytes`` on; all of it when it has become shorter since."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(from_bytes if size >= from_bytes else 0)
        return file.read().decode("utf-8", "replace")
