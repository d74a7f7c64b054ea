"""A page and the files it loads, with headers that let a browser load nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

__all__ = ["Page", "security_headers"]


def security_headers(*, styles: str = "'self'") -> dict[str, str]:
    """Return the headers of a page that loads nothing from elsewhere, and that nobody shows within a page of theirs."""
    return {
        "Content-Security-Policy": (
            f"default-src 'self'; style-src {styles}; img-src 'self' data:; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


class Page:
    """``index.html``, and below ``/assets`` all files by their names."""

    def __init__(self, app: FastAPI, assets: Mapping[str, Path], *, styles: str = "'self'") -> None:
        """Serve ``assets`` from ``app``; ``styles`` is where styles may come from (Content Security Policy)."""
        self._index = assets["index.html"]
        self._headers = security_headers(styles=styles)

        @app.get("/assets/{name}", include_in_schema=False)
        async def asset(name: str) -> FileResponse:
            if name not in assets:
                raise HTTPException(404, f"no asset {name!r}")
            return FileResponse(assets[name], headers={**self._headers, "Cache-Control": "max-age=3600"})

    def answer(self, **headers: str) -> FileResponse:
        """Return the page itself, with further ``headers``."""
        return FileResponse(self._index, headers=self._headers | headers)
