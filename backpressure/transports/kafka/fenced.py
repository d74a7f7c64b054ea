"""Letting go of a broker that the cluster has fenced, for instance because the network cut it off from the others.

Such a broker keeps the connections of its clients. It takes messages that it cannot replicate, and says nothing about
them. librdkafka sends no more of a partition until it has an answer, even when it knows another leader; and it asks
for the cluster's metadata where it has sent something last, so from that broker it never learns of another leader. A
short time limit for requests would end this, and would end every slow request as well.

So a client that has waited for a while asks the other brokers. When most of them do not list a broker any more, others
lead its partitions, and this process closes its connections to that broker, and those it opens within the next second:
librdkafka would ask that broker again. Then it asks another one, and sends to the new leader what was not answered.
Nothing is duplicated: the producer is idempotent.

When nobody answers, the brokers hang, or the network has lost them without ending the connections. That is an outage
like any other, but librdkafka would take a minute to notice it.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from backpressure.settings import BrokerSettings
from backpressure.transports.kafka.client import client_configuration

_STALLED_AFTER_S = 1.0
_PAUSES_S = (0.5, 30.0)
_PAUSE = 0.1  # of the time it has waited
_ANSWER_WITHIN_S = 1.0
_KEPT_AWAY_S = 1.0
_KEPT_AWAY_EVERY_S = 0.1
_MOST_ASKED = 3
_ANY_TOPIC = "__consumer_offsets"  # a broker lists the others with the topics that are asked for
_OPEN_FILES = Path("/dev/fd")  # of this process, where the system is POSIX
_log = logging.getLogger("backpressure")

Server = tuple[str, int]


class FencedBrokers:
    """Looks for fenced brokers while one client waits, after growing pauses, because an idle queue looks the same."""

    def __init__(self, broker: BrokerSettings, on_silence: Callable[[], None] | None = None) -> None:
        """``on_silence`` is called, in any thread, when no broker that was asked answers and the client still waits."""
        self._on_silence = on_silence
        self._configuration = client_configuration(broker, "fenced")
        self._servers: dict[int, Server] = {}
        self._waiting_since = time.monotonic()
        self._look_at = 0.0
        self._looking: threading.Thread | None = None
        self._told_of: set[int] = set()

    def learn(self, metadata: ClusterMetadata) -> None:
        """Note which brokers there are."""
        self._servers |= _servers(metadata)

    def watch(self, *, answered: bool, waiting: bool) -> None:
        """Look for fenced brokers, in a thread of its own, when the client has waited long enough.

        Call this often: ``answered`` says whether there was an answer since the last call, ``waiting`` whether one is
        due.
        """
        now = time.monotonic()
        if answered or not waiting:
            self._waiting_since = self._look_at = now
        elif now - self._waiting_since >= _STALLED_AFTER_S and now >= self._look_at and self._worth_asking:
            shortest_s, longest_s = _PAUSES_S
            self._look_at = now + min(max(shortest_s, _PAUSE * (now - self._waiting_since)), longest_s)
            if self._looking is None or not self._looking.is_alive():
                self._looking = threading.Thread(target=self._look, name="fenced brokers", daemon=True)
                self._looking.start()

    @property
    def _worth_asking(self) -> bool:
        return len(self._servers) > 1 or (len(self._servers) == 1 and self._on_silence is not None)

    def _look(self) -> None:
        servers, waiting_since = dict(self._servers), self._waiting_since
        asked = random.sample(sorted(servers), min(len(servers), _MOST_ASKED))
        with ThreadPoolExecutor(len(asked)) as threads:
            answers = threads.map(self._ask, [servers[number] for number in asked])
            told = {number: answer for number, answer in zip(asked, answers, strict=True) if answer is not None}
        if not told and self._on_silence is not None and waiting_since == self._waiting_since:
            self._on_silence()
        for answer in told.values():
            self._servers |= answer
        lost = {number: disconnect(servers[number]) for number in fenced(servers, told)}
        for number in {number for number, count in lost.items() if count} - self._told_of:
            _log.warning(
                "the cluster has fenced broker %d (%s:%d): closed the connections to it", number, *servers[number]
            )
        self._told_of = {*lost}
        if any(lost.values()):
            self._keep_away([servers[number] for number in lost])

    def _keep_away(self, servers: Collection[Server]) -> None:
        for _ in range(round(_KEPT_AWAY_S / _KEPT_AWAY_EVERY_S)):
            time.sleep(_KEPT_AWAY_EVERY_S)
            for server in servers:
                disconnect(server)

    def _ask(self, server: Server) -> dict[int, Server] | None:
        """Return the brokers that the one at ``server`` lists."""
        host, port = server
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        client = AdminClient(self._configuration | {"bootstrap.servers": address})
        with suppress(KafkaException):
            return _servers(client.list_topics(_ANY_TOPIC, timeout=_ANSWER_WITHIN_S))
        return None


def _servers(metadata: ClusterMetadata) -> dict[int, Server]:
    brokers: Any = metadata.brokers  # the library says that they have no host
    return {number: (each.host, each.port) for number, each in brokers.items()}


def fenced(servers: Mapping[int, Server], told: Mapping[int, Mapping[int, Server]]) -> list[int]:
    """Return those of the brokers ``servers`` that most of the others do not list.

    ``told`` has what each broker that answered lists. A broker with another number may be at the same address by now.
    """
    found = []
    for number, server in servers.items():
        others = [listed for teller, listed in told.items() if teller != number]
        without = [listed for listed in others if number not in listed and server not in listed.values()]
        if 2 * len(without) > len(others):
            found.append(number)
    return found


def disconnect(server: Server) -> int:
    """Shut down the connections of this process to ``server``, and return how many there were."""
    host, port = server
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        numbers = [int(each.name) for each in _OPEN_FILES.iterdir()]
    except OSError:  # the name is unknown by now, or the system has no such folder
        return 0
    return sum(_shut_down(open_file, {address[4][:2] for address in found}) for open_file in numbers)


def _shut_down(open_file: int, peers: Collection[tuple[object, ...]]) -> bool:
    """Shut ``open_file`` down if it is a connection to one of ``peers``; whoever uses it sees it end."""
    with suppress(OSError), _connection(open_file) as connection:
        if connection.getpeername()[:2] in peers:  # raises for what is closed by now, or no connection
            connection.shutdown(socket.SHUT_RDWR)
            return True
    return False


def _connection(open_file: int) -> socket.socket:
    """Return another socket for ``open_file``; raises `OSError` where it is none, and leaves nothing open then."""
    again = os.dup(open_file)
    try:
        return socket.socket(fileno=again)
    except OSError:
        os.close(again)
        raise
