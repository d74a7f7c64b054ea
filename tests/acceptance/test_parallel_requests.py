"""A thousand requests at once, over real sockets, to a real producer: each is one message."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import httpx

from backpressure.config import replaced
from backpressure.settings import Settings
from backpressure.transports.factory import connect

REQUESTS = 1000
CLIENTS = (
    20  # httpx looks at every waiting request for each that ends: a thousand in one client take it most of a minute
)
CONNECTIONS = 200  # what a process may open by default is not much more than a thousand files
PATIENCE_S = 120
QUEUE = "parallel"
OWN = {"PACE_QUEUE__WORK": QUEUE, "PACE_QUEUE__ROUTING_KEY": QUEUE, "PACE_QUEUE__DEAD_LETTER": f"{QUEUE}.dlq"}


async def ask(url: str) -> Counter[tuple[int, str | None]]:
    """Send all requests and return the answers: their codes, and the ids that they tell."""
    limits = httpx.Limits(max_connections=CONNECTIONS // CLIENTS)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE_S, trust_env=False)
            )
            for _ in range(CLIENTS)
        ]
        requests = (clients[n % CLIENTS].post("/produce", json={"id": f"r{n}", "payload": n}) for n in range(REQUESTS))
        answers = await asyncio.gather(*requests)
    return Counter((answer.status_code, answer.json().get("message_id")) for answer in answers)


async def ids_in_the_queue(url: str) -> Counter[str | None]:
    admin = connect(replaced(Settings(), {"broker.url": url})).admin()
    await admin.start()
    try:
        return Counter([delivery.message.message_id async for delivery in admin.drain(QUEUE)])
    finally:
        await admin.stop()


def test_of_a_thousand_parallel_requests_over_sockets_none_is_lost_and_none_doubled(start: Any, broker: Any) -> None:
    producer = start("fast_producer.py", "--url", broker.url, "--api-port", "0", PACE_PRODUCER__START_PAUSED="1", **OWN)
    answers = asyncio.run(ask(producer.says(r"control API (http://\S+)")[1]))
    assert answers == Counter({(200, f"r{n}"): 1 for n in range(REQUESTS)})
    assert asyncio.run(ids_in_the_queue(broker.url)) == Counter({f"r{n}": 1 for n in range(REQUESTS)})
