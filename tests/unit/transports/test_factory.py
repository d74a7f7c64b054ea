"""Which transport serves which URL."""

from __future__ import annotations

import pytest

from backpressure.settings import Settings
from backpressure.transports.factory import connect


@pytest.mark.parametrize(
    ("url", "module"),
    [
        ("amqp://broker.example", "backpressure.transports.rabbitmq"),
        ("amqps://broker.example", "backpressure.transports.rabbitmq"),
        ("memory://here", "backpressure.transports.memory"),
    ],
)
def test_the_scheme_decides(url: str, module: str) -> None:
    assert type(connect(Settings.model_validate({"broker": {"url": url}}))).__module__ == module


def test_an_address_never_shows_the_password() -> None:
    transport = connect(Settings.model_validate({"broker": {"url": "amqp://user:s3cret@broker.example"}}))
    assert transport.address == "amqp://broker.example:5672"
