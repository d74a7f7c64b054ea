"""Durability: persistent messages in durable queues, and the topology, in one SQLite file.

Changes are collected in memory and committed once a tick of the event loop, before the confirms of that tick are sent.
A message that is published and acknowledged within one tick is never written. The write-ahead log is synced with every
commit, so confirmed messages survive a crash of the broker or the machine.

Everything is stored as the octets that arrived, so there is nothing that cannot be stored. Each message has a checksum;
a damaged file is refused instead of being used in part.
Must not know: sessions, frames, asyncio.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from backpressure.amqp.field_tables import FieldTable, encode_value, octets_of
from backpressure.amqp.methods import read_short
from backpressure.broker.entries import Entry, QueuedMessage, texts_in
from backpressure.broker.exchange import Binding, Exchange
from backpressure.broker.policy import Policy
from backpressure.broker.queue import Queue
from backpressure.broker.replies import AmqpRefusal
from backpressure.broker.vhost import VirtualHost
from backpressure.errors import ConfigError, PaceError

SCHEMA_VERSION = 3
_SCHEMA = f"""
BEGIN;
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE policies (name TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE exchanges (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, auto_delete INTEGER NOT NULL, internal INTEGER NOT NULL,
    arguments BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE queues (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, auto_delete INTEGER NOT NULL, arguments BLOB NOT NULL
);
CREATE TABLE bindings (
    source TEXT NOT NULL, to_queue INTEGER NOT NULL, destination TEXT NOT NULL, routing_key TEXT NOT NULL,
    arguments BLOB NOT NULL,
    PRIMARY KEY (source, to_queue, destination, routing_key, arguments)
) WITHOUT ROWID;
CREATE INDEX bound ON bindings (to_queue, destination);
CREATE TABLE entries (
    queue INTEGER NOT NULL, sequence INTEGER NOT NULL, head BLOB NOT NULL, past BLOB NOT NULL, body BLOB NOT NULL,
    expires_epoch_s REAL, checksum INTEGER NOT NULL,
    PRIMARY KEY (queue, sequence)
) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_DEFAULT_QUEUE_TYPE = "default_queue_type"
_ALIVE, _DIED = b"\0", b"\1"
_DAMAGED = "is damaged ({}): start with a copy of it, or with another directory"


class StoreError(PaceError):
    """The data directory cannot be written."""

    def __init__(self, reason: str) -> None:
        """``reason`` says why."""
        super().__init__(
            f"the broker's data cannot be written: {reason}; it stops, and nothing unwritten was confirmed"
        )


class Store:
    """The database file in the data directory."""

    def __init__(self, directory: Path) -> None:
        """Open or create ``directory``; `ConfigError` if that fails, or another broker uses it."""
        self._directory = directory
        self._added: dict[tuple[int, int], Entry] = {}
        self._removed: list[tuple[int, int]] = []
        self._deleted_queues: set[int] = set()
        self._topology: list[tuple[str, tuple[object, ...]]] = []
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._check_log()
            self._database = sqlite3.connect(directory / "broker.sqlite3", timeout=0, isolation_level=None)
        except (OSError, sqlite3.Error) as cause:
            raise self._refusal(f"cannot be used ({cause}): give another directory") from cause
        try:
            self._open()
        except sqlite3.OperationalError as cause:
            self._database.close()
            reason = f"cannot be used ({cause}): give another directory, and one broker only"
            raise self._refusal(reason) from cause
        except sqlite3.Error as cause:
            self._database.close()
            raise self._refusal(_DAMAGED.format(cause)) from cause
        except ConfigError:
            self._database.close()
            raise

    def _refusal(self, reason: str) -> ConfigError:
        return ConfigError("--data-dir", str(self._directory), reason)

    def _check_log(self) -> None:
        """Refuse a write-ahead log that SQLite would silently read only in part."""
        log = self._directory / "broker.sqlite3-wal"
        octets = log.read_bytes() if log.exists() else b""
        database = log.with_name("broker.sqlite3")
        if octets and not (database.exists() and database.stat().st_size):  # SQLite would delete the log
            state = "empty" if database.exists() else "missing"
            raise self._refusal(_DAMAGED.format(f"its write-ahead log is there, but broker.sqlite3 is {state}"))
        damage = find_damage(octets)
        if damage is None:
            return
        what = f"the last {damage.lost} of its {damage.commits} writes" if damage.commits else "what it holds"
        raise self._refusal(
            f"is damaged: {what} in the write-ahead log cannot be read, from octet {damage.offset} on, and what "
            "was confirmed in them is missing; start with a copy of the directory, or give up what is missing: "
            f"truncate -s {damage.offset} {log}"
        )

    def _open(self) -> None:
        run = self._database.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        version = run("PRAGMA user_version").fetchone()[0]
        if version == 0 and not run("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._database.executescript(_SCHEMA)
        elif version != SCHEMA_VERSION:
            raise self._refusal(
                f"was written by another version of the broker (format {version}, this one has {SCHEMA_VERSION}): "
                "start it with that version, or give another directory"
            )

    # -- messages ------------------------------------------------------------------------------------------------

    def add(self, queue_id: int, entry: Entry) -> None:
        """A message must be kept."""
        self._added[queue_id, entry.sequence] = entry

    def remove(self, queue_id: int, entry: Entry) -> None:
        """A message is no longer needed."""
        key = (queue_id, entry.sequence)
        if self._added.pop(key, None) is None:
            self._removed.append(key)

    def purge(self, queue_id: int) -> None:
        """All messages of a queue are gone."""
        self._added = {key: entry for key, entry in self._added.items() if key[0] != queue_id}
        self._topology.append(("DELETE FROM entries WHERE queue = ?", (queue_id,)))

    # -- topology ------------------------------------------------------------------------------------------------

    def exchange_declared(self, exchange: Exchange) -> None:
        """Keep a new exchange if it is durable."""
        if exchange.durable:
            row = (exchange.name, exchange.kind, exchange.auto_delete, exchange.internal, octets_of(exchange.arguments))
            self._topology.append(("INSERT INTO exchanges VALUES (?, ?, ?, ?, ?)", row))

    def exchange_deleted(self, exchange: Exchange) -> None:
        """Remove an exchange, with all bindings from and to it."""
        if exchange.durable:
            name = (exchange.name,)
            self._topology += [
                ("DELETE FROM exchanges WHERE name = ?", name),
                ("DELETE FROM bindings WHERE source = ?", name),
                ("DELETE FROM bindings WHERE to_queue = 0 AND destination = ?", name),
            ]

    def queue_declared(self, queue: Queue) -> None:
        """Keep a new queue if it is durable and not exclusive."""
        if queue.is_kept:
            row = (queue.id, queue.name, queue.auto_delete, octets_of(queue.arguments))
            self._topology.append(("INSERT INTO queues VALUES (?, ?, ?, ?)", row))

    def queue_deleted(self, queue: Queue) -> None:
        """Remove a queue, with its messages and all bindings to it."""
        if queue.is_kept:
            self._deleted_queues.add(queue.id)
            self._topology += [
                ("DELETE FROM queues WHERE id = ?", (queue.id,)),
                ("DELETE FROM bindings WHERE to_queue = 1 AND destination = ?", (queue.name,)),
                ("DELETE FROM entries WHERE queue = ?", (queue.id,)),
            ]

    def bound(self, source: Exchange, binding: Binding) -> None:
        """Keep a new binding if both its ends are kept."""
        if source.durable and binding.destination.is_kept:
            self._topology.append(("INSERT OR IGNORE INTO bindings VALUES (?, ?, ?, ?, ?)", _row(source, binding)))

    def unbound(self, source: Exchange, binding: Binding) -> None:
        """Remove a binding."""
        if source.durable and binding.destination.is_kept:
            which = "source = ? AND to_queue = ? AND destination = ? AND routing_key = ? AND arguments = ?"
            self._topology.append((f"DELETE FROM bindings WHERE {which}", _row(source, binding)))  # noqa: S608 -- constant

    def default_queue_type_set(self, kind: str) -> None:
        """Keep the type of queues that are declared without one."""
        self._topology.append(("INSERT OR REPLACE INTO settings VALUES (?, ?)", (_DEFAULT_QUEUE_TYPE, kind)))

    def policy_set(self, policy: Policy) -> None:
        """Add or replace a policy."""
        row = (policy.name, json.dumps(policy.document()))
        self._topology.append(("INSERT OR REPLACE INTO policies VALUES (?, ?)", row))

    def policy_deleted(self, name: str) -> None:
        """Remove a policy."""
        self._topology.append(("DELETE FROM policies WHERE name = ?", (name,)))

    # -- writing -------------------------------------------------------------------------------------------------

    def commit(self, vhost: VirtualHost) -> None:
        """Write the changes since the last commit in one transaction, if there are any.

        Raises `StoreError` if that fails for any reason; after that, nothing must be confirmed.
        """
        if not (self._added or self._removed or self._topology):
            return
        try:
            self._database.execute("BEGIN")
            self._write(vhost.epoch_s - vhost.now)
            self._database.execute("COMMIT")
        except Exception as cause:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            told = str(cause) if isinstance(cause, sqlite3.Error) else f"a defect of the broker, {cause!r}"
            raise StoreError(told) from cause
        self._added.clear()
        self._removed.clear()
        self._topology.clear()
        self._deleted_queues.clear()

    def _write(self, epoch_offset_s: float) -> None:
        for statement, row in self._topology:
            self._database.execute(statement, row)
        self._database.executemany("DELETE FROM entries WHERE queue = ? AND sequence = ?", self._removed)
        rows = []
        for (queue_id, sequence), entry in self._added.items():
            message, expires_at_s = entry.message, entry.expires_at_s
            head, past, body = message.route + message.header, _past(message), message.body
            expires_epoch_s = None if expires_at_s is None else expires_at_s + epoch_offset_s
            checksum = crc32(body, crc32(past, crc32(head)))
            rows.append((queue_id, sequence, head, past, body, expires_epoch_s, checksum))
        if self._deleted_queues:
            rows = [row for row in rows if row[0] not in self._deleted_queues]
        self._database.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # -- recovery ------------------------------------------------------------------------------------------------

    def load(self, vhost: VirtualHost) -> int:
        """Restore everything and return the number of messages; `ConfigError` if the file is damaged."""
        try:
            self._check_pages()
            self._load_topology(vhost)
            self._database.execute("DELETE FROM entries WHERE queue NOT IN (SELECT id FROM queues)")
            self._topology.clear()
            recovered = sum(queue.restore(self._entries(vhost, queue)) for queue in vhost.queues.values())
        except (sqlite3.Error, PaceError, AmqpRefusal, LookupError, TypeError, ValueError) as cause:
            self._database.close()
            raise self._refusal(_DAMAGED.format(cause)) from cause
        for queue in list(vhost.queues.values()):
            queue.resume()
        return recovered

    def _check_pages(self) -> None:
        (verdict,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise ValueError(str(verdict).splitlines()[-1])

    def _load_topology(self, vhost: VirtualHost) -> None:
        for name, value in self._rows("SELECT name, value FROM settings"):
            if name == _DEFAULT_QUEUE_TYPE:
                vhost.set_default_queue_type(value)
        for name, document in self._rows("SELECT name, document FROM policies"):
            vhost.policies[name] = Policy.parse(name, dict(json.loads(document)))
        for name, kind, auto_delete, internal, arguments in self._rows("SELECT * FROM exchanges"):
            vhost.exchanges[name] = Exchange(
                name,
                kind,
                durable=True,
                auto_delete=bool(auto_delete),
                internal=bool(internal),
                arguments=FieldTable(arguments),
            )
        for id_, name, auto_delete, arguments in self._rows("SELECT * FROM queues ORDER BY id"):
            queue = Queue(
                vhost, name, id=id_, durable=True, auto_delete=bool(auto_delete), arguments=FieldTable(arguments)
            )
            vhost.queues[name] = queue
            vhost.last_queue_id = id_
        for source, to_queue, destination, routing_key, arguments in self._rows("SELECT * FROM bindings"):
            ends: dict[str, Any] = vhost.queues if to_queue else vhost.exchanges
            if source not in vhost.exchanges or destination not in ends:
                raise ValueError(f"the exchange '{source}' or what is bound to it, '{destination}', is missing")
            vhost.attach(vhost.exchanges[source], Binding(ends[destination], routing_key, FieldTable(arguments)))
        vhost.apply_policies()

    def _rows(self, query: str, *parameters: object) -> Iterable[tuple[Any, ...]]:
        with closing(self._database.execute(query, parameters)) as rows:
            yield from rows

    def _entries(self, vhost: VirtualHost, queue: Queue) -> list[Entry]:
        """Return the queue's messages, all marked as redelivered, because a consumer may have seen them."""
        offset_s = vhost.epoch_s - vhost.now
        entries = []
        for sequence, head, past, body, expires_epoch_s, checksum in self._rows(
            "SELECT sequence, head, past, body, expires_epoch_s, checksum FROM entries "
            "WHERE queue = ? ORDER BY sequence",
            queue.id,
        ):
            if crc32(body, crc32(past, crc32(head))) != checksum:
                raise ValueError(f"message {sequence} of queue '{queue.name}' is not what was written")
            exchange, key_at = read_short(head, 0)
            routing_key, header_at = read_short(head, key_at)
            message = QueuedMessage(
                exchange.decode(errors="surrogateescape"),
                routing_key.decode(errors="surrogateescape"),
                head[header_at:],
                body,
                route=head[:header_at],
                persistent=True,
                other_keys=texts_in(past[1:]),
                has_died=past[:1] == _DIED,
            )
            entry = Entry(sequence, message)
            entry.expires_at_s = None if expires_epoch_s is None else expires_epoch_s - offset_s
            entry.redelivered = entry.stored = True
            entries.append(entry)
        return entries


def _past(message: QueuedMessage) -> bytes:
    """What a message's octets do not tell: whether it is a dead letter, and its further routing keys."""
    if not (message.has_died or message.other_keys):
        return b""
    return (_DIED if message.has_died else _ALIVE) + encode_value(message.other_keys)


def _row(source: Exchange, binding: Binding) -> tuple[object, ...]:
    end = binding.destination
    arguments = octets_of(binding.arguments)
    return source.name, isinstance(end, Queue), end.name, binding.routing_key, arguments


_HEADER = struct.Struct(">8I")  # magic, version, page size, checkpoint, two salts, two checksums
_FRAME = struct.Struct(">6I")  # page, pages of the database after a commit or 0, two salts, two checksums
_BIG_ENDIAN, _LITTLE_ENDIAN = 0x377F0683, 0x377F0682
_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class LogDamage:
    """Where reading a write-ahead log ends, and how much is lost."""

    offset: int
    """The octet at which the first unreadable frame begins."""
    commits: int
    """How many transactions the log holds."""
    lost: int
    """How many of them cannot be read."""


def find_damage(log: bytes) -> LogDamage | None:
    """Return the damage of a log; None if there is none, or only an unfinished last write.

    SQLite reads a write-ahead log up to the first frame with a wrong checksum, and silently drops the rest. That is
    right after a crash in the middle of the last write, but wrong for a log that was damaged later, because confirmed
    messages may follow. In the second case there are complete writes after the broken place.

    Source: the SQLite file format, chapter 4.
    """
    if len(log) < _HEADER.size:
        return None
    magic, _, page_size, _, *rest = _HEADER.unpack_from(log)
    salts, checksums = tuple(rest[:2]), tuple(rest[2:])
    order = {_BIG_ENDIAN: ">", _LITTLE_ENDIAN: "<"}.get(magic)
    if order is None or _checksum(order, log[:24], (0, 0)) != checksums:
        return LogDamage(0, 0, 0) if len(log) > _HEADER.size else None
    size = _FRAME.size + page_size
    starts = range(_HEADER.size, len(log) - size + 1, size)
    frames = [(start, *_FRAME.unpack_from(log, start)) for start in starts]
    commits = [start for start, _, pages, *found, _, _ in frames if pages and tuple(found) == salts]
    for start, _, _, *found in frames:
        checksums = _checksum(order, log[start : start + 8], checksums)
        checksums = _checksum(order, log[start + _FRAME.size : start + size], checksums)
        if tuple(found) != (*salts, *checksums):
            lost = sum(commit >= start for commit in commits)
            return LogDamage(start, len(commits), lost) if lost else None
    return None


def _checksum(order: str, octets: bytes, seed: tuple[int, int]) -> tuple[int, int]:
    """Continue the Fibonacci-weighted checksum over pairs of 32-bit words."""
    one, two = seed
    words = iter(struct.unpack(f"{order}{len(octets) // 4}I", octets))
    for word in words:
        one = (one + word + two) & _MASK
        two = (two + next(words) + one) & _MASK
    return one, two
