"""The terminal frame at every size: complete if there is room, otherwise shortened in order of importance."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from backpressure.core.snapshot import (
    Client,
    Event,
    EventKind,
    Outlook,
    Quantiles,
    QueueState,
    Rates,
    Snapshot,
    Source,
    Threshold,
)
from backpressure.dashboards.cards_loop import Trail
from backpressure.dashboards.screen import Cards
from backpressure.presentation.terminal import PALETTE

Make = Callable[..., Snapshot]
MakeQueues = Callable[..., dict[str, QueueState]]


def trail_of(snapshot: Make, depths: list[int]) -> Trail:
    trail = Trail(1.0)
    for second, depth in enumerate(depths):
        queue = QueueState(name="work.queue", ready=depth, unacked=0, consumers=1, age_s=0.1)
        trail.note(snapshot(at_ns=second * 10**9, queues={"work.queue": queue}), "work.queue")
    return trail


def frame(
    seen: Snapshot,
    width: int = 80,
    height: int = 60,
    *,
    limited: bool = True,
    colour: bool = False,
    trail: Trail | None = None,
) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=colour,
        color_system="standard" if colour else None,
    )
    console.print(Cards(seen, limited=limited, trail=trail))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_with(text: str, *words: str) -> str:
    (line,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return line


@pytest.mark.parametrize("width", [60, 80, 149, 150, 200])
@pytest.mark.parametrize("height", [12, 24, 30, 60])
def test_a_frame_never_exceeds_the_terminal(snapshot: Make, width: int, height: int) -> None:
    lines = frame(snapshot(), width, height).splitlines()
    assert max(len(line) for line in lines) <= width
    if height >= 24:
        assert len(lines) <= height


def test_the_work_queue_shows_depth_rates_and_what_is_going_on(snapshot: Make) -> None:
    row = line_with(frame(snapshot()), "● work.queue ")
    assert row.split()[1:-1] == ["●", "work.queue", "45", "40", "5", "1", "101", "99", "98", "Flowing", "⬆⬇"]


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        ({"published_per_s": 778.0, "delivered_per_s": 80.0, "acked_per_s": 79.0}, "Filling ⬆"),
        ({"published_per_s": 5.0, "delivered_per_s": 0.0, "acked_per_s": 0.0}, "Filling ⬆"),
        ({"published_per_s": 79.0, "delivered_per_s": 81.0, "acked_per_s": 80.0}, "Flowing ⬆⬇"),
        ({"published_per_s": 0.0, "delivered_per_s": 5.0, "acked_per_s": 5.0}, "Draining ⬇"),
        ({"published_per_s": 79.0, "delivered_per_s": 778.0, "acked_per_s": 778.0}, "Draining ⬇"),
        ({"published_per_s": 0.0, "delivered_per_s": 0.0, "acked_per_s": 0.0}, "Waiting "),
        ({"published_per_s": 0.0, "delivered_per_s": 0.0, "acked_per_s": 0.0, "ready": 0}, "Working "),
        ({"published_per_s": 0.0, "delivered_per_s": 9.0, "acked_per_s": 9.0, "consumers": 0}, "No consumer "),
        ({"published_per_s": 5.0, "delivered_per_s": 0.0, "acked_per_s": 0.0, "consumers": 0}, "No consumer ⬆"),
        ({"published_per_s": 0.0, "delivered_per_s": 0.0, "acked_per_s": 0.0, "consumers": 0}, "No consumer "),
        ({"published_per_s": 0.0, "delivered_per_s": 0.0, "acked_per_s": 0.0, "ready": 0, "unacked": 0}, "Idle"),
    ],
)
def test_a_queue_is_filling_flowing_draining_idle_or_consumed_by_nobody(
    snapshot: Make, work: MakeQueues, rates: dict[str, Any], text: str
) -> None:
    assert text in line_with(frame(snapshot(queues=work(**rates))), "● work.queue ")


@pytest.mark.parametrize(("growth_per_s", "text"), [(61.0, "Filling ⬆"), (-61.0, "Draining ⬇"), (0.0, "Flowing ⬆⬇")])
def test_the_word_for_what_a_queue_does_agrees_with_its_growth(
    snapshot: Make, work: MakeQueues, growth_per_s: float, text: str
) -> None:
    outlook = Outlook(growth_per_s=growth_per_s)
    for published_per_s, acked_per_s in ((0.0, 87.0), (87.0, 87.0), (150.0, 87.0)):
        queues = work(published_per_s=published_per_s, acked_per_s=acked_per_s, outlook=outlook)
        assert text in line_with(frame(snapshot(queues=queues)), "● work.queue ")


def test_the_past_of_a_queue_that_was_asked_for_is_what_went_in_and_out_whoever_sent_it(
    snapshot: Make, work: MakeQueues
) -> None:
    rates = Rates(published_per_s=20.0, processed_per_s=30.0)
    for asked, rate_in, rate_out in (((), "20", "30"), (("work.queue",), "101", "98")):
        trail = Trail(1.0)
        trail.note(snapshot(rates=rates, queues=work(), asked=asked), "work.queue")
        assert (trail.latest("published/s"), trail.latest("processed/s")) == (rate_in, rate_out)


def test_programs_say_which_queue_they_use_where_there_are_several(snapshot: Make) -> None:
    seen = snapshot()
    one, other = seen.producers[0], replace(seen.producers[0], queue="invoices", pacing_rate_per_s=1.0, reason="slower")
    processes = tuple(replace(process, queue="work.queue") for process in seen.processes)
    text = frame(snapshot(producers=(one,), processes=processes))
    assert "work.queue" not in line_with(text, "producer alice")
    assert "alice: holding the queue" in text
    processes += (replace(processes[0], queue="invoices"),)
    text = frame(snapshot(producers=(one, other), processes=processes))
    assert line_with(text, "producer alice", "invoices")
    assert line_with(text, "producer alice", "work.queue")
    assert "alice of invoices: slower" in text


def test_a_dead_letter_queue_that_nobody_consumes_is_not_a_fault(snapshot: Make, work: MakeQueues) -> None:
    letters = replace(work()["work.queue"], name="work.queue.dlq", consumers=0, published_per_s=0.0, acked_per_s=0.0)
    text = frame(snapshot(queues=work() | {letters.name: letters}))
    assert "No consumer" not in text


@pytest.mark.parametrize(("acked_per_s", "published_per_s", "text"), [(0.0, 0.0, "Waiting "), (9.0, 0.0, "Waiting ")])
def test_messages_that_nobody_takes_are_neither_idle_nor_draining(
    snapshot: Make, work: MakeQueues, acked_per_s: float, published_per_s: float, text: str
) -> None:
    audit = replace(
        work()["work.queue"], name="audit", consumers=0, published_per_s=published_per_s, acked_per_s=acked_per_s
    )
    assert text in line_with(frame(snapshot(queues=work() | {audit.name: audit})), " audit ")


def test_a_terminal_of_80_by_24_keeps_five_events_and_shows_the_recent_past(snapshot: Make) -> None:
    events = tuple(Event(n, EventKind.RECOVERED, f"event {n}") for n in range(9))
    text = frame(snapshot(events=events), 80, 24, trail=trail_of(snapshot, [0, 10, 20, 40]))
    assert [n for n in range(4, 9) if f"event {n} " in text] == [4, 5, 6, 7, 8]
    assert len(text.splitlines()) <= 24
    assert "▁▃▅█" in line_with(text, "past")
    assert "holding the queue" in text
    troubled = frame(snapshot(events=events, rates=Rates(nacked_per_s=1.0)), 80, 24, trail=trail_of(snapshot, [1]))
    assert "The full queue refuses" in troubled
    assert [n for n in range(4, 9) if f"event {n} " in troubled] == [4, 5, 6, 7, 8]


def test_a_high_terminal_shows_each_curve_in_a_line_with_its_latest_value(snapshot: Make) -> None:
    text = frame(snapshot(), 100, 60, trail=trail_of(snapshot, [0, 10, 20, 45]))
    assert line_with(text, "▁▂▄█").split()[1:3] == ["depth", "45"]
    assert "120 ms" in line_with(text, "wait p99  ")


def test_the_title_of_the_queues_sums_them_up(snapshot: Make, work: MakeQueues) -> None:
    assert "─ Queues 2: ready 40, unacked 5, active 1, consumers 1, connections 1 ─" in frame(snapshot())
    without_management = snapshot(broker=None, queues=work(consumers=None, unacked=None))
    assert "─ Queues 2: ready 40, unacked –, active 1, consumers –, connections – ─" in frame(without_management)
    many = {f"q{n}": replace(work()["work.queue"], name=f"q{n}") for n in range(12)}
    low = frame(snapshot(queues=many), height=24, trail=trail_of(snapshot, [1]))
    assert "─ Queues 12 (+5): ready 480, unacked 60, active 12, consumers 12" in low


def test_an_old_count_says_that_it_is_old_instead_of_the_state(snapshot: Make, work: MakeQueues) -> None:
    assert "4.2 s ago" in line_with(frame(snapshot(queues=work(age_s=4.2))), "● work.queue ")
    listed = work(age_s=4.2, watched=False)  # the management API is always seconds old: no note
    assert "ago" not in line_with(frame(snapshot(queues=listed)), "● work.queue ")


@pytest.mark.parametrize(
    ("ready", "sign", "code"), [(0, "●", "\x1b[32m"), (2600, "▲", "\x1b[33m"), (5100, "■", "\x1b[31m")]
)
def test_depth_is_green_yellow_or_red_and_has_a_sign_of_its_own(
    snapshot: Make, work: MakeQueues, ready: int, sign: str, code: str
) -> None:
    assert f"{code}{sign}" in frame(snapshot(queues=work(ready=ready, unacked=0)), colour=True)


@pytest.mark.parametrize("width", [80, 100, 120, 150, 160, 200])
def test_the_names_of_queues_are_the_last_thing_to_be_cut(snapshot: Make, work: MakeQueues, width: int) -> None:
    name = "orders.incoming.work.queue"
    busy = replace(work()["work.queue"], name=name, ready=12_300, unacked=1_500, delivered_per_s=1234.0)
    head, row = (
        line_with(frame(snapshot(queues={name: busy}), width), *words) for words in (["depth"], [f"■ {name} "])
    )
    assert ("del/s" in head) == (width not in {80, 150, 160})
    assert "Flowing ⬆⬇" in row


def test_without_colour_no_colour_is_written(snapshot: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def coloured() -> bool:
        console = Console(
            file=io.StringIO(), width=80, force_terminal=True, color_system="256", theme=PALETTE, legacy_windows=False
        )
        console.print(Cards(snapshot(), limited=False))
        assert isinstance(console.file, io.StringIO)
        return "38;5;" in console.file.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured()


def test_a_depth_of_which_unacked_is_unknown_is_a_lower_bound(snapshot: Make, work: MakeQueues) -> None:
    assert "≥40" in line_with(frame(snapshot(queues=work(unacked=None))), "● work.queue ")


def test_a_topic_shows_its_worst_partition_and_other_brokers_have_no_such_column(
    snapshot: Make, work: MakeQueues
) -> None:
    assert "worst part." not in frame(snapshot())
    assert "worst part." not in frame(snapshot(queues=work(lag_by_partition=(45,))))
    text = frame(snapshot(queues=work(lag_by_partition=(3, 42))), width=120)
    assert "worst part." in line_with(text, "depth", "queue")
    assert line_with(text, "● work.queue ").split()[3:7] == ["45", "#1", "42", "40"]


def test_the_law_shows_its_decision_and_its_reason(snapshot: Make) -> None:
    text = frame(snapshot())
    assert "pace allows 100/s of 1K/s offered" in text
    assert "alice: holding the queue" in text


def test_advice_is_on_the_frame_when_there_is_any(snapshot: Make) -> None:
    assert "What to do" not in frame(snapshot())
    assert "The full queue refuses" in frame(snapshot(rates=Rates(nacked_per_s=1.0)))


def test_waiting_for_a_broker_is_said_at_the_top(snapshot: Make) -> None:
    first = frame(snapshot(sources=(Source("broker", ok=False, error="connecting"),))).splitlines()[0]
    assert "waiting for amqp://lab:5672" in first
    first, *_ = frame(snapshot(sources=(Source("broker", ok=False, error="no such user", refused=True),))).splitlines()
    assert "refused by amqp://lab:5672" in first


def test_what_is_unknown_is_a_dash(snapshot: Make) -> None:
    text = frame(snapshot(rates=Rates(), queue_wait=Quantiles(), broker=None))
    assert "offered –  confirmed –  processed –" in text
    assert "p50 –  p95 –  p99 –" in text
    assert "memory" not in line_with(text, "totals")


def test_consumers_and_connections_come_with_their_details_but_without_feedback_ears(snapshot: Make) -> None:
    text = frame(snapshot(), height=80)
    assert "127.0.0.1:4001" in line_with(text, "slow-1")
    assert "running" in line_with(text, "127.0.0.1:4000")
    assert "amq.gen-feedback" not in text


def test_the_prefetch_is_the_consumers_own_where_the_broker_reports_none(snapshot: Make) -> None:
    broker = snapshot().broker
    assert broker is not None
    client = replace(broker.consumers[0], prefetch=0)
    reported = replace(snapshot().consumers[0], prefetch=17)
    row = line_with(
        frame(snapshot(broker=replace(broker, consumers=(client,)), consumers=(reported,)), height=80), "slow-1"
    )
    assert row.split()[-3:-1] == ["17", "manual"]
    stranger = replace(broker, consumers=(replace(client, tag="ctag1.9"),))
    assert "– manual" in line_with(frame(snapshot(broker=stranger), height=80), "ctag1.9")


def test_lists_give_way_when_the_height_runs_out(snapshot: Make) -> None:
    tall, low = frame(snapshot(), height=80), frame(snapshot(), height=24)
    assert "Connections" in tall
    assert "Connections" not in low
    assert "Events (+" in low
    assert "work.queue.dlq" in low


def test_the_newest_events_are_the_ones_shown(snapshot: Make) -> None:
    text = frame(snapshot(), height=24)
    assert "event 29" in text
    assert "event 0 " not in text


def test_names_from_other_processes_cannot_steer_the_terminal_or_the_markup(snapshot: Make) -> None:
    hostile = replace(snapshot().processes[0], id="\x1b[2J[red]alice")
    text = frame(snapshot(processes=(hostile,)), width=100)
    assert "·[2J[red]alice" in text
    assert "\x1b" not in text


def test_a_wide_terminal_gets_two_columns(snapshot: Make) -> None:
    assert "Queues" in line_with(frame(snapshot(), width=200), "Queues", "Processes")


def test_a_breached_wait_is_red(snapshot: Make) -> None:
    late = (Threshold("queue wait p99", 2000.0, 1000.0, "ms"),)
    seen = snapshot(thresholds=late, queue_wait=Quantiles(1, 2.0, 2.0, 2.0, 2.0))
    assert "\x1b[31m2.0 s" in frame(seen, colour=True)


def test_a_limit_that_is_near_or_breached_is_named_and_distinguished_without_colour(snapshot: Make) -> None:
    near, late = Threshold("broker memory", 60.0, 80.0, "%"), Threshold("queue wait p99", 2000.0, 1000.0, "ms")
    calm = (Threshold("depth", 45.0, 5000.0, "messages"), Threshold("broker memory", None, 80.0, "%"))
    assert "limits" not in frame(snapshot(thresholds=calm))
    line = line_with(frame(snapshot(thresholds=(*calm, near, late))), "limits")
    assert line.split("limits")[1].strip(" │") == "▲ broker memory 60 % of 80 %  ■ queue wait p99 2.0 s of 1.0 s"


def test_a_queue_with_automatic_acknowledgement_holds_at_least_what_is_counted(strangers: Make) -> None:
    text = frame(strangers(outlook=Outlook(growth_per_s=0.0, wait_s=0.02, hidden=True)), 80, 24)
    assert "depth      ≥ 450" in text
    assert "at least 20.0 ms  backlog ÷ rate out" in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
def test_a_queue_of_others_leaves_nothing_blank(strangers: Make, width: int, height: int) -> None:
    growing = Outlook(growth_per_s=20.0, wait_s=4.5, full_in_s=90_000.0, statistics_age_s=10.0)
    text = frame(strangers(outlook=growing, max_length=10_000, fill=0.04), width, height)
    assert "● orders (classic)" in text
    assert "450  ready 400  unacked 50  bound 10K ready, 4 % used" in text
    assert "in 100/s  out 100/s  grows by 20/s, full in 25.0 h (1 d)" in text
    assert "about 4.5 s  backlog ÷ rate out" in text
    assert "1 with prefetch 50, manual ack" in text
    assert "statistics up to 10 s old" in text
    assert "Flow" not in text  # nothing of ours is there
    assert "–" not in text
    assert max(map(len, text.splitlines())) <= width
    assert len(text.splitlines()) <= height


def test_the_terms_of_all_consumers_of_a_queue_of_others_are_summed_up(strangers: Make) -> None:
    terms = [(True, 0, True), (True, 0, True), (True, 10, False), (False, 0, True)]
    clients = [
        Client(tag=str(n), queue="orders", peer="", prefetch=prefetch, ack_required=manual, active=active)
        for n, (manual, prefetch, active) in enumerate(terms)
    ]
    text = " ".join(frame(strangers(*clients, consumers=4), 120).replace("│", "").split())
    assert "1 with prefetch 10, manual ack, waiting for the active one" in text
    assert "2 with no prefetch limit, manual ack" in text
    assert "1 with automatic ack" in text


def test_many_queues_of_others_are_rows_and_only_these(strangers: Make) -> None:
    seen = strangers()
    names = [f"orders.{n}" for n in range(8)]
    endless = Outlook(growth_per_s=7.0, wait_s=float("inf"))
    queues = {name: replace(seen.queues["orders"], name=name, outlook=endless) for name in names}
    text = frame(replace(seen, queues=queues | dict(seen.queues), asked=tuple(names)), 100, 40)
    assert "work.queue" not in text
    assert "∞" in line_with(text, "● orders.7 ")
    assert "+7/s" in line_with(text, "● orders.7 ")
    assert "5 more need a look: orders.3, orders.4, orders.5, …" in text


def test_a_stream_has_no_consumers_to_wait_for(strangers: Make) -> None:
    text = frame(strangers(kind="stream", consumers=0, acked_per_s=0.0, outlook=None), 120, 40)
    assert "● orders (stream)" in text
    assert "in 100/s" in text
    assert "backlog" not in text
    assert "out " not in text.partition("● orders (stream)")[2].partition("╰")[0]
