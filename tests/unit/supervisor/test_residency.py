"""Who may stay and who has to leave: the pure decisions, and whole backends that carry them out."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor.coordinator import Coordinator
from aigw_daemon.supervisor.engines.base import LoadedModel
from aigw_daemon.supervisor.failures import Exit
from aigw_daemon.supervisor.gpu_turns import GpuTurns
from aigw_daemon.supervisor.group_turns import GroupTurns
from aigw_daemon.supervisor.lifecycle import Event
from aigw_daemon.supervisor.managed import ManagedBackend
from aigw_daemon.supervisor.residency import (
    LONGEST_RESIDENCY,
    QUIET,
    SHORTEST_RESIDENCY,
    Applicant,
    Tenant,
    admitted,
    departures,
    residency,
    span,
)
from aigw_daemon.supervisor.supervisor import OneAtATime
from aigw_daemon.supervisor.traffic import Traffic
from aigw_daemon.words import State
from tests.support.fake_clock import settle
from tests.support.fake_engines import FakeWorld
from tests.support.recorded_gpus import RecordedGpus, gpu
from tests.support.stub_engine import install
from tests.support.supervision import fresh_home, profile, supervised

BUSY = Tenant("a", ready_for=3.0, start_took=1.0, in_flight=1, quiet_for=0.0, group="g")
IDLE = replace(BUSY, in_flight=0, quiet_for=QUIET)


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


# --- decisions


def test_backend_in_use_keeps_its_place_for_its_residency_and_no_longer() -> None:
    assert departures([BUSY], {"a": "b"}) == []
    (departure,) = departures([replace(BUSY, ready_for=SHORTEST_RESIDENCY)], {"a": "b"})
    assert (departure.name, departure.event) == ("a", Event.EVICTED)
    assert departure.why == "evicted for b, of the same group g; a request starts it again"


def test_backend_that_nobody_uses_makes_way_at_once_but_not_before_those_who_waited_could_arrive() -> None:
    assert [departure.name for departure in departures([IDLE], {"a": "b"})] == ["a"]
    assert departures([replace(IDLE, quiet_for=QUIET - 0.1)], {"a": "b"}) == []


def test_place_that_nobody_waits_for_is_kept() -> None:
    assert departures([replace(IDLE, ready_for=1e6, quiet_for=1e6)], {"c": "b"}) == []


def test_residency_is_as_long_as_the_start_was_within_bounds() -> None:
    assert [residency(took) for took in (0.1, 60.0, 900.0)] == [SHORTEST_RESIDENCY, 60.0, LONGEST_RESIDENCY]


def test_idle_backend_is_stopped_when_its_time_is_up() -> None:
    alone = replace(IDLE, idle_stop=1800.0)
    assert departures([replace(alone, quiet_for=1799.0)], {}) == []
    (departure,) = departures([replace(alone, quiet_for=1800.0)], {})
    assert departure.event is Event.IDLE
    assert departure.why == "stopped after 30 min without a request; a request starts it"
    assert departures([replace(alone, quiet_for=1800.0, in_flight=1)], {}) == []


def test_shortest_idle_stop_still_leaves_time_for_the_request_that_started_it() -> None:
    assert departures([replace(IDLE, idle_stop=0.0, quiet_for=1.0)], {}) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(1800.0, "30 min"), (7200.0, "2 h"), (90.0, "90 s"), (2.5, "2.5 s"), (0.0, "0 s")]
)
def test_setting_reads_as_people_say_it(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_start_that_nobody_asked_for_lets_in_one_of_a_group_and_sooner_the_one_that_runs() -> None:
    first, second, free = Applicant("a", "g", False), Applicant("b", "g", True), Applicant("c", None, False)
    assert admitted([first, second, free], set()) == {"b", "c"}
    assert admitted([first, replace(second, runs=False)], set()) == {"a"}
    assert admitted([first, free], {"g"}) == {"c"}


# --- turns


async def test_turns_in_a_group_go_first_come_first_served() -> None:
    turns = GroupTurns()
    heard: list[str] = []
    await turns.take("a", "g", heard.append)
    await turns.take("other", "h", heard.append)
    await turns.take("none", None, heard.append)
    assert heard == []
    async with asyncio.TaskGroup() as tasks:
        second = tasks.create_task(turns.take("b", "g", heard.append))
        await settle()
        third = tasks.create_task(turns.take("c", "g", heard.append))
        await settle()
        assert turns.awaited == {"a": "b"}
        assert heard[0] == "waiting for a to make way: one of the group g runs at a time"
        turns.release("a")
        await settle()
        assert (second.done(), third.done(), turns.awaited) == (True, False, {"b": "c"})
        turns.release("b")
    assert turns.occupied == {"g", "h"}


async def test_cancelled_wait_leaves_the_queue() -> None:
    turns = GroupTurns()
    await turns.take("a", "g", lambda _: None)
    async with asyncio.TaskGroup() as tasks:
        second = tasks.create_task(turns.take("b", "g", lambda _: None))
        third = tasks.create_task(turns.take("c", "g", lambda _: None))
        await settle()
        second.cancel()
        await settle()
        assert turns.awaited == {"a": "c"}
        turns.release("a")
    assert third.done()
    assert not turns.is_open("b", "g")
    assert turns.is_open("c", "g")


# --- whole backends


class Rivals:
    """Backends a and b of one group, and who decides between them."""

    def __init__(self, home: Home, **settings: object) -> None:
        self.world = FakeWorld(home)
        self.told: list[tuple[str, str, str | None]] = []
        self.gpus = RecordedGpus([gpu(0)])
        self.world.edges = replace(
            self.world.edges,
            tell=lambda *told: self.told.append(told),
            gpus=GpuTurns(self.gpus, self.world.clock),
        )
        self.a = self.world.managed("a", group="g", **settings)
        self.b = self.world.managed("b", group="g", **settings)
        self.coordinator = Coordinator(self.world.edges, lambda: [self.a, self.b])

    def use(self, **in_flight: int) -> None:
        for name, count in in_flight.items():
            relayed = self.world.watch(name).relayed + 1
            self.world.traffics[name] = Traffic(in_flight=count, relayed=relayed)

    async def reaches(self, backend: ManagedBackend, state: State, within: float) -> float:
        """Let time pass until the backend is there; returns the seconds."""
        began = self.world.clock.now
        while backend.state is not state:
            assert self.world.clock.now - began < within, f"{backend!r} after {within} s"
            await self.world.clock.advance(0.1)
        return self.world.clock.now - began


@asynccontextmanager
async def rivals(home: Home, **settings: object) -> AsyncIterator[Rivals]:
    made = Rivals(home, **settings)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(part.run()) for part in (made.a, made.b, made.coordinator)]
        made.a.demand()
        await settle()
        assert made.a.state is State.READY
        yield made
        assert made.world.launcher.most_at_once == 1
        for task in running:
            task.cancel()
    await made.world.state.close()


async def test_demand_for_another_member_drains_the_resident_and_starts_when_it_is_gone(home: Home) -> None:
    async with rivals(home, drain=60.0) as pair:
        pair.use(a=1)
        pair.b.demand()
        assert await pair.reaches(pair.a, State.DRAINING, 20) == pytest.approx(SHORTEST_RESIDENCY, abs=0.7)
        assert pair.b.report().progress == "waiting for a to make way: one of the group g runs at a time"
        await pair.world.clock.advance(30)
        assert (pair.a.state, pair.b.state) == (State.DRAINING, State.STARTING)
        pair.use(a=0)
        await pair.reaches(pair.b, State.READY, 2)
        assert (pair.a.state, pair.a.why) == (
            State.STOPPED,
            "evicted for b, of the same group g; a request starts it again",
        )
    words = [word for name, word, _ in pair.told if name == "a"]
    assert words == ["start", "ready", "evicted", "stop"]


async def test_next_one_starts_only_when_the_memory_on_the_gpu_is_back(home: Home) -> None:
    async with rivals(home) as pair:
        pid = pair.a.report().pid
        assert pid is not None
        pair.gpus.change(0, pids=frozenset({pid}))
        pair.b.demand()
        await pair.reaches(pair.a, State.STOPPING, 20)
        await pair.world.clock.advance(10)
        assert pair.world.launcher.running() == []
        assert (pair.a.state, pair.b.state) == (State.STOPPING, State.STARTING)
        pair.gpus.change(0, pids=frozenset())
        await pair.reaches(pair.b, State.READY, 2)


async def test_resident_that_nobody_uses_makes_way_within_seconds(home: Home) -> None:
    async with rivals(home) as pair:
        pair.b.demand()
        assert await pair.reaches(pair.b, State.READY, 20) < QUIET + 2


async def test_two_models_asked_for_in_turn_each_get_their_time_and_neither_starves(home: Home) -> None:
    async with rivals(home, drain=0.0) as pair:
        stays = []
        for _ in range(3):
            for resident, other in ((pair.a, pair.b), (pair.b, pair.a)):
                pair.use(**{resident.name: 1})
                other.demand()
                stays.append(await pair.reaches(other, State.READY, 30))
                pair.use(**{resident.name: 0})
    assert min(stays) == pytest.approx(SHORTEST_RESIDENCY, abs=0.1)
    assert max(stays) < SHORTEST_RESIDENCY + 2


async def test_request_for_the_one_that_makes_way_brings_it_back_in_its_turn(home: Home) -> None:
    async with rivals(home) as pair:
        pair.use(a=1)
        pair.b.demand()
        await pair.reaches(pair.a, State.DRAINING, 20)
        pair.a.demand()
        pair.use(a=0)
        await pair.reaches(pair.b, State.READY, 3)
        assert pair.a.state is State.STARTING
        await pair.reaches(pair.a, State.READY, 20)
        assert pair.b.state is State.STOPPED


async def test_operators_start_evicts_and_the_operators_stop_of_the_one_that_waits_ends_its_wait(home: Home) -> None:
    async with rivals(home) as pair:
        pair.use(a=1)
        await pair.b.start()
        await pair.world.clock.advance(1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pair.b.stop(hold=True))
            await pair.reaches(pair.b, State.STOPPED, 1)
        await pair.world.clock.advance(60)
        assert pair.a.state is State.READY
        pair.b.demand()
        await pair.world.clock.advance(60)
        assert (pair.a.state, pair.b.state) == (State.READY, State.STOPPED)


async def test_crash_of_the_resident_lets_the_next_one_in_and_its_own_retry_puts_nobody_out(home: Home) -> None:
    async with rivals(home) as pair:
        pair.use(a=1)
        pair.b.demand()
        await settle()
        pair.world.launcher.running()[0].end(Exit(code=1))
        await pair.reaches(pair.b, State.READY, 1)
        pair.use(b=1)
        await pair.world.clock.advance(60)
        assert (pair.a.state, pair.b.state) == (State.STOPPED, State.READY)
        assert pair.a.why == "it failed, and its group g is taken now; a request starts it"
        pair.a.demand()
        await pair.reaches(pair.a, State.READY, 60)


async def test_place_of_what_can_not_be_killed_is_not_given_away(home: Home) -> None:
    async with rivals(home) as pair:
        pair.world.launcher.unkillable = True
        pair.b.demand()
        await pair.world.clock.advance(60)
        assert (pair.a.state, pair.b.state) == (State.FAILED, State.STARTING)
        pair.world.launcher.unkillable = False
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pair.a.stop())
            await pair.reaches(pair.b, State.READY, 5)


async def test_idle_backend_stops_by_itself_and_a_request_starts_it_again(home: Home) -> None:
    async with rivals(home, idle_stop=60.0) as pair:
        pair.use(a=1)
        await pair.world.clock.advance(100)
        assert pair.a.state is State.READY
        pair.use(a=0)
        assert await pair.reaches(pair.a, State.STOPPED, 100) == pytest.approx(60, abs=2)
        report = pair.a.report()
        assert report.why == "stopped after 1 min without a request; a request starts it"
        assert [model.id for model in report.models] == ["m"]
        assert not pair.world.state.backend("a").stopped_by_operator
        pair.a.demand()
        await pair.reaches(pair.a, State.READY, 1)
    assert ("a", "idle stop", report.why) in pair.told


async def test_request_that_comes_and_goes_between_two_looks_counts(home: Home) -> None:
    async with rivals(home, idle_stop=60.0) as pair:
        await pair.world.clock.advance(59)
        pair.use(a=0)
        await pair.world.clock.advance(59)
        assert pair.a.state is State.READY
        await pair.reaches(pair.a, State.STOPPED, 5)


async def test_pull_through_a_backend_keeps_it(home: Home) -> None:
    async with rivals(home, idle_stop=60.0) as pair:
        with pair.coordinator.using("a"):
            await pair.world.clock.advance(300)
            assert pair.a.state is State.READY
        await pair.reaches(pair.a, State.STOPPED, 70)


async def test_bug_in_a_look_is_logged_and_the_next_look_comes(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with rivals(home, idle_stop=60.0) as pair:
        with monkeypatch.context() as broken:
            broken.setattr(pair.world.edges.groups, "_holders", None)
            await pair.world.clock.advance(1)
        assert "cannot decide who is to leave" in caplog.text
        await pair.reaches(pair.a, State.STOPPED, 70)


async def test_requests_of_a_gateway_that_is_gone_do_not_keep_it(home: Home) -> None:
    async with rivals(home, idle_stop=60.0) as pair:
        pair.use(a=1)
        await pair.world.clock.advance(10)
        pair.world.gateway_speaks = False
        await pair.world.clock.advance(65)
        assert pair.a.state is State.DRAINING


async def test_models_in_memory_are_given_up_before_the_engine_ends(home: Home) -> None:
    async with rivals(home) as pair:
        pair.world.prober.in_memory = (LoadedModel("m", 1, 1, None),)
        pair.b.demand()
        await pair.reaches(pair.b, State.READY, 20)
        assert not pair.world.prober.in_memory


# --- across daemons


async def test_next_daemon_adopts_the_resident_and_puts_it_out_for_nobody(home: Home) -> None:
    model = home.models / "model.gguf"
    model.write_bytes(b"GGUF")
    engine = f"engine: llamacpp, binary: {install(home.state / 'bin')}, model: {model}, group: g"
    text = profile(f"backends: {{a: {{{engine}, served_name: a}}, b: {{{engine}, served_name: b, start: on_demand}}}}")
    async with supervised(home, stop=False) as first:
        await first.supervisor.apply(text)
        await first.reaches("a", State.READY)
        first.supervisor.demand("b")
        pid = (await first.reaches("b", State.READY)).pid
        await first.reaches("a", State.STOPPED)
    async with supervised(home) as second:
        await second.supervisor.apply(text)
        assert (await second.reaches("b", State.READY)).pid == pid
        await second.supervisor.apply(text)
        await second.supervisor.start(["a"], evict=False)
        await second.supervisor.start()
        assert second.report("a").state is State.STOPPED
        with pytest.raises(OneAtATime, match="a and b are of the group g, of which one runs at a time"):
            await second.supervisor.restart(["a", "b"])
        await second.supervisor.start(["a"])
        await second.reaches("a", State.READY)
        await second.reaches("b", State.STOPPED)
