"""What the consumer prints: names come from other processes and must not steer the terminal."""

from __future__ import annotations

import pytest

from backpressure.cli.consumer import _watcher
from backpressure.core.journal import Outcome
from backpressure.core.message import Delivery, Message, Metadata
from backpressure.engines.tally import Consumed


def test_a_verbose_line_names_the_message_and_a_sender_cannot_steer_the_terminal_of_the_reader(
    capsys: pytest.CaptureFixture[str],
) -> None:
    delivery = Delivery(Message(b"x", message_id="order\x1b[1m-7"), tag=1, epoch=1, redelivered=False)
    watch = _watcher(verbose=True, show=None)
    assert watch is not None
    watch(Consumed(delivery, Metadata(producer_id="\x1b[2Jmallory"), Outcome.PROCESSED, 0.0125, 0.01))
    assert capsys.readouterr().out == "processed from=·[2Jmallory waited=12.5ms id=order·[1m-7\n"
