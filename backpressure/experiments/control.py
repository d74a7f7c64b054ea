"""The parts of the processes' control APIs that a run uses: pause, resume, change settings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from backpressure.errors import ConfigError, ExperimentError
from backpressure.experiments.supervisor import Child

__all__ = ["ProcessControl"]

_POLL_S = 0.1
_ENDING_S = 1.0
_RECONNECTING_S = 30.0


class ProcessControl:
    """Sends requests to child processes; an async context manager."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """``transport`` carries the requests; None: TCP."""
        self._client = httpx.AsyncClient(timeout=10.0, trust_env=False, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def resume(self, children: Iterable[Child]) -> None:
        """Resume paused producers, all at once."""
        await asyncio.gather(*(self._post(child, "/admin/resume", None) for child in children))

    async def configure(self, children: Iterable[Child], changes: Mapping[str, Any]) -> None:
        """Change settings, by dotted key; raises `ConfigError` with the reason when a child refuses."""
        if changes:
            await asyncio.gather(
                *(self._post(child, "/admin/config", {"settings": dict(changes)}) for child in children)
            )

    async def _post(self, child: Child, path: str, body: Mapping[str, Any] | None) -> None:
        try:
            response = await self._answer(child, path, body)
        except httpx.HTTPError as error:
            if await _ends(child):
                return  # it has reached its limit and ends: there is nothing left to change
            raise ExperimentError(f"{child.id} does not answer at {child.api_url}{path}: {error!r}") from None
        if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            raise ConfigError("scenario", body, f"{child.id} refused: {response.text}")
        if response.is_error:
            raise ExperimentError(f"{child.id} answered {response.status_code} to {path}: {response.text}")

    async def _answer(self, child: Child, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """Retry while the child has no broker: after an outage it needs a while to reconnect."""
        loop = asyncio.get_running_loop()
        patience_ends = loop.time() + _RECONNECTING_S
        while True:
            response = await self._client.post(child.api_url + path, json=body)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or loop.time() > patience_ends:
                return response
            await asyncio.sleep(_POLL_S)


async def _ends(child: Child) -> bool:
    """Say whether ``child`` has ended or is about to: it stops listening a moment before it is gone."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ENDING_S):
            await child.process.wait()
    return not child.alive
