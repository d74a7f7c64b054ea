"""What is declared, depending on the settings."""

from __future__ import annotations

from typing import Any

import pytest

from backpressure.errors import ConfigError
from backpressure.settings import QueueSettings
from backpressure.transports.queue_declarations import QueueDeclaration, bound_policy, queue_declarations

DEAD_LETTERS = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "work.queue.dlq"}


def declared(*, bound_by_policy: bool = False, **settings: Any) -> list[QueueDeclaration]:
    return queue_declarations(QueueSettings.model_validate(settings), bound_by_policy=bound_by_policy)


def test_by_default_a_bounded_work_queue_and_its_dead_letters() -> None:
    assert declared() == [
        QueueDeclaration("work.queue.dlq", durable=True, arguments={}, bound=False),
        QueueDeclaration(
            "work.queue",
            durable=True,
            arguments={**DEAD_LETTERS, "x-max-length": 10_000, "x-overflow": "reject-publish"},
        ),
    ]


def test_a_bound_that_is_a_policy_is_not_an_argument() -> None:
    assert declared(bound_by_policy=True)[1].arguments == DEAD_LETTERS


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"type": "lazy"}, {"x-queue-mode": "lazy"}),
        ({"type": "quorum"}, {"x-queue-type": "quorum"}),
        ({"message_ttl_ms": 0}, {"x-message-ttl": 0}),
        ({"max_length_bytes": 1}, {"x-max-length-bytes": 1, "x-overflow": "reject-publish"}),
    ],
)
def test_each_setting_has_its_argument(settings: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert declared(**{"max_length": None} | settings)[1].arguments == DEAD_LETTERS | arguments


def test_with_lazy_every_queue_is_kept_on_disk() -> None:
    queues = declared(type="lazy", auditing=True)
    assert [queue.name for queue in queues] == ["work.queue.dlq", "work.queue", "audit.queue"]
    assert all(queue.arguments["x-queue-mode"] == "lazy" for queue in queues)


def test_the_dead_letters_of_a_quorum_queue_are_replicated_too() -> None:
    assert declared(type="quorum")[0].arguments == {"x-queue-type": "quorum"}


def test_an_audit_queue_is_bounded_and_drops_its_oldest() -> None:
    audit = declared(auditing=True, audit_max_length=7)[2]
    assert audit == QueueDeclaration(
        "audit.queue", durable=True, arguments={"x-max-length": 7, "x-overflow": "drop-head"}
    )


def test_a_quorum_queue_cannot_dead_letter_what_it_rejects() -> None:
    with pytest.raises(ConfigError, match=r"queue\.overflow = 'reject-publish-dlx'"):
        declared(type="quorum", overflow="reject-publish-dlx")


def test_an_unbounded_queue_has_no_policy() -> None:
    assert bound_policy(QueueSettings(max_length=None)) == {}
