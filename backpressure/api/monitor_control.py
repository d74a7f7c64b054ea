"""The live page's controls: requests handed on to the control APIs of producers and consumers on this machine.

A page may only call the server it came from, so the monitor calls for it. Where a process is reached is what it said of
itself, and a report can come from anybody: only a plain address on the loopback of this very machine is called, and
only the few paths that change the pace.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import SecretStr

from backpressure.api.server import is_loopback
from backpressure.core.controllers import LAWS
from backpressure.core.reports import Report
from backpressure.core.snapshot import Snapshot

__all__ = ["serve_control"]

_TIMEOUT_S = 10.0  # a change of the queue's bound takes the broker a while


def serve_control(app: FastAPI, snapshot: Callable[[], Snapshot], token: SecretStr) -> None:
    """Add ``/api/control`` for the live processes of ``snapshot``; ``token`` is the one their APIs want, if any."""
    secret = token.get_secret_value()
    plain = {"content-type": "application/json"}
    headers = httpx.Headers(plain | {"authorization": f"Bearer {secret}"} if secret else plain, encoding="utf-8")
    here = socket.gethostname()

    @app.get("/api/control")
    async def controls() -> dict[str, Any]:
        """What there is to choose from, and which processes can be reached."""
        seen = snapshot()
        roles: tuple[tuple[str, tuple[Report, ...]], ...] = (
            ("producer", seen.producers),
            ("consumer", seen.consumers),
        )
        return {
            "laws": list(LAWS),
            "processes": [
                {"role": role, "id": report.id, "pid": report.pid, "reachable": _reachable(report, here)}
                for role, reports in roles
                for report in reports
            ],
        }

    @app.post("/api/control/{role}/{process}/{action}")
    async def control(
        role: Literal["producer", "consumer"],
        process: str,
        action: Literal["config", "pause", "resume", "slow-down"],
        request: Request,
        pid: int | None = None,
    ) -> Response:
        """Hand the request on to the ``/admin/…`` of that process and return its answer.

        ``pid`` tells processes of one name apart.
        """
        seen = snapshot()
        report = _only(seen.producers if role == "producer" else seen.consumers, process, pid)
        if not _reachable(report, here):
            where = f"its control API is at {report.api_url} on {report.host}" if report.api_url else "it serves none"
            raise HTTPException(409, f"{role} {process} is not controlled from here: {where}")
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
            try:
                answer = await client.post(
                    f"{report.api_url}/admin/{quote(action)}",
                    content=await request.body(),
                    headers=headers,
                )
            except httpx.HTTPError as error:
                raise HTTPException(
                    502, f"{role} {process} does not answer: {str(error) or type(error).__name__}"
                ) from None
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


def _only(reports: tuple[Report, ...], process: str, pid: int | None) -> Report:
    found = [report for report in reports if report.id == process and pid in {None, report.pid}]
    if not found:
        raise HTTPException(404, f"no live process {process}")
    if len(found) > 1:
        pids = ", ".join(str(report.pid) for report in found)
        raise HTTPException(409, f"there are several of that name: add ?pid= one of {pids}")
    return found[0]


def _reachable(report: Report, here: str) -> bool:
    """Return whether the address is ``http://<loopback>:<port>`` and nothing else, and the process on this machine."""
    try:
        url = urlsplit(report.api_url)
        plain = url.port is not None and url.scheme == "http" and "@" not in url.netloc
    except ValueError:
        return False
    bare = report.api_url == f"http://{url.netloc}"
    return report.host == here and plain and bare and is_loopback(url.hostname or "")
