"""What to do when a queue or exchange exists with other arguments than the settings declare: advice in their terms."""

from __future__ import annotations

import re

from backpressure.errors import PreconditionFailedError
from backpressure.settings import QueueSettings

__all__ = ["advised"]

_SETTINGS = {
    "x-queue-type": "type",
    "x-max-length": "max_length",
    "x-max-length-bytes": "max_length_bytes",
    "x-overflow": "overflow",
    "x-message-ttl": "message_ttl_ms",
    "x-dead-letter-routing-key": "dead_letter",
    "partitions": "partitions",
    "retention.ms": "message_ttl_ms",
}
"""By the argument that differs, the setting of the work queue it comes from."""


def advised(error: PreconditionFailedError, queue: QueueSettings) -> PreconditionFailedError:
    """Return ``error`` with advice, the least harmful first; ``queue`` is what was to be declared."""
    name = error.name
    if name == queue.exchange:
        as_it_is = f"--predeclared and PACE_QUEUE__EXCHANGE={name}, if the queue exists as well"
        return error.advised(
            [("to use it as it is", as_it_is), ("to use another exchange", f"PACE_QUEUE__EXCHANGE={name}.new")]
        )
    advice = [("to use it as it is and declare nothing", "--predeclared")] if name == queue.work else []
    if declared := _as_it_is(error, queue):
        advice.append(("to declare it as it is", declared))
    if name == queue.audit and queue.auditing:
        advice.append(("to use another audit queue", f"--audit-queue {name}.new"))
    elif name == queue.dead_letter:
        advice.append(
            ("to use another work queue, which has a dead-letter queue of its own", f"--queue {queue.work}.new")
        )
    else:
        advice.append(("to use another queue", f"--queue {name}.new"))
    advice.append(("to delete it with all messages in it and create it again", f"pace cleanup {name}"))
    return error.advised(advice)


def _as_it_is(error: PreconditionFailedError, queue: QueueSettings) -> str:
    """Return the setting or flag that declares the queue as it is, or "" where there is none."""
    argument, is_work = error.argument, error.name == queue.work
    if argument == "durable":
        return "--no-durable" if queue.durable else "--durable"
    if argument == "x-queue-mode":
        return "without --lazy (queue.type = classic)" if queue.type == "lazy" else "--lazy (queue.type = lazy)"
    setting = _SETTINGS.get(argument)
    if argument == "x-max-length" and error.name == queue.audit:
        setting = "audit_max_length"
    elif not is_work and argument != "x-queue-type":
        setting = None
    current = _current(error.reply_text)
    return f"PACE_QUEUE__{setting.upper()}={current}" if setting and current else ""


def _current(reply_text: str) -> str:
    """Return the value that the broker says is current, "none" for none, or "" where it does not tell."""
    found = re.search(r"(?:current is|the topic has) (?:the value )?(?:'([^']*)'|(\S+))", reply_text)
    return (found.group(1) or found.group(2) or "") if found else ""
