"""Slots and the line before them: who comes next, who is refused, and that nothing is ever lost."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable

import pytest

from aigw_daemon.gateway.admission import LONGEST_RETRY_AFTER, Lane, LookAgain, QueueFull, QueueTimeout, ramped
from tests.support.fake_clock import settle

LONG = 60.0


class Visitors:
    """Requests at one lane, and in which order they got their slots."""

    def __init__(self, tasks: asyncio.TaskGroup, lane: Lane) -> None:
        self._tasks = tasks
        self.lane = lane
        self.entered: list[str] = []
        self.refused: list[tuple[str, Exception]] = []

    async def arrives(self, name: str, priority: int = 0, timeout: float = LONG) -> asyncio.Task[None]:
        task = self._tasks.create_task(self._visit(name, priority, timeout))
        await settle()
        return task

    async def _visit(self, name: str, priority: int, timeout: float) -> None:
        try:
            await self.lane.enter(priority, timeout)
        except (QueueFull, QueueTimeout, LookAgain) as refusal:
            self.refused.append((name, refusal))
        else:
            self.entered.append(name)


@pytest.fixture
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.TaskGroup() as group:
        yield group


def test_free_slots_are_taken_without_waiting_and_no_more_than_there_are() -> None:
    lane = Lane("a", limit=2)
    assert [lane.try_enter() for _ in range(3)] == [True, True, False]
    lane.leave()
    assert lane.try_enter()
    assert lane.in_flight == 2


def test_without_a_limit_everybody_enters() -> None:
    lane = Lane("a")
    assert all(lane.try_enter() for _ in range(1000))
    assert lane.in_flight == 1000


async def test_a_freed_slot_goes_to_the_first_of_the_highest_priority(tasks: asyncio.TaskGroup) -> None:
    seen = Visitors(tasks, Lane("a", limit=1, max_queue=9))
    await seen.arrives("running")
    for name, priority in [("a", 0), ("b", 0), ("urgent", 5), ("low", -1), ("urgent too", 5)]:
        await seen.arrives(name, priority)
    assert seen.lane.waiting == 5
    for _ in range(5):
        seen.lane.leave()
        assert not seen.lane.try_enter()
        await settle()
    assert seen.entered == ["running", "urgent", "urgent too", "a", "b", "low"]
    assert (seen.lane.in_flight, seen.lane.waiting) == (1, 0)


async def test_one_slot_wakes_one_waiter(tasks: asyncio.TaskGroup) -> None:
    seen = Visitors(tasks, Lane("a", limit=1, max_queue=3))
    for name in "abcd":
        await seen.arrives(name)
    seen.lane.leave()
    await settle()
    assert (seen.entered, seen.lane.waiting) == (["a", "b"], 2)
    seen.lane.limit = None
    await settle()


async def test_a_full_line_refuses_at_once_and_says_what_is_ahead(tasks: asyncio.TaskGroup) -> None:
    seen = Visitors(tasks, Lane("a", limit=1, max_queue=1))
    for name in "abc":
        await seen.arrives(name)
    [(name, refusal)] = seen.refused
    assert name == "c"
    assert str(refusal) == "its line is full: it answers 1 (limit 1), 1 wait (at most 1); try again in 1 s"
    seen.lane.leave()
    await settle()


async def test_waiting_ends_with_its_time(tasks: asyncio.TaskGroup) -> None:
    lane = Lane("a", limit=1, max_queue=1)
    assert lane.try_enter()
    with pytest.raises(QueueTimeout, match=r"no slot came free within 0.01 s: it answers 1 \(limit 1\), 0 wait"):
        await lane.enter(0, 0.01)
    assert (lane.in_flight, lane.waiting) == (1, 0)
    lane.leave()
    assert lane.in_flight == 0


@pytest.mark.parametrize(("took", "waiting", "seconds"), [(0.2, 0, 1), (2.0, 2, 6), (3.3, 0, 4), (50.0, 9, 60)])
async def test_retry_after_follows_how_fast_slots_came_free(took: float, waiting: int, seconds: int) -> None:
    now = 1000.0
    lane = Lane("a", limit=1, max_queue=waiting, clock=lambda: now)
    for _ in range(10):
        assert lane.try_enter()
        now += took
        lane.leave()
        now += 500  # idle time says nothing about how long a slot takes
    assert lane.try_enter()
    async with asyncio.TaskGroup() as group:
        waiters = [group.create_task(lane.enter(0, LONG)) for _ in range(waiting)]
        await settle()
        with pytest.raises(QueueFull) as caught:
            await lane.enter(0, LONG)
        for waiter in waiters:
            waiter.cancel()
    assert caught.value.retry_after == seconds <= LONGEST_RETRY_AFTER


async def test_retry_after_grows_while_no_slot_comes_free() -> None:
    now = 1000.0
    lane = Lane("a", limit=1, clock=lambda: now)
    assert lane.try_enter()
    now += 12.5
    lane.limit = 1  # another snapshot that says the same
    with pytest.raises(QueueFull) as caught:
        await lane.enter(0, LONG)
    assert caught.value.retry_after == 13


async def test_a_grown_limit_lets_waiters_in_and_a_shrunk_one_waits_for_those_inside(tasks: asyncio.TaskGroup) -> None:
    seen = Visitors(tasks, Lane("a", limit=1, max_queue=9))
    for name in "abcd":
        await seen.arrives(name)
    seen.lane.limit = 3
    await settle()
    assert (seen.entered, seen.lane.in_flight) == (["a", "b", "c"], 3)
    seen.lane.limit = 1
    seen.lane.leave()
    seen.lane.leave()
    await settle()
    assert (seen.entered, seen.lane.in_flight) == (["a", "b", "c"], 1)
    seen.lane.leave()
    await settle()
    assert (seen.entered[-1], seen.lane.in_flight) == ("d", 1)


async def test_those_who_look_again_keep_their_place(tasks: asyncio.TaskGroup) -> None:
    lane = Lane("a", limit=1, max_queue=2)
    assert lane.try_enter()
    seen = Visitors(tasks, lane)
    await seen.arrives("first")
    await seen.arrives("second")
    lane.wake_all()
    await seen.arrives("newcomer")
    assert [name for name, _ in seen.refused] == ["first", "second"]
    order: list[str] = []

    async def come_back(name: str, place: int) -> None:
        await lane.enter(0, LONG, place)
        order.append(name)

    for name, refusal in reversed(seen.refused):
        assert isinstance(refusal, LookAgain)
        tasks.create_task(come_back(name, refusal.place))
    await settle()
    assert lane.waiting == 3
    for _ in range(3):
        assert (seen.entered, lane.in_flight) == ([], 1)
        lane.leave()
        await settle()
    assert (order, seen.entered) == (["first", "second"], ["newcomer"])


async def test_who_lost_a_slot_with_the_process_comes_first_even_into_a_full_line(tasks: asyncio.TaskGroup) -> None:
    lane, order = Lane("a", limit=1, max_queue=1), list[str]()
    assert lane.try_enter()

    async def visit(name: str, place: int | None) -> None:
        await lane.enter(0, LONG, place)
        order.append(name)

    tasks.create_task(visit("newcomer", None))
    await asyncio.sleep(0)
    for name in ("first survivor", "second survivor"):
        tasks.create_task(visit(name, lane.front_place()))
    await asyncio.sleep(0)
    assert lane.waiting == 3
    for _ in range(3):
        lane.leave()
        await asyncio.sleep(0)
    assert order == ["first survivor", "second survivor", "newcomer"]


async def test_no_interleaving_of_leaving_cancelling_and_resizing_loses_a_slot() -> None:
    """Every order of what may happen to two waiters, each with the loop running in between or not."""
    for order in itertools.permutations(range(5)):
        for pauses in itertools.product([False, True], repeat=4):
            await _plays(order, (*pauses, True))


async def _plays(order: tuple[int, ...], pauses: tuple[bool, ...]) -> None:
    lane = Lane("a", limit=1, max_queue=3)
    assert lane.try_enter()
    holders = 1

    async def visit() -> None:
        nonlocal holders
        await lane.enter(0, LONG)
        holders += 1

    def leave() -> None:
        nonlocal holders
        lane.leave()
        holders -= 1

    loop = asyncio.get_running_loop()
    first, second, third = (loop.create_task(visit()) for _ in range(3))
    await asyncio.sleep(0)
    happens: list[Callable[[], object]] = [
        leave,
        first.cancel,
        second.cancel,
        lambda: setattr(lane, "limit", 2),
        lambda: setattr(lane, "limit", 1),
    ]
    for index, pause in zip(order, pauses, strict=True):
        happens[index]()
        if pause:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    assert lane.in_flight == holders, (order, pauses)
    # The third was never cancelled, and one slot came free: it has it, or waits for one that is taken.
    assert third.done() or lane.in_flight >= 1
    while lane.in_flight:
        leave()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert (third.done(), lane.waiting, holders) == (True, 0, 0), (order, pauses)
    await asyncio.gather(first, second, third, return_exceptions=True)


async def test_ten_thousand_cancels_at_random_moments_leave_nothing_behind() -> None:
    lane = Lane("a", limit=3, max_queue=10_000)
    chance = random.Random(7)
    most_inside = 0

    async def visit(steps: int) -> None:
        nonlocal most_inside
        await lane.enter(steps % 3, LONG)
        most_inside = max(most_inside, lane.in_flight)
        try:
            for _ in range(steps):
                await asyncio.sleep(0)
        finally:
            lane.leave()

    loop = asyncio.get_running_loop()
    visits = [loop.create_task(visit(chance.randrange(4))) for _ in range(10_000)]
    for cancelled in chance.sample(visits, len(visits)):
        if chance.random() < 0.2:
            await asyncio.sleep(0)
        cancelled.cancel()
    await asyncio.gather(*visits, return_exceptions=True)
    assert (lane.in_flight, lane.waiting, most_inside) == (0, 0, 3)


@pytest.mark.parametrize(
    ("limit", "ready_for", "ramp"),
    [
        (None, 0, None),
        (8, 0, 8),
        (12, 0, 8),
        (256, -1, 64),
        (256, 0, 64),
        (256, 5, 160),
        (256, 9.99, 255),
        (256, 10, 256),
    ],
)
def test_only_a_large_limit_grows_after_a_start(limit: int | None, ready_for: float, ramp: int | None) -> None:
    assert ramped(limit, ready_for) == ramp
