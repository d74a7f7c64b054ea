"""One line of ``samples.jsonl``: the loop and its processes at one moment, taken ten times a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

__all__ = ["Sample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rates are messages a second over the last second; None is "unknown", and for ``allowed_per_s`` also "no limit".

    Attributes:
        t_s: seconds since the first phase began.
        ready, unacked: of the work queue; their sum is the depth.
        offered_total: messages that the schedules of all producers have asked for so far.
        in_flight: sent and unconfirmed, all producers.
        signal_age_ms: how old the laws' view of the consumers was at their last decisions, mean over the producers.
        tick_lateness_ms: how much later than due the producers' control loops ran last, the worst of them.
        reason: why the law of the most restrained producer decided as it did.
        rss_mb, cpu_s: resident memory and CPU time used so far, by process id.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore", allow_inf_nan=False, strict=True)

    t_s: float
    ready: int | None = None
    unacked: int | None = None
    offered_per_s: float | None = None
    published_per_s: float | None = None
    processed_per_s: float | None = None
    nacked_per_s: float | None = None
    allowed_per_s: float | None = None
    offered_total: int = 0
    in_flight: int | None = None
    signal_age_ms: float | None = None
    tick_lateness_ms: float | None = None
    reason: str = ""
    rss_mb: Mapping[str, float] = field(default_factory=dict)
    cpu_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def depth(self) -> int | None:
        """Ready plus unacked; ready alone where unacked is unknown."""
        return None if self.ready is None else self.ready + (self.unacked or 0)

    def to_json(self) -> str:
        """Return one line of JSON, without its line end."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str | bytes) -> Sample:
        """Return the sample in ``line``, ignoring what a later version added; raises `ValueError`."""
        return _ADAPTER.validate_json(line)


_ADAPTER = TypeAdapter(Sample)
