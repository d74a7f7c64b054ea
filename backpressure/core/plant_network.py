"""What lies between the plant's processes: how long it takes, and what it loses."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Network"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How old, how rare and how unreliable what the producers hear is.

    ``way_s`` is how much longer than that everything takes between a client and the broker, each way, messages too.
    """

    report_interval_s: float = 0.1
    report_delay_s: float = 0.005
    report_loss: float = 0.0
    probe: bool = True
    probe_interval_s: float = 0.1
    probe_delay_s: float = 0.005
    confirm_latency_s: float = 0.002
    timeout_s: float = 2.0
    way_s: float = 0.0

    @property
    def confirmed_after_s(self) -> float:
        """How long after it was sent a message is confirmed."""
        return self.confirm_latency_s + 2 * self.way_s
