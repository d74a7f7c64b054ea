"""Calls a control API inside the process, in virtual time: no socket, no waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from stage import RecordingBroker, consuming, producing, settings_of

from backpressure.api.consumer import consumer_app
from backpressure.api.producer import producer_app
from backpressure.engines.consumer import ConsumerEngine
from backpressure.engines.producer import ProducerEngine

__all__ = ["IDLE", "calling", "consumer_api", "producer_api", "routes"]

IDLE = {"producer__strategy": "unbounded", "producer__start_paused": True}
"""Settings of a producer that sends only what is requested."""


@asynccontextmanager
async def calling(app: FastAPI, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of ``app``."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        yield client


@asynccontextmanager
async def producer_api(
    broker: RecordingBroker | None = None, *, transport: Any = None, **changes: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, ProducerEngine, RecordingBroker]]:
    """Run a producer on a broker in memory and yield a client of its API."""
    broker = broker or RecordingBroker()
    settings = settings_of(**{**IDLE, **changes})
    async with (
        producing(settings, broker, transport=transport) as (engine, _),
        calling(producer_app(engine)) as client,
    ):
        yield client, engine, broker


@asynccontextmanager
async def consumer_api(
    broker: RecordingBroker | None = None, **changes: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, ConsumerEngine, RecordingBroker]]:
    """Run a consumer on a broker in memory and yield a client of its API."""
    broker = broker or RecordingBroker()
    async with consuming(settings_of(**changes), broker) as (engine, _), calling(consumer_app(engine)) as client:
        yield client, engine, broker


def routes(document: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Return every (method, path) of an OpenAPI document."""
    return {(method.upper(), path) for path, item in document["paths"].items() for method in item}
