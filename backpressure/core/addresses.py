"""Hosts as text: plain (``::1``) where one listens or dials, in brackets (``[::1]``) within a URL."""

from __future__ import annotations

import ipaddress

__all__ = ["bracketed", "plain_host"]

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
