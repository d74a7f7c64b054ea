"""The store on disk keeps everything as it was sent, and refuses damaged data."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backpressure.amqp.deaths import deaths_of
from backpressure.amqp.field_tables import FieldTable, encode_value, octets_of, split_table
from backpressure.amqp.frames import frame
from backpressure.broker.policy import Policy
from backpressure.broker.store import SCHEMA_VERSION, Store, StoreError, find_damage
from backpressure.broker.vhost import VirtualHost
from backpressure.errors import ConfigError

ODD = FieldTable(b"\0\0\0\x27\x04caf\xe9S\0\0\0\x04caf\xe9\x02atT" + b"\xff" * 8 + b"\x03nand\x7f\xf8" + bytes(6))


class Life:
    """A broker on a directory, from start to end."""

    def __init__(self, directory: Path) -> None:
        self.vhost = VirtualHost()
        self.store = Store(directory)
        self.vhost.journal = self.store
        self.recovered = self.store.load(self.vhost)

    def declare(self, name: str, **options: Any) -> Any:
        options = {"durable": True, "exclusive": False, "auto_delete": False, "arguments": {}, **options}
        return self.vhost.declare_queue(name, None, **options)

    def commit(self) -> None:
        self.store.commit(self.vhost)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[[], Life]]:
    """A broker on the same directory as the one before, which came to a sudden end."""
    lives: list[Life] = []

    def _live() -> Life:
        if lives:
            lives[-1].store.close()
        lives.append(Life(tmp_path))
        return lives[-1]

    yield _live
    lives[-1].store.close()


def keep(peer: Any, queue: str, *bodies: bytes) -> None:
    for body in bodies:
        peer.publish(queue, body, delivery_mode=2)


def bodies(queue: Any) -> list[bytes]:
    return [entry.message.body for entry in queue.ready]


def bury(vhost: VirtualHost, name: str) -> None:
    """Reject the oldest message of a queue."""
    entry = vhost.queues[name].take()
    assert entry is not None
    vhost.queues[name].discard(entry)


def test_arguments_of_any_octets_are_kept_as_they_are(live: Callable[[], Life]) -> None:
    life = live()
    queue = life.declare("q", arguments=ODD)
    life.vhost.declare_exchange(
        "e", "topic", durable=True, auto_delete=False, internal=False, arguments={"x-note": "caf\udce9"}
    )
    life.vhost.bind("e", queue, "k", ODD)
    life.commit()
    life = live()
    kept = split_table(octets_of(life.vhost.queues["q"].arguments))
    assert kept == {**split_table(ODD.octets), b"x-queue-type": encode_value("classic")}
    assert life.vhost.exchanges["e"].arguments == {"x-note": "caf\udce9"}
    (binding,) = life.vhost.exchanges["e"].bindings
    assert octets_of(binding.arguments) == ODD.octets


def test_a_routing_key_that_is_not_utf8_is_kept(live: Callable[[], Life], peer_class: Any) -> None:
    life = live()
    life.vhost.bind("amq.fanout", life.declare("q"), "", {})
    peer = peer_class(life.vhost).login(1)
    peer.feed(frame(1, 1, b"\x00\x3c\x00\x28\0\0\x0aamq.fanout\x04caf\xe9\0"))
    peer.feed(frame(2, 1, b"\x00\x3c\x00\x00" + bytes(8) + b"\x10\x00\x02"))
    life.commit()
    (entry,) = live().vhost.queues["q"].ready
    assert entry.message.route == b"\x0aamq.fanout\x04caf\xe9"


def test_the_default_type_of_queues_is_kept(live: Callable[[], Life]) -> None:
    life = live()
    life.vhost.set_default_queue_type("quorum")
    life.declare("q")
    life.commit()
    vhost = live().vhost
    assert (vhost.default_queue_type, vhost.queues["q"].is_quorum) == ("quorum", True)


def test_the_deaths_and_the_hidden_keys_of_a_message_are_kept(live: Callable[[], Life], peer_class: Any) -> None:
    life = live()
    life.declare("first", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "second"})
    life.declare("second", arguments={"x-dead-letter-exchange": "amq.direct"})
    for name, key in (("third", "second"), ("hidden", "secret")):
        life.vhost.bind("amq.direct", life.declare(name), key, {})
    peer = peer_class(life.vhost).login(1)
    peer.publish("second", delivery_mode=2, headers={"BCC": ["secret"], "x-death": ["forged"]})
    peer.publish("first", delivery_mode=2)
    bury(life.vhost, "first")
    life.commit()
    vhost = live().vhost
    bury(vhost, "second")
    bury(vhost, "second")
    deaths = {
        name: [len(deaths_of(entry.message.headers())) for entry in vhost.queues[name].ready]
        for name in ("hidden", "third")
    }
    assert deaths == {"hidden": [1], "third": [1, 2]}


def test_deleted_queues_and_bindings_stay_deleted(live: Callable[[], Life], peer_class: Any) -> None:
    life = live()
    vhost = life.vhost
    for name in ("kept", "gone"):
        vhost.declare_exchange(name, "direct", durable=True, auto_delete=False, internal=False, arguments={})
        vhost.bind(name, life.declare(f"q.{name}"), "k", {})
        vhost.bind("amq.topic", vhost.exchanges[name], "k", {})
        vhost.set_policy(Policy.parse(name, {"pattern": name, "definition": {"max-length": 5}}))
    keep(peer_class(vhost).login(1), "q.gone", b"old")
    life.commit()
    vhost.delete_queue(vhost.queues["q.gone"])
    vhost.delete_exchange("gone")
    vhost.delete_policy("gone")
    vhost.unbind("kept", vhost.queues["q.kept"], "k", {})
    life.declare("q.gone")
    life.commit()
    vhost = live().vhost
    assert list(vhost.policies) == ["kept"]
    assert vhost.queues["q.kept"].limits.max_length == 5
    assert "gone" not in vhost.exchanges
    assert not vhost.exchanges["kept"].bindings
    assert [binding.destination.name for binding in vhost.exchanges["amq.topic"].bindings] == ["kept"]
    assert bodies(vhost.queues["q.gone"]) == []


def test_an_auto_delete_exchange_that_went_with_its_last_queue_stays_gone(live: Callable[[], Life]) -> None:
    life = live()
    life.vhost.declare_exchange("e", "fanout", durable=True, auto_delete=True, internal=False, arguments={})
    life.vhost.bind("e", life.declare("q"), "", {})
    life.commit()
    life.vhost.delete_queue(life.vhost.queues["q"])
    life.commit()
    assert "e" not in live().vhost.exchanges


def test_messages_of_a_queue_deleted_in_the_same_tick_leave_nothing(live: Callable[[], Life], peer_class: Any) -> None:
    life = live()
    life.declare("q")
    peer = peer_class(life.vhost).login(1)
    keep(peer, "q", b"held", b"ready")
    life.vhost.queues["q"].take()
    life.vhost.delete_queue(life.vhost.queues["q"])
    life.declare("q")
    keep(peer, "q", b"new")
    life.commit()
    assert bodies(live().vhost.queues["q"]) == [b"new"]


def test_dead_letters_of_a_start_line_up_behind_what_was_kept(live: Callable[[], Life], peer_class: Any) -> None:
    life = live()
    dead_letters = {"x-message-ttl": 1000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    life.declare("a.short", arguments=dead_letters)
    life.declare("dead")
    peer = peer_class(life.vhost).login(1)
    keep(peer, "dead", b"first", b"second")
    keep(peer, "a.short", b"expired")
    life.commit()
    life = live()
    life.vhost.advance(2.0)
    life.commit()
    assert bodies(live().vhost.queues["dead"]) == [b"first", b"second", b"expired"]


@pytest.mark.parametrize("held", [False, True])
def test_a_purge_removes_what_is_ready_and_nothing_else(live: Callable[[], Life], peer_class: Any, held: bool) -> None:
    life = live()
    queue = life.declare("q")
    life.declare("other")
    peer = peer_class(life.vhost).login(1)
    keep(peer, "other", b"stays")
    keep(peer, "q", b"first", b"second")
    life.commit()
    if held:
        queue.take()
    keep(peer, "q", b"of the same tick")
    assert queue.purge() == (2 if held else 3)
    keep(peer, "q", b"after")
    life.commit()
    queues = live().vhost.queues
    assert bodies(queues["q"]) == ([b"first", b"after"] if held else [b"after"])
    assert bodies(queues["other"]) == [b"stays"]


def test_a_failed_write_is_undone_and_reported(live: Callable[[], Life]) -> None:
    life = live()
    life.declare("kept")
    life.commit()
    life.declare("lost")
    life.store._topology.append(("INSERT INTO queues VALUES (?, ?, ?, ?)", (object(),)))
    with pytest.raises(StoreError, match="nothing unwritten was confirmed"):
        life.commit()
    assert list(live().vhost.queues) == ["kept"]


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path, peer_class: Any) -> Path:
    """A directory with 300 messages, its log written back."""
    life = Life(tmp_path)
    life.declare("q")
    keep(peer_class(life.vhost).login(1), "q", *(b"%0400d" % number for number in range(300)))
    life.commit()
    life.store.close()
    return tmp_path


def scribble(path: Path, at: int, octets: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(octets)] = octets
    path.write_bytes(data)


def refusal(directory: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        Life(directory)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_scribbled_page_is_refused(stored: Path) -> None:
    path = stored / "broker.sqlite3"
    for at in range(4096 * 8, path.stat().st_size, 4096):
        whole = path.read_bytes()
        scribble(path, at, b"\xff" * 512)
        assert "is damaged" in refusal(stored)
        path.write_bytes(whole)
    Life(stored).store.close()


def test_one_changed_octet_of_a_message_is_refused(stored: Path) -> None:
    path = stored / "broker.sqlite3"
    scribble(path, path.read_bytes().index(b"%0400d" % 150), b"1")
    assert "message 150 of queue 'q' is not what was written" in refusal(stored)


def test_a_file_that_is_not_a_database_is_refused(stored: Path) -> None:
    scribble(stored / "broker.sqlite3", 0, b"something else")
    assert "is damaged" in refusal(stored)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE policies SET document = '[1]'",
        "UPDATE policies SET document = 'x'",
        "UPDATE queues SET arguments = x'01'",
        "UPDATE bindings SET source = 'nowhere'",
        "UPDATE bindings SET destination = 'nowhere'",
        "UPDATE exchanges SET kind = 'x-other'",
        "UPDATE entries SET head = x'05'",
        "UPDATE entries SET body = NULL",
        "DROP TABLE bindings",
        "ALTER TABLE queues ADD COLUMN colour TEXT",
    ],
)
def test_another_shape_is_refused_with_its_reason(stored: Path, statement: str) -> None:
    life = Life(stored)
    life.vhost.declare_exchange("e", "direct", durable=True, auto_delete=False, internal=False, arguments={})
    life.vhost.bind("e", life.vhost.queues["q"], "k", {})
    life.vhost.set_policy(Policy.parse("p", {"pattern": "q", "definition": {"max-length": 500}}))
    life.commit()
    life.store.close()
    database = sqlite3.connect(stored / "broker.sqlite3")
    database.execute("PRAGMA ignore_check_constraints = 1")
    if "NULL" in statement:
        statement = "UPDATE entries SET body = x''"
    database.execute(statement)
    database.commit()
    database.close()
    assert "is damaged" in refusal(stored)


@pytest.mark.parametrize("table", ["exchanges", "queues"])
def test_a_binding_whose_ends_are_missing_is_refused_with_their_names(stored: Path, table: str) -> None:
    life = Life(stored)
    life.vhost.declare_exchange("e", "direct", durable=True, auto_delete=False, internal=False, arguments={})
    life.vhost.bind("e", life.vhost.queues["q"], "k", {})
    life.commit()
    life.store.close()
    database = sqlite3.connect(stored / "broker.sqlite3")
    database.execute(f"DELETE FROM {table}")
    database.commit()
    database.close()
    assert "the exchange 'e' or what is bound to it, 'q', is missing" in refusal(stored)


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 1, SCHEMA_VERSION + 1])
def test_another_format_is_refused_and_says_so(stored: Path, version: int) -> None:
    database = sqlite3.connect(stored / "broker.sqlite3")
    database.execute(f"PRAGMA user_version = {version}")
    database.close()
    assert "was written by another version of the broker" in refusal(stored)


def test_a_database_of_another_application_is_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "broker.sqlite3")
    database.execute("CREATE TABLE topology (document TEXT)")
    database.close()
    assert "was written by another version of the broker (format 0" in refusal(tmp_path)


# -- the write-ahead log -----------------------------------------------------------------------------------------------


@pytest.fixture
def killed(tmp_path: Path, peer_class: Any) -> Path:
    """A directory as a broker leaves it that is killed after ten writes."""
    life = Life(tmp_path / "running")
    life.declare("q")
    life.commit()
    peer = peer_class(life.vhost).login(1)
    for number in range(10):
        keep(peer, "q", b"%0400d" % number)
        life.commit()
    left = tmp_path / "left"
    left.mkdir()
    for path in (tmp_path / "running").iterdir():
        (left / path.name).write_bytes(path.read_bytes())
    life.store.close()
    return left


def test_a_log_that_is_whole_is_read(killed: Path) -> None:
    assert find_damage((killed / "broker.sqlite3-wal").read_bytes()) is None
    life = Life(killed)
    assert life.recovered == 10
    life.store.close()


@pytest.mark.parametrize("cut", [1, 30, 4096, 4121, 9000])
def test_a_last_write_that_was_cut_short_is_not_damage(killed: Path, cut: int) -> None:
    log = killed / "broker.sqlite3-wal"
    log.write_bytes(log.read_bytes()[:-cut])
    life = Life(killed)
    assert 7 <= life.recovered < 10
    life.store.close()


@pytest.mark.parametrize("place", [0, 4, 8, 20, 24 + 100])
def test_a_log_that_is_broken_in_the_middle_is_refused_and_says_what_is_missing(killed: Path, place: int) -> None:
    log = killed / "broker.sqlite3-wal"
    frame = 24 + 4096
    frames = (log.stat().st_size - 32) // frame
    at = 32 + frames // 2 * frame
    scribble(log, at + place, b"\xa5\x5a\xa5\x5a")
    text = refusal(killed)
    assert f"cannot be read, from octet {at} on" in text
    assert f"truncate -s {at} {log}" in text
    log.write_bytes(log.read_bytes()[:at])  # what it advises
    life = Life(killed)
    assert 1 <= life.recovered < 10
    life.store.close()


def test_a_log_whose_head_is_broken_is_refused(killed: Path) -> None:
    scribble(killed / "broker.sqlite3-wal", 12, b"\xff\xff")
    assert "what it holds in the write-ahead log cannot be read, from octet 0 on" in refusal(killed)


def test_a_log_without_its_database_is_refused(killed: Path) -> None:
    (killed / "broker.sqlite3").unlink()
    assert "broker.sqlite3 is missing" in refusal(killed)
    assert not (killed / "broker.sqlite3").exists()


def test_a_log_whose_database_is_empty_is_refused_and_kept(killed: Path) -> None:
    log = killed / "broker.sqlite3-wal"
    octets = log.read_bytes()
    (killed / "broker.sqlite3").write_bytes(b"")
    assert "broker.sqlite3 is empty" in refusal(killed)
    assert log.read_bytes() == octets
