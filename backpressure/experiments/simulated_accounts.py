"""Turns what the plant has counted into what a run records: accounts and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil

from backpressure.core.ledger import LedgerTotals
from backpressure.core.plant import PlantSample, WorkQueue
from backpressure.experiments.accounts import Accounts
from backpressure.experiments.recording import nanoseconds
from backpressure.experiments.sample import Sample

__all__ = ["accounts_of", "samples_of"]


class _CountedLedger:
    """The plant knows the end of every message, so its counts are the ledger."""

    def __init__(self, queue: WorkQueue, rejected: int) -> None:
        processed, left = queue.processed - queue.duplicates, queue.unprocessed
        self._totals = LedgerTotals(
            confirmed=queue.arrived,
            processed=processed,
            dead_lettered=queue.dead_lettered,
            dropped=queue.dropped,
            left_in_queue=left,
            rejected=rejected,
            returned=0,
            unsettled=0,
            lost=queue.arrived - processed - queue.dead_lettered - queue.dropped - left,
            duplicates=queue.duplicates,
        )

    def totals(self) -> LedgerTotals:
        return self._totals


def accounts_of(
    queue: WorkQueue, *, rejected: int = 0, confirmed_after_s: Callable[[float], float] = lambda _: 0.0
) -> Accounts:
    """Return the accounts of all messages that went through ``queue``.

    ``confirmed_after_s`` returns how long the confirm of a message took that was sent at a given time.
    """
    accounts = Accounts()
    for at_s, wait_s in zip(queue.starts_s, queue.waits_s, strict=True):
        accounts.waits.add(nanoseconds(at_s), nanoseconds(wait_s))
    for sent_s in queue.arrivals_s:
        accounts.confirms.add(nanoseconds(sent_s), nanoseconds(confirmed_after_s(sent_s)))
    for at_s, sojourn_s in zip(queue.done_s, queue.sojourns_s, strict=True):
        accounts.end_to_end.add(nanoseconds(at_s), nanoseconds(sojourn_s))
    accounts.done_ns.extend(accounts.end_to_end.at_ns)
    accounts.delivered = queue.processed + queue.dead_lettered
    accounts.redelivered = queue.redelivered
    accounts.ledger = _CountedLedger(queue, rejected)  # type: ignore[assignment]  # asked for its totals alone
    return accounts


def samples_of(samples: list[PlantSample]) -> Iterator[Sample]:
    """Convert the plant's totals to the samples of a real run, whose rates look back one second."""
    window: list[PlantSample] = []
    for sample in samples:
        window = [old for old in window if sample.at_s - old.at_s <= 1.0 + 1e-9] + [sample]
        first, span_s = window[0], sample.at_s - window[0].at_s
        yield Sample(
            t_s=round(sample.at_s, 3),
            ready=sample.ready,
            unacked=sample.depth - sample.ready,
            offered_per_s=sample.demand_per_s,
            published_per_s=(sample.arrived - first.arrived) / span_s if span_s else None,
            processed_per_s=(sample.processed - first.processed) / span_s if span_s else None,
            nacked_per_s=(sample.nacked - first.nacked) / span_s if span_s else None,
            allowed_per_s=min(sum(sample.rates_per_s), sample.demand_per_s),
            offered_total=ceil(sample.offered),
            signal_age_ms=sample.signal_age_s and sample.signal_age_s * 1000,
        )
