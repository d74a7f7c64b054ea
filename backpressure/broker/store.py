"""Durability: persistent messages in durable queues, and the topology, in one SQLite file.

Changes gather in memory and are committed together, once a loop tick, before the confirms of that tick are sent. A
message that is published and acknowledged within a tick is never written at all. Written ahead (WAL) and synced with
every commit, what was confirmed survives the broker's sudden end and the machine's.
May not know: sessions, frames, asyncio.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from typing import TYPE_CHECKING, Any

from backpressure.amqp.tables import FieldTable, octets_of
from backpressure.broker.exchange import Exchange
from backpressure.broker.message import Entry, Message
from backpressure.broker.policy import Policy
from backpressure.broker.queue import Queue
from backpressure.errors import ConfigError, PaceError

if TYPE_CHECKING:
    from pathlib import Path

    from backpressure.amqp.tables import Table
    from backpressure.broker.vhost import VirtualHost

__all__ = ["Store", "StoreError"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS topology (document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entries (
    queue INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    header BLOB NOT NULL,
    body BLOB NOT NULL,
    expires_epoch_s REAL,
    PRIMARY KEY (queue, sequence)
) WITHOUT ROWID;
"""


class StoreError(PaceError):
    """The data directory cannot be written any more."""

    def __init__(self, reason: str) -> None:
        """``reason`` is the database's."""
        super().__init__(
            f"the broker's data cannot be written: {reason}; it stops, and nothing unwritten was confirmed"
        )


class Store:
    """The file that outlives the process."""

    def __init__(self, directory: Path) -> None:
        """Open or create ``directory``; `ConfigError` when that cannot be, or another broker uses it."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(directory / "broker.sqlite3", timeout=0, isolation_level=None)
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as cause:
            reason = f"cannot be used ({cause}): give another directory, and one broker only"
            raise ConfigError("--data-dir", str(directory), reason) from cause
        self._added: dict[tuple[int, int], Entry] = {}
        self._removed: list[tuple[int, int]] = []
        self._revision = -1

    # -- changes -------------------------------------------------------------------------------------------------

    def add(self, queue_id: int, entry: Entry) -> None:
        """A message is to be kept."""
        self._added[queue_id, entry.sequence] = entry

    def remove(self, queue_id: int, entry: Entry) -> None:
        """A message is done with."""
        key = (queue_id, entry.sequence)
        if self._added.pop(key, None) is None:
            self._removed.append(key)

    def commit(self, vhost: VirtualHost) -> None:
        """Write what changed since the last commit, in one transaction; nothing when nothing did.

        Raises `StoreError` when the disk does not take it: then nothing may be confirmed any more.
        """
        if not self._added and not self._removed and vhost.revision == self._revision:
            return
        try:
            self._write(vhost)
        except sqlite3.Error as cause:
            raise StoreError(str(cause)) from cause
        self._added.clear()
        self._removed.clear()

    def _write(self, vhost: VirtualHost) -> None:
        offset_s = vhost.epoch_s - vhost.now
        self._database.execute("BEGIN")
        if vhost.revision != self._revision:
            self._write_topology(vhost)
        self._database.executemany("DELETE FROM entries WHERE queue = ? AND sequence = ?", self._removed)
        self._database.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    queue_id,
                    sequence,
                    entry.message.exchange,
                    entry.message.routing_key,
                    entry.message.header,
                    entry.message.body,
                    None if entry.expires_at_s is None else entry.expires_at_s + offset_s,
                )
                for (queue_id, sequence), entry in self._added.items()
            ),
        )
        self._database.execute("COMMIT")

    def _write_topology(self, vhost: VirtualHost) -> None:
        """The whole topology anew: it is small, changes rarely, and so cannot drift from what the broker has."""
        document = _topology(vhost)
        self._database.execute("DELETE FROM topology")
        self._database.execute("INSERT INTO topology VALUES (?)", (json.dumps(document),))
        kept = [str(int(queue["id"])) for queue in document["queues"]]
        self._database.execute(f"DELETE FROM entries WHERE queue NOT IN ({', '.join(kept)})")  # noqa: S608 -- integers
        self._revision = vhost.revision

    def close(self) -> None:
        """Give the file back."""
        self._database.close()

    # -- recovery ------------------------------------------------------------------------------------------------

    def load(self, vhost: VirtualHost) -> int:
        """Put back what was kept; how many messages that were."""
        row = self._database.execute("SELECT document FROM topology").fetchone()
        if row is None:
            return 0
        document = json.loads(row[0])
        for policy in document["policies"]:
            vhost.policies[policy["name"]] = Policy.parse(policy["name"], policy)
        for exchange in document["exchanges"]:
            arguments = _decoded(exchange.pop("arguments"))
            vhost.exchanges[exchange["name"]] = Exchange(**exchange, durable=True, arguments=arguments)
        vhost.last_queue_id = document["last_queue_id"]
        for queue in document["queues"]:
            arguments = _decoded(queue.pop("arguments"))
            vhost.queues[queue["name"]] = Queue(vhost, **queue, durable=True, arguments=arguments)
        for binding in document["bindings"]:
            places: dict[str, Any] = vhost.queues if binding["kind"] == "queue" else vhost.exchanges
            vhost.bind(
                binding["source"], places[binding["destination"]], binding["key"], _decoded(binding["arguments"])
            )
        vhost.apply_policies()
        self._revision = vhost.revision
        return sum(queue.restore(self._entries(vhost, queue)) for queue in vhost.queues.values())

    def _entries(self, vhost: VirtualHost, queue: Queue) -> list[Entry]:
        """The queue's messages; whether a consumer saw them before is not known, so they say that one may have."""
        offset_s = vhost.epoch_s - vhost.now
        rows = self._database.execute(
            "SELECT sequence, exchange, routing_key, header, body, expires_epoch_s FROM entries "
            "WHERE queue = ? ORDER BY sequence",
            (queue.id,),
        )
        entries = []
        for sequence, exchange, routing_key, header, body, expires_epoch_s in rows:
            entry = Entry(sequence, Message(exchange, routing_key, header, body, persistent=True))
            entry.expires_at_s = None if expires_epoch_s is None else expires_epoch_s - offset_s
            entry.redelivered = entry.stored = True
            entries.append(entry)
        return entries


