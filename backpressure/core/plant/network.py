"""What lies between the plant's processes: how long it takes, and what it loses."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How old, how rare and how unreliable the reports and readings are that reach producers.

    ``way_s`` is an additional delay of everything between a client and the broker, each way, messages included.
    ``carried_per_s`` is how many messages each connection carries, each way; everything else is small.

    What can be known without reports, besides the probe: ``totals``, whether a reading tells unacked messages of the
    same moment; ``statistics_interval_s``, how often the queue counts ready and unacked messages for its statistics (0:
    there are none), and ``collected``, whether readers see a copy that is made once in such an interval at another
    time. They read it every ``statistics_poll_s``. ``consumer_list``: prefetch and acknowledgement mode are told.
    ``counted``: the producers of a fleet, whose consumers report rarely, may ask the broker to count what these hold.
    """

    report_interval_s: float = 0.1
    report_delay_s: float = 0.005
    report_loss: float = 0.0
    probe: bool = True
    probe_interval_s: float = 0.1
    probe_delay_s: float = 0.005
    confirm_latency_s: float = 0.002
    timeout_s: float = 2.0
    totals: bool = False
    statistics_interval_s: float = 0.0
    statistics_poll_s: float = 0.2
    collected: bool = False
    consumer_list: bool = False
    counted: bool = True
    way_s: float = 0.0
    carried_per_s: float = inf

    @property
    def confirmed_after_s(self) -> float:
        """How long after it was sent a message is confirmed."""
        return self.confirm_latency_s + 2 * self.way_s

    @property
    def delays(self) -> bool:
        """Whether messages take time to get through."""
        return self.way_s > 0 or self.carried_per_s < inf


class Line:
    """One direction of a connection, or of ``width`` equal ones: carries one message after the other."""

    __slots__ = ("_free_s", "_last_s", "width")

    def __init__(self) -> None:
        self.width = 1.0
        self._free_s = 0.0
        self._last_s = 0.0

    def carry(self, sent_s: float, network: Network) -> float:
        """Return when a message arrives that is sent at ``sent_s``, after those before it."""
        self._free_s = max(sent_s, self._free_s) + 1 / (self.width * network.carried_per_s)
        self._last_s = max(self._last_s, self._free_s + network.way_s)
        return self._last_s
