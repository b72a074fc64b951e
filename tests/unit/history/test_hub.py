"""Watchers of requests: told all from when they came, never slowing anybody, and heard about when they come and go."""

import asyncio
from contextlib import aclosing

from aigw_daemon.history.hub import KEPT_PER_WATCHER, RecordHub
from aigw_daemon.link.messages import Started


def started(number: int) -> Started:
    return Started(id=str(number), at=0.0, model="m", backend=None, endpoint="/v1/chat/completions")


async def test_a_watcher_gets_events_and_the_worker_is_told_only_at_the_edges() -> None:
    told: list[bool] = []
    hub = RecordHub(told.append)
    async with aclosing(hub.watch()) as first, aclosing(hub.watch()) as second:
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(anext(first)), tasks.create_task(anext(second))]
            await asyncio.sleep(0)  # both run up to their wait
            hub.publish(started(1))
        assert [task.result() for task in waiting] == [started(1), started(1)]
        assert told == [True]
    assert told == [True, False]
    assert not hub.watched


async def test_a_slow_watcher_loses_the_oldest() -> None:
    hub = RecordHub(lambda _: None)
    async with aclosing(hub.watch()) as events:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(anext(events))
            await asyncio.sleep(0)  # it runs up to its wait
            hub.publish(started(0))
        assert first.result() == started(0)
        for number in range(KEPT_PER_WATCHER + 5):
            hub.publish(started(number))
        assert (await anext(events)).id == "5"
