"""What a run and an agent say to each other, as bytes: sealed, numbered, acknowledged, in order.

Sans-IO: `Conversation.hear` takes a message that has arrived, `Conversation.due` returns those to send now. The
connection may be lost with messages in it, so a numbered message is kept until the other side has acknowledged it, and
sent again. Little is under way at a time (`WINDOW_BYTES`), however much there is to send.

Every message is sealed by an HMAC. The keys come from the token that both sides know, which is never sent. The key of a
conversation contains random numbers of both sides, so nothing that was recorded in one means anything in another;
within a conversation no number is accepted twice.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self

from backpressure.errors import ConfigError
from backpressure.settings import AgentSettings

EVERY_AGENT = "agents"
"""The address of all agents of a group."""
_LEAST_TOKEN_CHARACTERS = 16
PIECE_BYTES = 32_768
"""The largest payload of one message."""
WINDOW_BYTES = 8 * PIECE_BYTES
_SEAL_BYTES = 32
_LENGTH_BYTES = 4
_RESEND_S = 2.0
_OUTAGE_S = 60.0


def exchange_of(group: str) -> str:
    """Return the exchange over which the agents of a group and their runs talk."""
    return f"pace.agents.{group}"


def address(kind: Literal["agent", "run"], name: str) -> str:
    """Return where one agent or run gets its messages."""
    return f"{kind}.{name}"


def seal_of(settings: AgentSettings) -> Seal:
    """Return the seal of the group; raises `ConfigError` where the token can be guessed."""
    token = settings.token.get_secret_value()
    if len(token) < _LEAST_TOKEN_CHARACTERS:
        allowed = (
            f"agents and their runs share a secret of at least {_LEAST_TOKEN_CHARACTERS} characters: the same "
            "PACE_AGENT__TOKEN for both, for example from: openssl rand -hex 16"
        )
        raise ConfigError("agent.token", token, allowed)
    return Seal.of_group(token, settings.group)


class Said(NamedTuple):
    """One message: what kind it is, its fields, and bytes that belong to it."""

    kind: str
    fields: Mapping[str, Any]
    payload: bytes = b""


class Seal:
    """Proves that the sender of a message knows the token, and at which address the message is meant."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of_group(cls, token: str, group: str) -> Self:
        """Return the seal for what everybody in a group may read."""
        return cls(_mac(token.encode(), "group of agents", group))

    def for_conversation(self, *parts: str) -> Seal:
        """Return the seal for the conversation that ``parts`` name: random numbers of both sides among them."""
        return Seal(_mac(self._key, "conversation", *parts))

    def close(self, address: str, header: Mapping[str, Any], payload: bytes = b"") -> bytes:
        """Return a message for ``address``."""
        head = json.dumps(header, separators=(",", ":")).encode()
        text = len(head).to_bytes(_LENGTH_BYTES, "big") + head + payload
        return self._proof(address, text) + text

    def open(self, address: str, data: bytes) -> tuple[dict[str, Any], bytes] | None:
        """Return header and payload of a message for ``address``; None if it was not sealed like this."""
        text = data[_SEAL_BYTES:]
        if not hmac.compare_digest(self._proof(address, text), data[:_SEAL_BYTES]):
            return None
        end = _LENGTH_BYTES + int.from_bytes(text[:_LENGTH_BYTES], "big")
        return json.loads(text[_LENGTH_BYTES:end]), text[end:]

    def _proof(self, address: str, text: bytes) -> bytes:
        return hmac.digest(self._key, address.encode() + b"\0" + text, hashlib.sha256)


def _mac(key: bytes, *parts: str) -> bytes:
    return hmac.digest(key, json.dumps(parts).encode(), hashlib.sha256)


@dataclass(slots=True)
class _Numbered:
    number: int
    said: Said


class Outlet(Protocol):
    """What carries messages to addresses."""

    @property
    def is_open(self) -> bool:
        """Whether what is sent now leaves."""

    def send(self, address: str, data: bytes) -> bool:
        """Send it; return whether that was possible."""


