"""Hosts as text, and which requests a server meant for this machine answers.

A host is plain (``::1``) where one listens or dials, and in brackets (``[::1]``) within a URL. Must not know: any HTTP
library.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

__all__ = ["bracketed", "is_from_other_site", "is_loopback", "names_this_machine", "plain_host"]

_NOT_IN_A_HOST = set("/?#@[]\\%")
_EXPECTED = "expected a host name or an address without scheme and port, for example localhost, 10.0.0.7 or ::1"


def bracketed(host: str) -> str:
    """Return ``host`` as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def plain_host(text: str) -> str:
    """Return the host in ``text``, which may have the brackets of a URL; raises `ValueError`."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        if ":" in host or host != text:
            ipaddress.IPv6Address(host)
            return host
        host.encode("idna")  # no part of the name is empty or too long
    except ValueError:
        raise ValueError(_EXPECTED) from None
    if not host.isprintable() or " " in host or _NOT_IN_A_HOST.intersection(host):
        raise ValueError(_EXPECTED)
    return host


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
    """Return whether a request's ``Host`` is ``localhost`` or a loopback address, with or without a port.

    A browser sends what pages of other sites make it send, and a site can give its own name this machine's address (DNS
    rebinding). So the name that is asked for must be this machine's own.
    """
    return is_loopback(_parts(f"//{host}").hostname or "")


def is_from_other_site(method: str, origin: str | None, host: str) -> bool:
    """Return whether a page of another origin than ``host`` asks for a change."""
    return bool(origin) and method not in _SAFE and _parts(origin or "").netloc != host


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # half of an IPv6 address
        return urlsplit("")
