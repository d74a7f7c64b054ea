"""Which HTTP requests a server meant for this machine answers.

A browser sends what pages of other sites make it send, and a site can give its own name this machine's address (DNS
rebinding). So the name that is asked for must be this machine's own, and pages of another origin change nothing.
Must not know: any HTTP library.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

__all__ = ["is_from_other_site", "is_loopback", "names_this_machine"]

_SAFE = {"GET", "HEAD", "OPTIONS"}


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_this_machine(host: str) -> bool:
    """Return whether a request's ``Host`` is ``localhost`` or a loopback address, with or without a port."""
    return is_loopback(_parts(f"//{host}").hostname or "")


def is_from_other_site(method: str, origin: str | None, host: str) -> bool:
    """Return whether a page of another origin than ``host`` asks for a change."""
    return bool(origin) and method not in _SAFE and _parts(origin or "").netloc != host


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # half of an IPv6 address
        return urlsplit("")
