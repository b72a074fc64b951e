"""How backends stand with a worker: lanes and circuits across snapshots, and timers that keep their word."""

import asyncio

import msgspec
import pytest

from aigw_daemon.gateway.admission import RAMP_ABOVE, RAMP_SECONDS
from aigw_daemon.gateway.breaker import FAILURES_TO_OPEN, Circuit, Failure
from aigw_daemon.gateway.decision import CALM
from aigw_daemon.gateway.standing import Standings
from aigw_daemon.link.messages import BackendView
from aigw_daemon.words import State
from tests.support.gateway import backend, snapshot
from tests.support.wait import eventually


class Changes:
    """How often what was decided before went out of date."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        """Once more."""
        self.count += 1


class Clock:
    """Time by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def standings(changes: Changes, clock: Clock) -> Standings:
    return Standings(changes, clock)


def bounded(state: State = State.READY, places: int = 2, queue: int = 5) -> BackendView:
    """A backend with so many places."""
    return msgspec.structs.replace(backend("one", 1, state=state), max_concurrency=places, max_queue=queue)


def opened(standings: Standings, clock: Clock) -> None:
    """Fail until the circuit opens."""
    circuit = standings.breaker("one")
    for _ in range(FAILURES_TO_OPEN):
        circuit.failed(circuit.permit, Failure.SERVER_ERROR, clock.now)
    assert circuit.state is Circuit.OPEN


async def test_a_snapshot_sets_the_limits_of_lanes(standings: Standings) -> None:
    standings.update(snapshot(bounded()))
    assert (standings.lane("one").limit, standings.lane("one").max_queue) == (2, 5)
    standings.update(snapshot(bounded(places=3)))
    assert standings.lane("one").limit == 3


async def test_a_circuit_that_opens_makes_old_decisions_stale_and_conditions_tell(
    standings: Standings, changes: Changes, clock: Clock
) -> None:
    standings.update(snapshot(bounded()))
    assert standings.conditions() is CALM
    opened(standings, clock)
    assert changes.count == 1
    assert "circuit open" in standings.conditions().broken["one"]


async def test_circuits_outlive_a_snapshot_but_not_a_start(standings: Standings, clock: Clock) -> None:
    standings.update(snapshot(bounded()))
    opened(standings, clock)
    for state in (State.DEGRADED, State.READY, State.DRAINING, State.READY):
        standings.update(snapshot(bounded(state)))
        assert standings.breaker("one").state is Circuit.OPEN
    standings.update(snapshot(bounded(State.STARTING)))
    standings.update(snapshot(bounded()))
    assert standings.breaker("one").closed


async def test_another_process_has_a_circuit_of_its_own_though_no_snapshot_came_in_between(
    standings: Standings, clock: Clock
) -> None:
    for pid, closed in ((1, False), (1, False), (2, True)):
        standings.update(snapshot(msgspec.structs.replace(bounded(), pid=pid)))
        if pid == 1 and standings.breaker("one").closed:
            opened(standings, clock)
        assert standings.breaker("one").closed is closed


async def test_an_attached_url_that_is_reached_again_keeps_its_circuit(standings: Standings, clock: Clock) -> None:
    standings.update(snapshot(bounded()))
    opened(standings, clock)
    standings.update(snapshot(bounded(State.UNREACHABLE)))
    standings.update(snapshot(bounded()))
    assert standings.breaker("one").state is Circuit.OPEN


async def test_a_backend_that_is_gone_is_forgotten_once_nobody_is_in_it(standings: Standings) -> None:
    standings.update(snapshot(bounded()))
    assert standings.lane("one").try_enter()
    standings.update(snapshot())
    assert standings.counts() == {"one": 1}
    standings.lane("one").leave()
    standings.update(snapshot())
    assert standings.counts() == {}


async def test_a_start_is_ramped_and_its_line_is_longer_by_what_is_held_back(
    standings: Standings, clock: Clock
) -> None:
    standings.update(snapshot(bounded(State.STARTING, places=40)))
    standings.update(snapshot(bounded(places=40)))
    lane = standings.lane("one")
    assert lane.limit is not None
    assert RAMP_ABOVE <= lane.limit < 40
    assert lane.limit + lane.max_queue == 40 + 5
    clock.now += RAMP_SECONDS
    standings.update(snapshot(bounded(places=40)))
    assert (lane.limit, lane.max_queue) == (40, 5)


async def test_a_timer_that_rings_before_its_time_is_set_again(
    standings: Standings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, rings = asyncio.get_running_loop(), 0
    exact = loop.call_later

    def at_once(_delay: float, *arguments: object) -> asyncio.TimerHandle:
        nonlocal rings
        rings += 1
        return exact(0.001, *arguments)  # type: ignore[arg-type]  # the callback and what it takes

    monkeypatch.setattr(loop, "call_later", at_once)
    standings.update(snapshot(bounded()))
    opened(standings, clock)
    await eventually(lambda: rings > 3, what="several rings before the time")
    assert standings.breaker("one").state is Circuit.OPEN
    clock.now += 1_000.0
    await eventually(lambda: standings.breaker("one").state is Circuit.HALF_OPEN, what="its time to be over")
    assert standings.conditions() is CALM


async def test_no_limit_means_any_number(standings: Standings) -> None:
    standings.update(snapshot(backend("one", 1)))
    assert all(standings.lane("one").try_enter() for _ in range(1_000))
    assert standings.in_flight == 1_000
    assert standings.lane("one").limit is None


@pytest.mark.parametrize(
    ("changes", "forgotten"),
    [
        ({}, False),
        ({"max_queue": 7}, False),
        ({"revision": "another"}, True),
        ({"port": 2}, True),
        ({"state": State.UNREACHABLE}, True),
        ({"state": State.STOPPED}, True),
    ],
)
async def test_a_refusal_to_count_usage_is_remembered_of_what_answers_now(
    standings: Standings, changes: dict[str, object], forgotten: bool
) -> None:
    standings.update(snapshot(bounded()))
    usage = standings.usage("one")
    usage.refused = True
    changed = msgspec.structs.replace(bounded(), **changes)
    for view in (changed, msgspec.structs.replace(changed, state=State.READY)):
        standings.update(snapshot(view))
    assert (standings.usage("one") is usage, usage.refused) == (True, not forgotten)
