"""Whatever happens at a lane, in whatever order: no slot is lost or doubled, and nobody is overtaken."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from aigw_daemon.gateway.admission import Lane, LookAgain, NotAdmitted
from tests.support.stepped_loop import ROUNDS, SteppedLoop


class Visit:
    """One request at the lane, as the test believes it to be."""

    def __init__(self, priority: int, number: int, round_: int) -> None:
        self.rank = (-priority, number)
        self.since = round_
        """The round in which it (last) joined the line."""
        self.waits = False
        self.task: asyncio.Task[None] | None = None


class Traffic(RuleBasedStateMachine):
    """Visits begin, end, are cancelled and time out, with and without the loop running in between."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        self.lane = Lane("a", limit=2, max_queue=4, clock=self.loop.time)
        self.visits: list[Visit] = []
        self.inside = 0
        self.most = 2
        self.round = 0
        self.turn = 0
        self.settled = True

    async def visit(self, visit: Visit, timeout: float) -> None:
        place = None
        while True:
            visit.waits, visit.since, asked_in = True, self.round, self.turn
            try:
                await self.lane.enter(-visit.rank[0], timeout, place)
            except LookAgain as told:
                place = told.place
                continue
            except NotAdmitted:
                visit.waits = False
                return
            visit.waits = False
            self.inside += 1
            if asked_in == self.turn:
                return  # it found a slot free; those who have got theirs may not have run yet
            overtaken = [
                other.rank
                for other in self.visits
                if other.waits and other.since < self.round and other.rank < visit.rank
            ]
            assert not overtaken, f"{visit.rank} overtook {overtaken}"
            return

    @rule(priority=st.integers(-1, 1), timeout=st.sampled_from([0.0, 1.0, 5.0]))
    def arrive(self, priority: int, timeout: float) -> None:
        visit = Visit(priority, len(self.visits), self.round)
        self.visits.append(visit)
        visit.task = self.loop.create_task(self.visit(visit, timeout))
        self.settled = False

    @rule()
    def arrive_without_waiting(self) -> None:
        somebody_waits = self.lane.waiting > 0
        if self.lane.try_enter():
            self.inside += 1
            assert not (somebody_waits and self.settled)

    @rule(count=st.integers(1, 3))
    def leave(self, count: int) -> None:
        for _ in range(min(count, self.inside)):
            self.inside -= 1
            self.lane.leave()
        self.settled = False

    @rule(which=st.integers(0, 30))
    def cancel(self, which: int) -> None:
        running = [visit for visit in self.visits if visit.task is not None and not visit.task.done()]
        if running:
            visit = running[which % len(running)]
            assert visit.task is not None
            visit.task.cancel()
            visit.waits = False
            self.settled = False

    @rule(limit=st.sampled_from([0, 1, 2, 3, 5, None]))
    def resize(self, limit: int | None) -> None:
        self.lane.limit = limit
        self.settled = False

    @rule()
    def wake_all(self) -> None:
        self.lane.wake_all()
        for visit in self.visits:
            visit.since = self.round
        self.settled = False

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.now += seconds
        self.loop.run_until_complete(self._rounds())
        self.round += 1
        self.settled = True

    async def _rounds(self) -> None:
        for _ in range(ROUNDS):
            self.turn += 1
            await asyncio.sleep(0)

    @invariant()
    def nobody_enters_above_the_limit(self) -> None:
        limit = self.lane.limit
        bound = 10_000 if limit is None else limit
        assert 0 <= self.lane.in_flight <= max(bound, self.most)
        self.most = max(bound, min(self.most, self.lane.in_flight)) if limit is not None else self.lane.in_flight

    @invariant()
    def when_all_is_quiet_the_books_agree(self) -> None:
        for visit in self.visits:
            if visit.task is not None and visit.task.done() and not visit.task.cancelled():
                visit.task.result()
        if self.settled:
            assert self.lane.in_flight == self.inside
            assert self.lane.waiting == sum(visit.waits for visit in self.visits)
            limit = self.lane.limit
            assert not self.lane.waiting or (limit is not None and self.lane.in_flight >= limit)

    def teardown(self) -> None:
        self.lane.limit = 1
        self.pass_time(0.0)
        while self.inside:
            self.leave(1)
            self.pass_time(0.0)
            self.when_all_is_quiet_the_books_agree()
        assert (self.lane.in_flight, self.lane.waiting) == (0, 0)
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()


def test_no_slot_is_lost_doubled_or_given_to_the_wrong_one() -> None:
    run_state_machine_as_test(Traffic, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))
