"""Advice comes at the moment it applies, and only then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pika.exceptions import AuthenticationError

from backpressure.core.snapshot import (
    ADDRESS_UNKNOWN,
    BrokerState,
    Client,
    Outlook,
    QueueState,
    Rates,
    Snapshot,
    Source,
    Threshold,
    Totals,
)
from backpressure.dashboards.advice import advise
from backpressure.errors import AnotherBrokerError
from backpressure.transports.rabbitmq.failures import dial_error

Make = Callable[..., Snapshot]
MakeQueues = Callable[..., dict[str, QueueState]]
TOO_DEEP = (Threshold("depth", 6000.0, 5000.0, "messages"),)
TOO_LATE = (Threshold("queue wait p99", 2000.0, 1000.0, "ms"),)


def only(seen: Snapshot) -> str:
    (sentence,) = advise(seen)
    return sentence


def test_nothing_is_said_while_all_is_well(snapshot: Make) -> None:
    assert advise(snapshot()) == []


def test_a_broker_that_is_away_comes_first(snapshot: Make) -> None:
    sentence = only(snapshot(sources=(Source("broker", ok=False, error="connection refused"),)))
    assert "does not answer (connection refused)" in sentence
    assert "pace broker" in sentence


def test_a_refused_login_is_not_told_to_start_a_broker_but_how_to_log_in(snapshot: Make) -> None:
    error = str(dial_error(AuthenticationError("PLAIN"), "amqp://mq:5672"))
    sentence = only(snapshot(sources=(Source("broker", ok=False, error=error, refused=True),)))
    assert "is running but refuses access (access to amqp://mq:5672 refused" in sentence
    for name in ("--username", "--password", "RABBITMQ_USER", "RABBITMQ_PASS"):
        assert name in sentence
    assert "pace broker" not in sentence


def test_a_management_api_that_refuses_the_user_is_distinguished_from_a_missing_one(snapshot: Make) -> None:
    ok = Source("broker", ok=True)
    for refused, advice in ((True, "rabbitmqctl set_user_tags USER monitoring"), (False, "rabbitmq-plugins enable")):
        sentence = only(snapshot(sources=(ok, Source("management", ok=False, error="401", refused=refused))))
        assert advice in sentence


def test_the_memory_limit_is_raised_as_the_kind_of_broker_requires(snapshot: Make) -> None:
    for product, advice in (
        ("RabbitMQ", "rabbitmqctl set_vm_"),
        ("Pace Matching embedded broker", "--memory-limit-mb"),
    ):
        broker = BrokerState(product=product, memory_bytes=85, memory_limit_bytes=100)
        assert advice in only(snapshot(broker=broker, thresholds=(Threshold("broker memory", 85.0, 80.0, "%"),)))


def test_a_first_attempt_to_connect_is_not_a_problem_yet(snapshot: Make) -> None:
    assert advise(snapshot(sources=(Source("broker", ok=False, error="connecting"),))) == []


def test_a_queue_that_nobody_consumes_names_what_to_start(snapshot: Make, work: MakeQueues) -> None:
    sentence = only(snapshot(queues=work(consumers=0, ready=12_000, unacked=0), consumers=()))
    assert sentence == "12K messages wait in work.queue and nobody consumes: python slow_consumer.py."


def test_an_empty_queue_needs_no_consumer(snapshot: Make, work: MakeQueues) -> None:
    assert advise(snapshot(queues=work(consumers=0, ready=0, unacked=0), consumers=())) == []


def test_a_paused_consumer_is_resumed_by_the_command_shown(snapshot: Make, work: MakeQueues) -> None:
    paused = replace(snapshot().consumers[0], paused=True)
    sentence = only(snapshot(queues=work(consumers=0), consumers=(paused,)))
    assert sentence == "Consumer slow is paused: curl -X POST http://127.0.0.1:8001/admin/resume."


def test_where_a_token_is_needed_the_command_sends_it(snapshot: Make, work: MakeQueues) -> None:
    paused = replace(snapshot().consumers[0], paused=True)
    sentence = only(snapshot(queues=work(consumers=0), consumers=(paused,), token_needed=True))
    assert 'curl -X POST -H "Authorization: Bearer $PACE_API__TOKEN" http://127.0.0.1:8001/admin/resume' in sentence


def test_memory_near_its_limit_is_reported_before_the_alarm(snapshot: Make) -> None:
    near = (Threshold("broker memory", 85.0, 80.0, "%"),)
    broker = BrokerState(memory_bytes=85, memory_limit_bytes=100)
    assert only(snapshot(broker=broker, thresholds=near)).startswith("The broker uses 85 % of its memory; from 100 %")
    assert advise(snapshot(broker=replace(broker, memory_alarm=True), thresholds=near)) == []
    assert advise(snapshot(broker=broker)) == []


def test_a_memory_alarm_and_a_full_disk_are_distinguished(snapshot: Make) -> None:
    producers = (replace(snapshot().producers[0], blocked=True),)
    assert "memory alarm" in only(snapshot(producers=producers))
    assert "disk is full" in only(snapshot(producers=producers, broker=BrokerState(disk_alarm=True)))


def test_a_broker_that_keeps_no_statistics_is_not_told_to_enable_a_plugin(snapshot: Make) -> None:
    sentence = only(snapshot(broker=BrokerState(statistics_off=True)))
    assert "keeps no statistics (management_agent.disable_metrics_collector" in sentence
    assert "rates, prefetch and waits stay unknown" in sentence


def test_refused_messages_have_three_ways_out(snapshot: Make) -> None:
    free = (replace(snapshot().producers[0], strategy="rate_limited"),)
    sentence = only(snapshot(producers=free, rates=Rates(nacked_per_s=900.0)))
    assert sentence.startswith("The full queue refuses 900/s.")
    assert "--strategy pace" in sentence


def test_the_law_that_is_advised_is_not_advised_to_those_who_use_it(snapshot: Make, work: MakeQueues) -> None:
    growing = work(ready=6000, published_per_s=1000.0, acked_per_s=100.0)
    trouble = {"queues": growing, "thresholds": TOO_DEEP, "rates": Rates(nacked_per_s=900.0)}
    free = replace(snapshot().producers[0], id="bob", strategy="unbounded")
    following, mixed = advise(snapshot(**trouble)), advise(snapshot(producers=(*snapshot().producers, free), **trouble))
    assert len(following) == len(mixed) == 2
    assert not [sentence for sentence in following if "--strategy pace" in sentence]
    assert all("--strategy pace" in sentence for sentence in mixed)
    assert "900/s. Start another consumer, or raise queue.max_length." in following[0]


def test_growth_is_trouble_only_beyond_the_threshold(snapshot: Make, work: MakeQueues) -> None:
    growing = work(ready=6000, published_per_s=1000.0, acked_per_s=100.0)
    assert advise(snapshot(queues=growing)) == []
    assert only(snapshot(queues=growing, thresholds=TOO_DEEP)).startswith("work.queue grows by 900/s.")
    shrinking = work(ready=6000, published_per_s=50.0, acked_per_s=100.0)
    assert advise(snapshot(queues=shrinking, thresholds=TOO_DEEP)) == []


def test_waiting_in_prefetch_is_distinguished_from_waiting_in_the_queue(snapshot: Make, work: MakeQueues) -> None:
    assert "Lower --prefetch" in only(snapshot(queues=work(ready=1, unacked=500), thresholds=TOO_LATE))
    sentence = only(snapshot(queues=work(ready=500, unacked=5), thresholds=TOO_LATE))
    assert "behind the 500 in work.queue" in sentence
    assert "prefetch" not in sentence


def test_a_wait_that_grows_is_reported_long_before_the_depth_is_a_limit(snapshot: Make, work: MakeQueues) -> None:
    growing = work(ready=900, unacked=5, published_per_s=150.0, acked_per_s=100.0)
    assert only(snapshot(queues=growing, thresholds=TOO_LATE)).startswith("work.queue grows by 50/s.")
    assert advise(snapshot(queues=growing)) == []


def test_auto_prefetch_is_not_advised_to_consumers_that_have_it(snapshot: Make, work: MakeQueues) -> None:
    (consumer,), late = snapshot().consumers, {"queues": work(ready=1, unacked=5), "thresholds": TOO_LATE}
    auto = replace(consumer, prefetch_auto=True)
    assert only(snapshot(consumers=(auto, consumer), **late)).endswith("Lower --prefetch, or use --prefetch auto.")
    sentence = only(snapshot(consumers=(auto,), **late))
    assert "use --prefetch auto" not in sentence
    assert sentence.endswith("or try --prefetch 1.")


def test_dead_letters_returns_and_strangers_are_each_explained(snapshot: Make) -> None:
    rates, totals = Rates(dead_lettered_per_s=1.0, returned_per_s=1.0), Totals(dead_lettered=3)
    unroutable, dead, strangers = advise(snapshot(rates=rates, totals=totals, unreadable_reports=7))
    assert "unroutable" in unroutable
    assert "3 messages failed for good" in dead
    assert "x-pace-reason" in dead
    assert "7 feedback reports were unreadable" in strangers


def test_a_missing_management_api_comes_last_and_says_what_is_lost(snapshot: Make) -> None:
    sources = (Source("broker", ok=True), Source("management", ok=False, error="refused"))
    *_, last = advise(snapshot(sources=sources, rates=Rates(nacked_per_s=1.0)))
    assert "rabbitmq-plugins enable rabbitmq_management" in last


def test_an_unknown_address_of_the_management_api_is_asked_for_first(snapshot: Make) -> None:
    sources = (Source("broker", ok=True), Source("management", ok=False, error=ADDRESS_UNKNOWN))
    *_, last = advise(snapshot(sources=sources))
    asked, _, other = last.partition("--management-url http://HOST:15672")
    assert "rabbitmq-plugins" not in asked
    assert "rabbitmq-plugins enable rabbitmq_management" in other


def client(tag: str = "ctag", **changes: object) -> Client:
    values = {"prefetch": 50, "ack_required": True, "unacked": 50}
    return Client(tag=tag, queue="orders", peer="", **(values | changes))  # type: ignore[arg-type]  # the values of a test


def test_nothing_is_said_about_a_queue_of_others_that_keeps_up(strangers: Make) -> None:
    assert advise(strangers()) == []


def test_a_queue_of_others_that_nobody_consumes_is_not_told_to_start_ours(strangers: Make) -> None:
    sentence = only(strangers(consumers=0, unacked=0))
    assert sentence == "400 messages wait in orders and nobody consumes it: start its consumers."


def test_falling_behind_says_by_how_much_and_when_the_bound_is_reached(strangers: Make) -> None:
    growing = Outlook(growth_per_s=100.0, wait_s=4.0, full_in_s=720.0)
    sentence = only(strangers(outlook=growing, fill=0.4, max_length=1000, overflow="reject-publish"))
    assert sentence.startswith("orders falls behind by 100/s: full in 12 min (")
    assert "then it refuses new ones" in sentence
    assert only(strangers(outlook=Outlook(growth_per_s=5.0))).startswith("orders falls behind by 5/s. Add")


def test_a_full_queue_says_what_it_does(strangers: Make) -> None:
    assert "full: it drops its oldest messages for new ones" in only(strangers(fill=1.0, overflow="drop-head"))


def test_consumers_that_acknowledge_nothing_are_told(strangers: Make) -> None:
    hanging = Outlook(wait_s=float("inf"), statistics_age_s=10.0)
    sentence = only(strangers(outlook=hanging, acked_per_s=0.0))
    assert "its consumer has acknowledged none for 10 s" in sentence


def test_consumers_without_a_prefetch_limit_are_counted(strangers: Make) -> None:
    hidden = client("b", prefetch=0, unacked=None)
    sentence = only(strangers(client(), client("a", prefetch=0), consumers=2))
    assert sentence.startswith("1 of 2 consumers of orders have no prefetch limit: they take")
    assert "no prefetch limit of their own" in only(strangers(client(), hidden, consumers=2))


def test_a_limit_that_our_own_consumer_reports_is_a_limit(strangers: Make, snapshot: Make) -> None:
    seen = strangers(client("slow-1", prefetch=0))
    assert advise(replace(seen, consumers=snapshot().consumers)) == []


def test_consumers_that_acknowledge_automatically_are_told(strangers: Make) -> None:
    assert "1 of 1 consumers of orders acknowledge automatically" in only(strangers(client(ack_required=False)))


def test_idle_consumers_beside_waiting_messages_are_told(strangers: Make) -> None:
    hoarding = (client(unacked=500), client("b", unacked=0))
    assert only(strangers(*hoarding, consumers=2, ready=0)) == (
        "1 of 2 consumers of orders are idle although messages wait: lower the prefetch of the others."
    )
    assert "look whether they hang" in only(strangers(*hoarding, consumers=2))
    standby = (client(unacked=500), client("b", unacked=0, active=False))
    assert advise(strangers(*standby, consumers=2)) == []


def test_the_length_of_a_stream_is_no_backlog(strangers: Make) -> None:
    assert "orders is a stream" in only(strangers(kind="stream", consumers=0))


def test_a_name_that_is_absent_is_told_with_one_that_is_similar(strangers: Make) -> None:
    sentence = only(strangers(absent={"ordres": "queue 'ordres' does not exist"}))
    assert sentence == "ordres cannot be shown: queue 'ordres' does not exist. Is it orders?"


def test_without_the_management_api_what_stays_unknown_of_a_queue_is_told(strangers: Make) -> None:
    missing = (Source("broker", ok=True), Source("management", ok=False, error="401", refused=True))
    assert "rates, unacknowledged messages, prefetch and waits stay unknown" in only(
        replace(strangers(), sources=missing)
    )
    first = (Source("broker", ok=True), Source("management", ok=False, error="connecting"))
    assert advise(replace(strangers(), sources=first)) == []


def test_producers_that_nobody_paces_are_told_with_what_to_do(snapshot: Make) -> None:
    seen = snapshot()
    one, other = (replace(seen.producers[0], id=name, unpaced_per_s=120.0) for name in ("alice", "bob"))
    assert only(snapshot(producers=(one, other))) == (
        "work.queue: 120 msg/s arrive from producers that nobody paces; those that are paced get what they leave. "
        "Remedy: let those use Paced or a pace proxy too (docs/existing-queues.md)."
    )


def test_a_management_api_of_another_broker_is_not_to_be_enabled_but_named_right(strangers: Make) -> None:
    foreign = Source("management", ok=False, error=str(AnotherBrokerError("http://other:15672")), foreign=True)
    sentence = only(replace(strangers(), sources=(Source("broker", ok=True), foreign)))
    assert sentence.startswith("No management API of this broker (the management API at http://other:15672 is another")
    assert "set broker.management_url" in sentence
    assert "enable" not in sentence
