"""Hosts as text, URLs of brokers, and which requests a server meant for this machine answers.

A host is plain (``::1``) where one listens or dials, and in brackets (``[::1]``) within a URL. Must not know: any HTTP
library.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlsplit

_URL = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
_SERVER = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]*))(?::([0-9]{0,5}))?")
_MOST_PORT = 65535

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


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """The parts of a broker's URL, which may name several servers: ``amqp://one,two:5673,[::1]:5674/``.

    `urllib.parse` knows URLs of one server only. Of a list it finds no port, and since Python 3.12 it refuses one with
    an IPv6 address in it.

    Attributes:
        username, password: decoded; empty where there is none.
        servers: plain host, empty where none is named, and port, None for the usual one.
        path: as it stands in the URL.
    """

    scheme: str
    username: str
    password: str
    servers: tuple[tuple[str, int | None], ...]
    path: str
    query: str

    @classmethod
    def parse(cls, url: str) -> BrokerAddress:
        """Return the parts of ``url``; raises `ValueError` for an impossible host or port."""
        found = _URL.fullmatch(url)
        if found is None:
            raise ValueError(_EXPECTED)
        scheme, authority, path, query = (part or "" for part in found.groups())
        login, _, servers = authority.rpartition("@")
        username, _, password = login.partition(":")
        return cls(scheme.lower(), unquote(username), unquote(password), _servers(servers), path, query)

    def single(self) -> list[str]:
        """Return a URL for each server, for libraries that know URLs of one server only."""
        return [self.at([server]) for server in self.servers]

    def at(self, servers: Sequence[tuple[str, int | None]]) -> str:
        """Return the URL with these servers."""
        login = quote(self.username, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        names = ",".join(bracketed(host) + ("" if port is None else f":{port}") for host, port in servers)
        at, query = "@" if login else "", f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{login}{at}{names}{self.path}{query}"

    def hosts(self, default_hosts: str, default_port: int) -> list[tuple[str, int]]:
        """Return every server's host and port; the defaults are for what the URL does not name.

        ``default_hosts`` is read by `server_list`.
        """
        found: list[tuple[str, int | None]] = []
        for host, port in self.servers:
            usual = [] if host else server_list(default_hosts)
            found += [(host, port)] if host else [(name, port if own is None else own) for name, own in usual]
        return [(host, default_port if port is None else port) for host, port in found]


def server_list(text: str) -> tuple[tuple[str, int | None], ...]:
    """Return host and port of the servers in a setting, with commas between them: ``one,two:5673,::1,[::1]:5674``.

    An IPv6 address without a port needs no brackets. Raises `ValueError`.
    """
    names = [f"[{name}]" if name.count(":") > 1 and "[" not in name else name for name in text.split(",")]
    if "" in names:
        raise ValueError("expected a host between commas")
    return _servers(",".join(names))


def _servers(text: str) -> tuple[tuple[str, int | None], ...]:
    names = text.split(",")
    if len(names) > 1 and "" in names:
        raise ValueError("expected a host between commas")
    return tuple(map(_server, names))


def _server(text: str) -> tuple[str, int | None]:
    found = _SERVER.fullmatch(text)
    if found is None:
        raise ValueError(_EXPECTED)
    bracketed_host, host, port = found.groups()
    if int(port or 0) > _MOST_PORT:
        raise ValueError(f"expected a port up to {_MOST_PORT}")
    name = plain_host(f"[{bracketed_host}]") if bracketed_host else plain_host(host) if host else ""
    return name.lower(), int(port) if port else None


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
