"""Generated messages: bodies, headers, properties and routing keys as the settings ask for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backpressure.config import replaced
from backpressure.core.fields import MessageField
from backpressure.core.message import Message
from backpressure.core.templates import Draw
from backpressure.engines.outbox import Composer
from backpressure.engines.payloads import Payloads, profile_of, recorded_times_s
from backpressure.errors import ConfigError
from backpressure.settings import Settings
from backpressure.telemetry.journal_file import IdJournal


def settings(**changes: Any) -> Settings:
    return replaced(
        Settings(), {"process.seed": 7, **{key.replace("__", "."): value for key, value in changes.items()}}
    )


def composed(count: int = 3, **changes: Any) -> list[Message]:
    composer = Composer(settings(**changes), 5, retries=True)
    return [composer.scheduled(n * 1_000_000_000).message for n in range(count)]


def test_a_message_has_body_headers_and_properties_of_the_users_kind_and_ours() -> None:
    first, second, _ = composed(
        producer__template='{"id": "{uuid}", "n": {counter}}',
        producer__headers={
            "order_id": "{uuid}",
            "shop": 3,
            "tenant": "{choice:a}",
            "n": "{counter:10}",
            "zip": "01234",
        },
        producer__content_type="application/json",
        producer__priority="{int:2..2}",
        producer__ttl_ms=500,
        producer__reply_to="replies",
    )
    assert first.headers["order_id"] == json.loads(first.body)["id"] != second.headers["order_id"]
    assert {name: first.headers[name] for name in ("shop", "tenant", "n", "zip")} == {
        "shop": 3, "tenant": "a", "n": 10, "zip": "01234",
    }  # fmt: skip
    assert first.headers["sequence"] == 0
    assert (first.content_type, first.priority, first.expiration_ms) == ("application/json", 2, 500)
    assert (first.reply_to, first.correlation_id) == ("replies", first.message_id)
    assert json.loads(second.body)["n"] == 1


def test_the_same_seed_gives_the_same_messages() -> None:
    bodies = [message.body for message in composed(producer__template="{text:5..50}")]
    assert bodies == [message.body for message in composed(producer__template="{text:5..50}")]
    assert bodies != [message.body for message in composed(producer__template="{text:5..50}", process__seed=8)]


def test_samples_are_sent_in_order_from_the_beginning_again_or_at_random(tmp_path: Path) -> None:
    (tmp_path / "orders.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n', encoding="utf-8")
    given = {"producer__samples": "orders.jsonl", "process__folder": str(tmp_path)}
    assert [message.body for message in composed(**given)] == [b'{"a": 1}', b'{"a": 2}', b'{"a": 1}']
    counts = Counter(message.body for message in composed(200, producer__samples_order="random", **given))
    assert all(60 < count < 140 for count in counts.values())
    [one] = composed(1, producer__template="{sample:orders.jsonl}", process__folder=str(tmp_path))
    assert one.body in {b'{"a": 1}', b'{"a": 2}'}


def test_routing_keys_are_chosen_by_their_shares_and_all_are_bound() -> None:
    given = settings(queue__routing_keys={"order.new": 3, "order.paid": 1})
    composer = Composer(given, 5, retries=True)
    keys = Counter(composer.scheduled(0).routing_key for _ in range(1000))
    assert keys["order.new"] == pytest.approx(750, abs=60)
    assert given.queue.bindings == ["order.new", "order.paid"]
    assert settings().queue.bindings == ["work"]


def test_recorded_times_count_from_the_first_and_pass_faster_if_asked(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"at": 100}\n{"at": 100.5}\n{"at": 104}\n', encoding="utf-8")
    given = {"producer__samples": "x.jsonl", "producer__recorded_at": "json:at", "process__folder": str(tmp_path)}
    assert recorded_times_s(settings(**given)) == [0, 0.5, 4]
    assert recorded_times_s(settings(producer__recorded_speed=2, **given)) == [0, 0.25, 2]
    assert recorded_times_s(settings()) is None
    (tmp_path / "x.jsonl").write_text('{"at": 100}\n{"at": 99}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2 is before"):
        recorded_times_s(settings(**given))
    (tmp_path / "x.jsonl").write_text('{"at": 100}\n{"to": 99}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 2 of .* has no time there"):
        recorded_times_s(settings(**given))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    folder = str(tmp_path)
    for path, reason in (("none", "cannot be read"), ("empty", "has no lines"), ("binary", "not UTF-8")):
        with pytest.raises(ConfigError, match=reason):
            Payloads(settings(producer__samples=path, process__folder=folder))
    with pytest.raises(ConfigError, match="cannot be read"):
        profile_of(settings(producer__profile="table:file=none", process__folder=folder))


def test_a_table_of_rates_stays_below_the_rate_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "day.csv").write_text("0,100\n10,900\n")
    given = {"producer__profile": "table:file=day.csv", "process__folder": str(tmp_path)}
    assert profile_of(settings(producer__rate=1000, **given)).share(11) == 0.9
    with pytest.raises(ConfigError, match="goes up to 900 msg/s"):
        profile_of(settings(producer__rate=500, **given))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"producer__template": "{guid}"}, "no field"),
        ({"producer__headers": {"a": "{guid}"}}, "no field"),
        ({"producer__priority": "high"}, "from 0 to 255"),
        ({"producer__profile": "wave"}, "expected steady"),
        ({"producer__recorded_at": "json:at"}, "needs samples"),
        ({"producer__template": "x", "producer__samples": "y"}, "leave one of them out"),
        ({"queue__routing_keys": {"a": 0}}, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        settings(**changes)


def test_the_ids_of_a_service_are_noted_before_the_messages_are_sent(tmp_path: Path) -> None:
    path = tmp_path / "producer-1.ids"
    composed(
        2, producer__headers={"order": "{counter:5}"}, process__ids_file=str(path), process__id_field="header:order"
    )
    assert path.read_text() == '5\t0\t"5"\n5\t1\t"6"\n'
    journal = IdJournal(tmp_path / "more.ids", 9, MessageField.parse("json:a"))
    journal.note(0, Message(b"no json"))
    assert (tmp_path / "more.ids").read_text() == ""


def test_a_priority_outside_an_octet_is_brought_back_into_it() -> None:
    payloads = Payloads(settings(producer__priority="{int:300..400}"))
    assert payloads.make(Draw(0)).priority == 255
