"""What the name of a queue becomes on Kafka: a topic, and the group whose commits are the queue's place in it."""

from __future__ import annotations

import re

__all__ = ["GROUPS", "group_id", "topic_name"]

GROUPS = "pace."
"""What the names of our groups begin with; those of the topics of a run as well."""

_LONGEST = 249


def topic_name(queue: str) -> str:
    """Return the topic that stands for ``queue``: its name, with "_" for what Kafka does not allow."""
    name = re.sub(r"[^a-zA-Z0-9._-]", "_", queue)[:_LONGEST]
    return name if name.strip(".") else name.replace(".", "_")


def group_id(queue: str) -> str:
    """Return the consumer group that stands for the consumers of ``queue``: their commits are the queue's place."""
    return f"{GROUPS}{topic_name(queue)}"
