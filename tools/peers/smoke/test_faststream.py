"""FastStream on a broker: subscribers, answers to requests by direct reply-to, and exchanges."""

from __future__ import annotations

import asyncio
import os

from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue


def test_a_subscriber_gets_what_is_published_and_a_request_its_answer() -> None:
    async def story() -> None:
        broker = RabbitBroker(os.environ["AMQP_URL"])
        received: asyncio.Queue[str] = asyncio.Queue()
        exchange = RabbitExchange("smoke.events", type=ExchangeType.TOPIC, auto_delete=True)

        @broker.subscriber(RabbitQueue("smoke.orders", routing_key="order.*", auto_delete=True), exchange)
        async def note(message: str) -> None:
            await received.put(message)

        @broker.subscriber(RabbitQueue("smoke.shout", auto_delete=True))
        async def shout(message: str) -> str:
            return message.upper()

        async with broker:
            await broker.start()
            await broker.publish("placed", "order.placed", exchange)
            assert await asyncio.wait_for(received.get(), 10) == "placed"
            for word in ("one", "two"):
                answer = await broker.request(word, "smoke.shout", timeout=10)
                assert answer.body.decode() == word.upper()

    asyncio.run(story())