class Conversation:
    """One side of the conversation between a run and an agent."""

    def __init__(self, seal: Seal, mine: str, theirs: str) -> None:
        """``mine`` and ``theirs`` are the addresses of the two sides."""
        self._seal = seal
        self._mine = mine
        self.theirs = theirs
        self._waiting: deque[_Numbered] = deque()
        self._under_way: deque[_Numbered] = deque()
        self._bytes = 0
        self._bytes_under_way = 0
        self._said = self._heard = 0
        self._mentioned = self._overheard = 0
        self._progress_at = 0.0
        self._owes = False

    def say(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        """Send it once, in order, however often the connection is lost."""
        self._said += 1
        self._bytes += len(payload)
        self._waiting.append(_Numbered(self._said, Said(kind, fields, payload)))

    def mention(self, kind: str, **fields: Any) -> bytes:
        """Return a message to be sent now: if it is lost, nobody misses it."""
        self._mentioned += 1
        return self._closed(0, Said(kind, fields))

    @property
    def has_room(self) -> bool:
        """Whether more can be said without much waiting here."""
        return self._bytes < WINDOW_BYTES

    @property
    def is_silent(self) -> bool:
        """Whether the other side has everything that was said."""
        return not self._waiting and not self._under_way

    def begin_again(self) -> None:
        """The connection was lost: what was under way may be lost too."""
        self._waiting.extendleft(reversed(self._under_way))
        self._under_way.clear()
        self._bytes_under_way = 0

    def due(self, now: float) -> list[bytes]:
        """Return what to send now: more of what was said, or again what was not acknowledged; or an acknowledgement."""
        if self._under_way and now - self._progress_at > _RESEND_S:
            self.begin_again()
        messages = []
        while self._waiting and self._bytes_under_way < WINDOW_BYTES:
            if not self._under_way:
                self._progress_at = now
            numbered = self._waiting.popleft()
            self._under_way.append(numbered)
            self._bytes_under_way += len(numbered.said.payload)
            messages.append(self._closed(numbered.number, numbered.said))
        if self._owes and not messages:
            messages.append(self.mention("ack"))
        return messages

    def send_due(self, mailbox: Outlet, now: float) -> None:
        """Send what is due, if it can leave now."""
        if mailbox.is_open:
            for data in self.due(now):
                mailbox.send(self.theirs, data)

    def hear(self, data: bytes, now: float) -> Said | None:
        """Return what a message says, None if that was said before or is to come again.

        Raises `ValueError` if it is not from the other side of this conversation.
        """
        opened = self._seal.open(self._mine, data)
        if opened is None:
            raise ValueError("not from the other side of this conversation")
        header, payload = opened
        self._forget(header["acked"], now)
        said = Said(header["kind"], header["fields"], payload)
        if header["number"]:
            self._owes = True
            if header["number"] != self._heard + 1:
                return None
            self._heard += 1
            return said
        if header["mention"] <= self._overheard:
            return None
        self._overheard = header["mention"]
        return said

    def _forget(self, acknowledged: int, now: float) -> None:
        for queue in (self._under_way, self._waiting):  # after a new beginning, an old acknowledgement may come
            while queue and queue[0].number <= acknowledged:
                size = len(queue.popleft().said.payload)
                self._bytes -= size
                if queue is self._under_way:
                    self._bytes_under_way -= size
                self._progress_at = now

    def _closed(self, number: int, said: Said) -> bytes:
        self._owes = False
        header = {
            "kind": said.kind,
            "fields": said.fields,
            "number": number,
            "mention": 0 if number else self._mentioned,
            "acked": self._heard,
        }
        return self._seal.close(self.theirs, header, said.payload)


class Liveness:
    """Whether the other side is still there. While we are without the broker, it has more time."""

    def __init__(self, patience_s: float, now: float) -> None:
        """``patience_s``: how long it may be silent."""
        self._patience_s = patience_s
        self._heard_at = self._whole_since = now
        self._whole = True

    def heard(self, now: float) -> None:
        """It gave a sign of life."""
        self._heard_at = now

    def silent_s(self, now: float) -> float:
        """Return how long it has been silent."""
        return now - self._heard_at

    def is_lost(self, now: float, *, connected: bool) -> bool:
        """Return whether it has been silent for too long; ``connected``: we could hear it."""
        if connected and not self._whole:
            self._whole_since = now
        self._whole = connected
        if now - self._heard_at > max(self._patience_s, _OUTAGE_S):
            return True
        return connected and now - max(self._heard_at, self._whole_since) > self._patience_s
