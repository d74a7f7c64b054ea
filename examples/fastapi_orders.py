"""FastAPI: orders come by HTTP; while the workers are behind, a client is told when to come back.

``uvicorn --app-dir examples fastapi_orders:app``, and a worker of another example on the queue ``orders``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import orders
from fastapi import Depends, FastAPI, HTTPException, Request

from backpressure import BackpressureError, Paced


@asynccontextmanager
async def life(app: FastAPI) -> AsyncIterator[None]:
    """Connect for as long as the application runs."""
    async with Paced(orders.URL, "orders") as app.state.orders:
        yield


def paced_orders(request: Request) -> Paced:
    """Return the queue, if it has room for one more order: a dependency of each path that sends one."""
    paced: Paced = request.app.state.orders
    if not paced.may_send():
        raise HTTPException(429, "the workers are behind", {"Retry-After": str(paced.retry_after_s)})
    return paced


app = FastAPI(lifespan=life)


@app.post("/orders", status_code=202)
async def order(request: Request, paced: Annotated[Paced, Depends(paced_orders)]) -> None:
    """Take an order."""
    try:
        await paced.publish(await request.body(), timeout=1)
    except BackpressureError as error:
        raise HTTPException(429, str(error), {"Retry-After": str(paced.retry_after_s)}) from None
