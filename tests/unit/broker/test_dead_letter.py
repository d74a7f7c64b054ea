"""What happens to a message when its queue dead-letters it."""

from __future__ import annotations

from typing import Any

import pytest
from pamqp import commands, header

from backpressure.amqp.deaths import record_death
from backpressure.amqp.field_tables import decode_value, split_array
from backpressure.amqp.properties import Properties
from backpressure.broker.entries import DeadLetter, QueuedMessage


def payload(**properties: Any) -> bytes:
    encoded: bytes = header.ContentHeader(properties=commands.Basic.Properties(**properties)).marshal()
    return encoded


def read(encoded: bytes) -> dict[str, Any]:
    content = header.ContentHeader()
    content.unmarshal(encoded)
    return {name: value for name, value in content.properties if value is not None}


def test_dead_lettering_keeps_the_types_of_the_publishers_headers() -> None:
    message = QueuedMessage("e", "k", payload(headers={"small": 1, "text": "x"}, expiration="5"), b"")
    before = message.properties().headers()
    dead = DeadLetter(message, queue="q", reason="expired", exchange="dlx", routing_key=None, epoch_s=7).message
    after = dead.properties().headers()
    assert {name: after[name] for name in before} == before
    assert (dead.exchange, dead.routing_key, dead.properties().text("expiration")) == ("dlx", "k", None)
    assert read(dead.header)["headers"]["x-death"][0]["original-expiration"] == "5"


@pytest.mark.parametrize(
    "forged", ["nonsense", [1, "x"], [{}], [{"count": "many", "queue": "q", "reason": "rejected"}]]
)
def test_a_forged_history_does_no_harm(forged: Any) -> None:
    message = QueuedMessage("", "q", payload(headers={"x-death": forged}), b"")
    dead = DeadLetter(message, queue="q", reason="rejected", exchange="", routing_key="d", epoch_s=7).message
    (first, *_) = split_array(dead.properties().headers()[b"x-death"])
    death: Any = decode_value(first)
    assert (death["count"], death["queue"], death["reason"]) == (1, "q", "rejected")


def test_entries_without_a_count_are_merged_into_one_that_has_it() -> None:
    forged = [{"queue": queue, "reason": "expired"} for queue in ("a", "b", "a", "a")]
    properties = Properties.parse(payload(headers={"x-death": forged}))
    record_death(properties, queue="a", reason="expired", exchange="", routing_keys=["d"], epoch_s=7)
    deaths: Any = [decode_value(item) for item in split_array(properties.headers()[b"x-death"])]
    assert [(death["queue"], death["count"]) for death in deaths] == [("a", 4), ("b", 1)]
