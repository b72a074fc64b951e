"""Whichever way a request gets into a lane or out of it, the daemon is told within a tenth of a second."""

import asyncio

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from aigw_daemon.gateway.admission import LookAgain, NotAdmitted
from aigw_daemon.gateway.breaker import Failure
from aigw_daemon.gateway.reporter import LOAD_SECONDS, Reporter
from aigw_daemon.gateway.standing import Standings
from aigw_daemon.link.messages import Load, Up
from aigw_daemon.words import State
from tests.support.gateway import backend, snapshot
from tests.support.stepped_loop import SteppedLoop

NAMES = st.sampled_from(["a", "b"])


class Traffic(RuleBasedStateMachine):
    """Requests come and go at two lanes in every way there is, while the reporter sleeps and wakes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        self.told: list[Up] = []
        self.standings = Standings(lambda: None, self.loop.time)
        self.reporter = Reporter(self.standings, self.told.append, self.loop.time)
        self.reporting = self.loop.create_task(self.reporter.run())
        self.tasks: list[asyncio.Task[None]] = []
        self.inside = {"a": 0, "b": 0}

    @initialize()
    def begin(self) -> None:
        self.apply(State.READY, 2, both=True)

    @rule(
        state=st.sampled_from([State.STOPPED, State.STARTING, State.READY, State.DRAINING]),
        limit=st.sampled_from([1, 2, 12, None]),
        both=st.booleans(),
    )
    def apply(self, state: State, limit: int | None, *, both: bool) -> None:
        """A new snapshot: a start (with its ramp), another limit, a backend that is gone."""
        views = [backend(name, 1, state=state) for name in ("a", "b")[: 2 if both else 1]]
        changed = [msgspec.structs.replace(view, max_concurrency=limit, max_queue=3) for view in views]
        self.loop.call(lambda: self.standings.update(snapshot(*changed)))

    async def visit(self, name: str, timeout: float) -> None:
        place = None
        while True:
            try:
                await self.standings.lane(name).enter(0, timeout, place)
            except LookAgain as again:
                place = again.place
            except NotAdmitted:
                return
            else:
                self.inside[name] += 1
                return

    @rule(name=NAMES, timeout=st.sampled_from([0.5, 5.0]))
    def enter(self, name: str, timeout: float) -> None:
        self.tasks.append(self.loop.create_task(self.visit(name, timeout)))

    @rule(name=NAMES)
    def enter_at_once(self, name: str) -> None:
        self.inside[name] += self.standings.lane(name).try_enter()

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        if self.inside[name]:
            self.inside[name] -= 1
            self.standings.lane(name).leave()

    @rule(which=st.integers(0, 20))
    def cancel(self, which: int) -> None:
        running = [task for task in self.tasks if not task.done()]
        if running:
            running[which % len(running)].cancel()

    @rule(name=NAMES)
    def wake_all(self, name: str) -> None:
        self.standings.lane(name).wake_all()

    @rule(name=NAMES)
    def break_circuit(self, name: str) -> None:
        breaker = self.standings.breaker(name)
        self.loop.call(lambda: breaker.failed(breaker.permit, Failure.REFUSED, self.loop.time()))

    @rule()
    def settle(self) -> None:
        self.loop.settle()

    @rule(seconds=st.sampled_from([0.02, 0.1, 1.0, 7.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @rule()
    def fall_asleep(self) -> None:
        for _ in range(30):
            self.loop.advance(LOAD_SECONDS)

    @rule()
    def the_daemon_knows_within_a_tenth_of_a_second(self) -> None:
        self.loop.settle()
        self.loop.advance(LOAD_SECONDS + 1e-9)
        loads = [message for message in self.told if isinstance(message, Load)]
        last = loads[-1] if loads else Load({})
        assert {name: count for name, count in last.in_flight.items() if count} == {
            name: count for name, count in self.inside.items() if count
        }
        waiting = {lane.backend: lane.waiting for lane in self.standings if lane.waiting}
        assert last.waiting == waiting
        assert last.broken.keys() == self.standings.broken().keys()
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.result()

    def teardown(self) -> None:
        self.loop.settle()
        self.the_daemon_knows_within_a_tenth_of_a_second()
        for task in (*self.tasks, self.reporting):
            task.cancel()
        self.loop.settle()
        self.loop.close()


def test_whatever_enters_or_leaves_a_lane_is_told_within_a_tenth_of_a_second() -> None:
    run_state_machine_as_test(Traffic, settings=settings(max_examples=150, stateful_step_count=30, deadline=None))
