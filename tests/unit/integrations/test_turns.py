"""Turns of threads and tasks: in the order in which they came, and no place is lost."""

from __future__ import annotations

import asyncio
import threading

from backpressure.integrations.limiter import Turns


def test_tasks_get_their_turn_in_the_order_in_which_they_came() -> None:
    turns, served = Turns(), []

    async def wait(number: int) -> None:
        async with turns.turn_of_task():
            served.append(number)
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*(wait(number) for number in range(5)))

    asyncio.run(all_of_them())
    assert served == [0, 1, 2, 3, 4]
    assert len(turns) == 0


def test_a_cancelled_task_leaves_its_place_to_the_next() -> None:
    turns, served = Turns(), []

    async def wait(name: str) -> None:
        async with turns.turn_of_task():
            served.append(name)

    async def story() -> None:
        async with turns.turn_of_task():
            first, second = asyncio.create_task(wait("cancelled")), asyncio.create_task(wait("patient"))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert len(turns) == 2
        await second

    asyncio.run(story())
    assert served == ["patient"]
    assert len(turns) == 0


def test_a_task_that_is_cancelled_with_its_turn_gives_it_back() -> None:
    turns = Turns()

    async def story() -> None:
        async def hold() -> None:
            async with turns.turn_of_task():
                await asyncio.Event().wait()

        holding = asyncio.create_task(hold())
        await asyncio.sleep(0)
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        async with turns.turn_of_task():
            assert len(turns) == 1

    asyncio.run(story())


def test_a_thread_waits_for_a_task_and_a_task_for_a_thread() -> None:
    turns, served = Turns(), []

    def in_a_thread() -> None:
        with turns.turn() as came:
            assert came
            served.append("thread")

    async def story() -> None:
        async with turns.turn_of_task():
            thread = threading.Thread(target=in_a_thread)
            thread.start()
            while len(turns) < 2:  # noqa: ASYNC110 - a thread tells no task
                await asyncio.sleep(0.001)
            served.append("task")
        async with turns.turn_of_task():
            served.append("task again")
        thread.join()

    asyncio.run(story())
    assert served[0] == "task"
    assert sorted(served) == ["task", "task again", "thread"]


def test_a_thread_that_is_out_of_patience_is_told_and_leaves_the_line() -> None:
    turns = Turns()
    with turns.turn(), turns.turn(timeout_s=0) as came:
        assert not came
    with turns.turn(timeout_s=0) as came:
        assert came


def test_a_loop_that_ended_with_a_task_in_line_stops_nobody() -> None:
    turns = Turns()
    loop = asyncio.new_event_loop()
    abandoned = turns.turn_of_task()

    async def stand_in_line() -> None:
        await abandoned.__aenter__()

    with turns.turn():
        waiting = loop.create_task(stand_in_line())
        loop.run_until_complete(asyncio.sleep(0))
        assert len(turns) == 2
        loop.close()
    assert len(turns) == 0
    waiting.get_coro().close()
    waiting._log_destroy_pending = False