def _topology(vhost: VirtualHost) -> dict[str, Any]:
    exchanges = [e for e in vhost.exchanges.values() if e.durable]
    queues = [queue for queue in vhost.queues.values() if queue.durable and queue.owner is None]
    durable = {*map(id, exchanges), *map(id, queues)}
    return {
        "last_queue_id": vhost.last_queue_id,
        "policies": [dict(policy.document()) for policy in vhost.policies.values()],
        "exchanges": [
            {
                "name": exchange.name,
                "kind": exchange.kind,
                "auto_delete": exchange.auto_delete,
                "internal": exchange.internal,
                "arguments": _encoded(exchange.arguments),
            }
            for exchange in exchanges
            if exchange.name and not exchange.name.startswith("amq.")
        ],
        "queues": [
            {
                "id": queue.id,
                "name": queue.name,
                "auto_delete": queue.auto_delete,
                "arguments": _encoded(queue.arguments),
            }
            for queue in queues
        ],
        "bindings": [
            {
                "source": exchange.name,
                "kind": "queue" if isinstance(binding.destination, Queue) else "exchange",
                "destination": binding.destination.name,
                "key": binding.routing_key,
                "arguments": _encoded(binding.arguments),
            }
            for exchange in exchanges
            for binding in exchange.bindings
            if id(binding.destination) in durable
        ],
    }


def _encoded(table: Table) -> str:
    """A field table as text: its own octets, which keep what JSON has no types for."""
    return base64.b64encode(octets_of(table)).decode()


def _decoded(text: str) -> Table:
    return FieldTable(base64.b64decode(text))
