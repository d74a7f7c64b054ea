"""Which release of Kafka a broker runs.

The protocol has no version number, but since KRaft each release supports a new level of the feature
``metadata.version`` (KIP-584, KIP-778), and the answer to ApiVersions (KIP-511) contains it. librdkafka does not expose
the answer, so this module makes the request itself.
"""

from __future__ import annotations

import asyncio
import struct
from bisect import bisect_right

from backpressure.settings import BrokerSettings
from backpressure.transports.connecting import tls_context

_API_VERSIONS, _VERSION = 18, 3
_RELEASES = {1: "3.0", 2: "3.1", 3: "3.2", 4: "3.3", 8: "3.4", 9: "3.5", 12: "3.6", 15: "3.7", 20: "3.8", 21: "3.9"} | {
    22: "4.0",
    26: "4.1",
    28: "4.2",
}
_UNKNOWN = "unknown"
_SUPPORTED_FEATURES = 0  # the tag of the field


async def broker_release(broker: BrokerSettings) -> str:
    """Return "4.1", or "unknown" for a broker from before KRaft. Raises `ConfigError` for unusable TLS files."""
    scheme, _, servers = broker.address().partition("://")
    tls = tls_context(broker) if scheme == "kafka+ssl" else None
    host, _, port = servers.split(",")[0].rpartition(":")
    try:
        async with asyncio.timeout(broker.connect_timeout_s):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=tls)
            try:
                writer.write(api_versions_request())
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                return release_of(await reader.readexactly(size))
            finally:
                writer.close()
    except (OSError, EOFError):
        return _UNKNOWN


def api_versions_request() -> bytes:
    """Return the request, framed."""
    client = b"\x05pace\x02" + b"1"
    body = struct.pack(">hhih", _API_VERSIONS, _VERSION, 1, -1) + b"\x00" + client + b"\x00"
    return struct.pack(">i", len(body)) + body


def release_of(response: bytes) -> str:
    """Return the release according to ``response`` (without its size)."""
    try:
        level = _Fields(response).metadata_level()
    except (IndexError, struct.error):
        return _UNKNOWN
    known = sorted(_RELEASES)
    return _RELEASES[known[bisect_right(known, level) - 1]] if level > 0 else _UNKNOWN


class _Fields:
    """Reads fields off a response, in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def metadata_level(self) -> int:
        """Return the highest supported level of metadata.version, 0 when there is none."""
        self._take(4 + 2)  # correlation id, error code
        for _ in range(self._varint() - 1):
            self._take(6)  # key, oldest and newest version of a request
            self._tags()
        self._take(4)  # throttle time
        for _ in range(self._varint()):
            tag, size = self._varint(), self._varint()
            if tag == _SUPPORTED_FEATURES:
                return self._feature("metadata.version")
            self._take(size)
        return 0

    def _feature(self, wanted: str) -> int:
        for _ in range(self._varint() - 1):
            name = self._take(self._varint() - 1).decode()
            _oldest, newest = struct.unpack(">hh", self._take(4))
            self._tags()
            if name == wanted:
                return int(newest)
        return 0

    def _take(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        if len(data) < size:
            raise IndexError("the response ends early")
        self._at += size
        return data

    def _varint(self) -> int:
        value = shift = 0
        while True:
            octet = self._take(1)[0]
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return value
            shift += 7

    def _tags(self) -> None:
        for _ in range(self._varint()):
            self._varint()
            self._take(self._varint())
