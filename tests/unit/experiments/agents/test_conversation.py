"""What a run and an agent say to each other arrives once, in order, and from nobody else."""

from __future__ import annotations

import random

import pytest
from pydantic import SecretStr

from backpressure.errors import ConfigError
from backpressure.experiments.agents.conversation import (
    PIECE_BYTES,
    WINDOW_BYTES,
    Conversation,
    Liveness,
    Seal,
    seal_of,
)
from backpressure.settings import AgentSettings

TOKEN = "0123456789abcdef"


def pair(token: str = TOKEN) -> tuple[Conversation, Conversation]:
    run = Conversation(Seal.of_group(TOKEN, "pace").for_conversation("a", "n", "r", "m"), "run.r", "agent.a")
    agent = Conversation(Seal.of_group(token, "pace").for_conversation("a", "n", "r", "m"), "agent.a", "run.r")
    return run, agent


def heard(conversation: Conversation, messages: list[bytes], now: float = 0.0) -> list[str]:
    said = [conversation.hear(message, now) for message in messages]
    return [one.kind for one in said if one is not None and one.kind != "ack"]


def test_what_is_said_arrives_in_order_with_its_fields_and_bytes() -> None:
    run, agent = pair()
    run.say("start", role="consumer", id="consumer-1")
    run.say("piece", b"\0\xff")
    first, second = (agent.hear(message, 0.0) for message in run.due(0.0))
    assert first is not None
    assert (first.kind, first.fields) == ("start", {"role": "consumer", "id": "consumer-1"})
    assert second is not None
    assert second.payload == b"\0\xff"


def test_what_was_lost_with_a_connection_is_said_again_and_heard_once() -> None:
    run, agent = pair()
    for name in ("one", "two", "three"):
        run.say(name)
    sent = run.due(0.0)
    assert heard(agent, sent[:1]) == ["one"]
    run.begin_again()
    again = run.due(1.0)
    assert len(again) == 3
    assert heard(agent, again) == ["two", "three"]


def test_a_gap_is_filled_in_order() -> None:
    run, agent = pair()
    run.say("one")
    run.say("two")
    sent = run.due(0.0)
    assert heard(agent, sent[1:]) == []
    assert heard(agent, run.due(1.0)) == []
    assert heard(agent, run.due(2.5)) == ["one", "two"]


def test_nothing_is_said_again_while_acknowledgements_arrive() -> None:
    run, agent = pair()
    for _ in range(3):
        run.say("piece", bytes(PIECE_BYTES))
    sent = run.due(0.0)
    for second, message in enumerate(sent):
        agent.hear(message, second)
        heard(run, agent.due(second), second)
        assert run.due(second + 1.9) == []
    assert run.is_silent


def test_what_is_acknowledged_is_forgotten() -> None:
    run, agent = pair()
    run.say("one")
    assert not run.is_silent
    heard(agent, run.due(0.0))
    heard(run, agent.due(0.0))
    assert run.is_silent
    assert agent.due(1.0) == []  # an acknowledgement is not acknowledged


def test_little_is_under_way_at_a_time() -> None:
    run, agent = pair()
    count = 3 * WINDOW_BYTES // PIECE_BYTES
    for number in range(count):
        run.say("piece", bytes(PIECE_BYTES), number=number)
    assert not run.has_room
    assert run.due(0.0)
    assert run.due(0.1) == []
    arrived = 0
    for second in range(2, 100):
        run.begin_again()
        sent = run.due(second)
        assert sum(len(message) for message in sent) < WINDOW_BYTES + 10_000
        arrived += len(heard(agent, sent, second))
        heard(run, agent.due(second), second)
        if run.is_silent:
            break
    assert arrived == count
    assert run.has_room


def test_every_order_arrives_however_the_connection_behaves() -> None:
    chance = random.Random(4)
    for _ in range(50):
        run, agent = pair()
        wanted = [f"order {number}" for number in range(30)]
        for name in wanted:
            run.say(name, bytes(chance.randrange(PIECE_BYTES)))
        got: list[str] = []
        now = 0.0
        while not run.is_silent:
            now += 0.5
            if chance.random() < 0.2:
                run.begin_again()
                agent.begin_again()
            got += heard(agent, [message for message in run.due(now) if chance.random() < 0.7], now)
            heard(run, [message for message in agent.due(now) if chance.random() < 0.7], now)
            if got == wanted:
                heard(run, [agent.mention("ack")], now)
        assert got == wanted


def test_who_has_another_token_is_not_heard() -> None:
    run, stranger = pair("another token of 16")
    stranger.say("ready")
    with pytest.raises(ValueError, match="not from the other side"):
        run.hear(stranger.due(0.0)[0], 0.0)


def test_a_message_is_worth_nothing_at_another_address_or_changed() -> None:
    run, agent = pair()
    run.say("start")
    message = run.due(0.0)[0]
    with pytest.raises(ValueError, match="not from the other side"):
        run.hear(message, 0.0)  # sent back to where it came from
    for at in range(len(message)):
        changed = message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]
        with pytest.raises(ValueError, match="not from the other side"):
            agent.hear(changed, 0.0)
    for size in range(len(message)):
        with pytest.raises(ValueError, match="not from the other side"):
            agent.hear(message[:size], 0.0)


def test_a_recorded_message_means_nothing_later() -> None:
    run, agent = pair()
    run.say("start")
    messages = [run.mention("beat"), *run.due(0.0)]
    assert heard(agent, messages) == ["beat", "start"]
    assert heard(agent, messages) == []
    other = Conversation(Seal.of_group(TOKEN, "pace").for_conversation("a", "another", "r", "m"), "agent.a", "run.r")
    for message in messages:
        with pytest.raises(ValueError, match="not from the other side"):
            other.hear(message, 0.0)


def test_a_group_reads_nothing_of_another_group() -> None:
    message = Seal.of_group(TOKEN, "one").close("agents", {"kind": "looking"})
    assert Seal.of_group(TOKEN, "one").open("agents", message) == ({"kind": "looking"}, b"")
    assert Seal.of_group(TOKEN, "two").open("agents", message) is None


def test_neither_the_token_nor_what_could_stand_for_it_is_sent() -> None:
    run, _ = pair()
    run.say("start", id="consumer-1")
    assert TOKEN.encode() not in run.due(0.0)[0]


@pytest.mark.parametrize("token", ["", "short", "fifteen letters"])
def test_a_token_that_can_be_guessed_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ConfigError, match="at least 16 characters") as error:
        seal_of(AgentSettings(token=SecretStr(token)))
    assert f"'{token}'" not in str(error.value) or not token


def test_silence_means_loss_only_after_some_time() -> None:
    liveness = Liveness(10.0, 100.0)
    assert not liveness.is_lost(109.0, connected=True)
    assert liveness.is_lost(111.0, connected=True)
    liveness.heard(111.0)
    assert not liveness.is_lost(120.0, connected=True)


def test_without_the_broker_the_other_side_has_more_time() -> None:
    liveness = Liveness(10.0, 0.0)
    assert not liveness.is_lost(30.0, connected=False)
    assert not liveness.is_lost(35.0, connected=True)  # connected again: it may speak now
    assert liveness.is_lost(46.0, connected=True)
    assert Liveness(10.0, 0.0).is_lost(61.0, connected=False)
