"""Several machines on one: network namespaces, with a link to each that delays and loses packets.

    python tests/acceptance/lossy_network.py --agents 2 --delay-ms 20 --jitter-ms 3 --loss 0.01

makes a namespace for the hub and one for each agent, says what to type in which, and removes them at the end (Ctrl-C).
It needs root and /dev/net/tun on Linux. The links are pairs of TUN devices: this program reads each packet at one end
and writes it at the other some time later, or not at all, so TCP meets what `tc netem` would do. Not every kernel has
netem.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

__all__ = ["Link", "Network", "missing"]

_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
_TUN = Path("/dev/net/tun")
_MOST_BYTES = 1 << 16
_QUEUE = 10_000


def missing() -> str:
    """Return why this machine can have no such network; "" if it can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no ip (iproute2)"
    if not _TUN.exists():
        return f"there is no {_TUN}"
    trial = f"pace-try-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", trial], capture_output=True, check=False).returncode:
        return "ip netns add is not permitted here"
    subprocess.run(["ip", "netns", "del", trial], check=False)
    return ""


@dataclass(frozen=True)
class Link:
    """What happens to a packet on its way, in each direction: delay ± jitter, evenly spread, and loss."""

    delay_s: float = 0.02
    jitter_s: float = 0.003
    loss: float = 0.01


@dataclass(order=True)
class _Packet:
    due: float
    number: int
    to: int = field(compare=False)
    data: bytes = field(compare=False)


class Network:
    """A hub and agents: ``hub`` and ``agents`` are names of namespaces, ``address`` is the hub's in all of them."""

    def __init__(self, agents: int, link: Link, seed: int = 1) -> None:
        self._link = link
        self._chance = random.Random(seed)
        stem = f"pace-{os.getpid()}"
        self.hub = f"{stem}-hub"
        self.agents = [f"{stem}-{number}" for number in range(1, agents + 1)]
        self.address = "10.77.0.1"
        self.passed = self.lost = 0
        self._ends: dict[int, int] = {}
        self._over = threading.Event()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for name in (self.hub, *self.agents):
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "del", name)
                _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", self.hub, "addr", "add", f"{self.address}/32", "dev", "lo")
            subprocess.run(["ip", "netns", "exec", self.hub, "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
            for number, name in enumerate(self.agents, start=1):
                self._connect(number, name, stack)
            stack.callback(self._stop, self._start())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def within(self, namespace: str, *, clock_ahead_s: int = 0) -> list[str]:
        """Return what to put before a command to run it there, with a monotonic clock of its own where asked for."""
        clock = ["unshare", "--time", "--monotonic", str(clock_ahead_s), "--"] if clock_ahead_s else []
        return ["ip", "netns", "exec", namespace, *clock]

    def _connect(self, number: int, name: str, stack: ExitStack) -> None:
        ends = []
        for place, device, own, peer in (
            (self.hub, f"to{number}", f"10.77.{number}.1", f"10.77.{number}.2"),
            (name, "tohub", f"10.77.{number}.2", f"10.77.{number}.1"),
        ):
            ends.append(stack.enter_context(_tun(f"p{os.getpid()}x{number}{device[-1]}")))
            _ip("link", "set", f"p{os.getpid()}x{number}{device[-1]}", "netns", place, "name", device)
            _ip("-n", place, "addr", "add", own, "peer", peer, "dev", device)
            _ip("-n", place, "link", "set", device, "up")
        _ip("-n", name, "route", "add", "default", "dev", "tohub")
        self._ends |= {ends[0]: ends[1], ends[1]: ends[0]}

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._carry, name="network", daemon=True)
        thread.start()
        return thread

    def _stop(self, thread: threading.Thread) -> None:
        self._over.set()
        thread.join()

    def _carry(self) -> None:
        under_way: list[_Packet] = []
        last = dict.fromkeys(self._ends, 0.0)
        number = 0
        while not self._over.is_set():
            wait_s = min(0.1, max(0.0, under_way[0].due - time.monotonic())) if under_way else 0.1
            for end in select.select(list(self._ends), [], [], wait_s)[0]:
                data = os.read(end, _MOST_BYTES)
                number += 1
                if self._chance.random() < self._link.loss or len(under_way) > _QUEUE:
                    self.lost += 1
                    continue
                jitter_s = self._chance.uniform(-self._link.jitter_s, self._link.jitter_s)
                due = last[end] = max(last[end], time.monotonic() + self._link.delay_s + jitter_s)  # none overtakes
                heapq.heappush(under_way, _Packet(due, number, self._ends[end], data))
            while under_way and under_way[0].due <= time.monotonic():
                packet = heapq.heappop(under_way)
                with contextlib.suppress(OSError):  # its device is down
                    os.write(packet.to, packet.data)
                self.passed += 1


@contextmanager
def _tun(name: str) -> Iterator[int]:
    """Open a new TUN device; it goes with its descriptor, wherever it was moved."""
    import fcntl  # there is none on Windows

    descriptor = os.open(_TUN, os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22s", name.encode(), _TUN_WITHOUT_HEADER, b""))
        yield descriptor
    finally:
        os.close(descriptor)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def main() -> None:
    """Make a network, and keep it until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Network namespaces with links that delay and lose packets.")
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    parser.add_argument("--jitter-ms", type=float, default=3.0)
    parser.add_argument("--loss", type=float, default=0.01)
    options = parser.parse_args()
    if why := missing():
        sys.exit(f"not possible here: {why}")
    with Network(options.agents, Link(options.delay_ms / 1000, options.jitter_ms / 1000, options.loss)) as network:
        sys.stdout.write(f"hub: {network.address}, in {' '.join(network.within(network.hub))} …\n")
        for number, name in enumerate(network.agents, start=1):
            sys.stdout.write(f"agent {number}: {' '.join(network.within(name))} …\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        sys.stdout.write(f"{network.passed} packets passed, {network.lost} lost\n")


if __name__ == "__main__":
    main()
