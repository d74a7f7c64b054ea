"""The live page's controls: requests handed on to the control APIs of producers and consumers on this machine.

A page may only call the server it came from, so the monitor forwards its requests. The address of a process comes from
its report, and anyone can send a report: the monitor calls plain loopback addresses of this machine only, and only the
paths that change the pace. It sends the token only to a process of the same user that listens at that address. The page
says in advance why a process cannot be controlled.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from math import isfinite
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx
import psutil
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import SecretStr

from backpressure.core.addresses import is_loopback
from backpressure.core.controllers import LAWS
from backpressure.core.reports import ConsumerReport, Report
from backpressure.core.snapshot import Snapshot

_TIMEOUT_S = 10.0  # changing the queue's bound can take the broker seconds
_LOOK_TIMEOUT_S = 1.0


def serve_control(app: FastAPI, snapshot: Callable[[], Snapshot], token: SecretStr) -> None:
    """Add ``/api/control`` for the live processes of ``snapshot``; ``token`` is the one their APIs require, if any."""
    secret = token.get_secret_value()
    plain = {"content-type": "application/json"}
    headers = httpx.Headers(plain | {"authorization": f"Bearer {secret}"} if secret else plain, encoding="utf-8")
    here = socket.gethostname()

    def kept_from(report: Report) -> str:
        """Return why the process may not be called, before anything is sent to it."""
        obstacle = _out_of_reach(report, here)
        if secret and not obstacle and not _is_ours(report):
            return f"the token is not shown to {report.api_url}: no process {report.pid} of this user listens there"
        return obstacle

    @app.get("/api/control")
    async def controls() -> dict[str, Any]:
        """What there is to choose from, and for each process what keeps it from being controlled ("": nothing).

        For a consumer also how many times longer its work takes than is set; null: it does not tell.
        """
        seen = snapshot()
        live = [("producer", report) for report in seen.producers] + [("consumer", report) for report in seen.consumers]
        async with httpx.AsyncClient(trust_env=False, timeout=_LOOK_TIMEOUT_S, headers=headers) as client:
            looks = await asyncio.gather(*(_look(report, kept_from(report), client) for _, report in live))
        return {
            "laws": list(LAWS),
            "processes": [
                {"role": role, "id": report.id, "pid": report.pid, "host": report.host}
                | {"obstacle": obstacle, "slow_down_factor": factor}
                for (role, report), (obstacle, factor) in zip(live, looks, strict=True)
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
        if obstacle := kept_from(report):
            raise HTTPException(409, f"{role} {process} is not controlled from here: {obstacle}")
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


async def _look(report: Report, kept_from: str, client: httpx.AsyncClient) -> tuple[str, float | None]:
    """Return what keeps the process from being controlled (place, silence, token), and how much it is slowed down."""
    if kept_from:
        return kept_from, None
    path = "/status" if isinstance(report, ConsumerReport) else "/health"
    try:
        answer = await client.get(f"{report.api_url}{path}")
    except httpx.HTTPError as error:
        return f"its control API {report.api_url} does not answer ({str(error) or type(error).__name__})", None
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return "it wants another token than the monitor's (api.token)", None
    try:
        factor = answer.json()["rates"]["slow_down_factor"]
    except (ValueError, KeyError, TypeError):
        factor = None
    return "", float(factor) if isinstance(factor, (int, float)) and isfinite(factor) else None


def _out_of_reach(report: Report, here: str) -> str:
    """Return why the process may not be called: only ``http://<loopback>:<port>`` on this machine is allowed."""
    if not report.api_url:
        return "it serves no control API"
    if report.host != here:
        return f"it runs on {report.host}, its control API is {report.api_url} there"
    try:
        url = urlsplit(report.api_url)
        plain = url.port is not None and report.api_url == f"http://{url.netloc}" and "@" not in url.netloc
        local = plain and is_loopback(url.hostname or "")
    except ValueError:
        local = False
    return "" if local else f"its control API {report.api_url} is not a plain address on this machine's loopback"


def _is_ours(report: Report) -> bool:
    """Return whether the process belongs to this user, who can read the token anyway, and listens at its address."""
    url = urlsplit(report.api_url)
    hosts = {"127.0.0.1", "::1"} if url.hostname == "localhost" else {url.hostname}
    try:
        process = psutil.Process(report.pid)
        return process.username() == psutil.Process().username() and any(
            line.status == psutil.CONN_LISTEN and line.laddr.port == url.port and line.laddr.ip in hosts
            for line in process.net_connections("tcp")
        )
    except psutil.Error:
        return False
