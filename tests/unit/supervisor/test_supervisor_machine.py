"""Whatever happens to a backend, in whatever order: one leader at most, no lost child, every caller answered."""

import asyncio
from dataclasses import replace
from tempfile import mkdtemp

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from aigw_daemon.home import Home
from aigw_daemon.supervisor.bringup import end_recorded
from aigw_daemon.supervisor.failures import Exit, FailureKind
from aigw_daemon.supervisor.group_turns import GroupTurns
from aigw_daemon.supervisor.lifecycle import Event
from aigw_daemon.supervisor.process import LaunchError
from aigw_daemon.supervisor.traffic import Traffic
from aigw_daemon.words import SERVING, State
from tests.support.fake_clock import settle
from tests.support.fake_engines import FakeWorld

LONG = 1000.0
"""Seconds after which everything that may happen by itself has happened."""


class Life(RuleBasedStateMachine):
    """One backend over fake edges."""

    home: Home

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self.begin())

    async def begin(self) -> None:
        self.world = FakeWorld(self.home, settings="group: g")
        self.backend = self.world.managed()
        self.running = self.loop.create_task(self.backend.run())
        self.callers: list[asyncio.Task[None]] = []
        await settle()

    def let(self, seconds: float = 0.0) -> None:
        self.loop.run_until_complete(self.world.clock.advance(seconds) if seconds else settle())

    @rule(
        verb=st.sampled_from(["start", "stop", "restart"]),
        at_once=st.integers(1, 4),
        patient=st.booleans(),
        now=st.booleans(),
    )
    def ask(self, verb: str, at_once: int, patient: bool, now: bool) -> None:
        how = {} if verb == "start" else {"now": now}
        for _ in range(at_once):
            self.callers.append(self.loop.create_task(getattr(self.backend, verb)(**how)))
        if patient:
            self.let()

    @rule()
    def demand(self) -> None:
        self.backend.demand()

    @rule(event=st.sampled_from([Event.IDLE, Event.EVICTED]))
    def make_way(self, event: Event) -> None:
        self.backend.leave(event, "another is wanted")

    @rule(code=st.sampled_from([0, 1, 139]))
    def crash(self, code: int) -> None:
        for leader in self.world.launcher.running():
            leader.end(Exit(code=code))

    @rule(up=st.booleans())
    def load(self, up: bool) -> None:
        self.world.prober.up = up

    @rule(sick=st.sampled_from([None, "it answers 500"]))
    def fall_sick(self, sick: str | None) -> None:
        self.world.prober.sick = sick

    @rule(in_flight=st.sampled_from([0, 2]), relayed=st.integers(0, 2), work=st.sampled_from([0.0, 30.0]))
    def carry_requests(self, in_flight: int, relayed: int, work: float) -> None:
        self.world.traffic = Traffic(in_flight, self.world.traffic.relayed + relayed)
        self.world.launcher.cpu_seconds += work

    @rule(error=st.sampled_from([None, LaunchError("no memory", transient=True), LaunchError("gone", missing=True)]))
    def refuse_starts(self, error: LaunchError | None) -> None:
        self.world.launcher.refuse = error

    @rule(seconds=st.sampled_from([0.0, 20.0]))
    def stop_slowly(self, seconds: float) -> None:
        self.world.launcher.stop_seconds = seconds

    @rule(hang=st.booleans())
    def hang_in_the_kernel(self, hang: bool) -> None:
        self.world.launcher.unkillable = hang

    @rule(size=st.integers(1, 9))
    def replace_the_model(self, size: int) -> None:
        self.world.model.write_bytes(b"G" * size)

    @rule()
    def kill_the_daemon(self) -> None:
        """What it did is cut off where it stands; the next one adopts what is wanted, and ends what is not."""
        self.running.cancel()
        self.let()
        self.world.edges = replace(self.world.edges, groups=GroupTurns())
        self.backend = self.world.managed()
        self.running = self.loop.create_task(self.backend.run())
        record = self.world.state.backend("a")
        if record.wanted and not record.stopped_by_operator:
            self.callers.append(self.loop.create_task(self.backend.start(by_operator=False)))
            self.let()
        else:
            self.end_what_is_left()

    def end_what_is_left(self) -> None:
        """As the supervisor does with what runs under a name that nobody wants."""
        ending = self.loop.create_task(end_recorded(self.world.launcher, "a", self.world.state.backend("a")))
        self.let(LONG)
        if not ending.result().unkillable:
            self.world.state.update_backend("a", identity=None, descendants=(), wanted=False)

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 60.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.let(seconds)

    @invariant()
    def one_leader_at_most(self) -> None:
        assert self.world.launcher.most_at_once <= 1

    @invariant()
    def no_bug_of_ours(self) -> None:
        assert self.backend.failure is None or self.backend.failure.kind is not FailureKind.INTERNAL

    @invariant()
    def what_serves_or_drains_has_a_process_on_record(self) -> None:
        if self.backend.state in SERVING | {State.DRAINING}:
            assert self.backend.report().pid is not None
            assert self.world.state.backend("a").identity is not None

    @invariant()
    def what_rests_holds_no_place(self) -> None:
        if self.backend.state in {State.STOPPED, State.BACKOFF}:
            assert self.world.edges.groups.is_open("b", "g")

    @invariant()
    def no_child_is_lost(self) -> None:
        recorded = self.world.state.backend("a").identity
        assert all(leader.identity == recorded for leader in self.world.launcher.running())

    @invariant()
    def stopped_means_that_nothing_runs(self) -> None:
        if self.backend.state is State.STOPPED and not self.world.launcher.unkillable:
            assert self.world.launcher.running() == []

    def teardown(self) -> None:
        self.world.launcher.unkillable = False
        if self.backend.state is State.STOPPED:
            self.end_what_is_left()
        self.callers.append(self.loop.create_task(self.backend.stop()))
        self.let(LONG)
        assert self.backend.state is State.STOPPED
        assert self.world.launcher.running() == []
        assert self.world.state.backend("a").identity is None
        assert [caller for caller in self.callers if not caller.done()] == []
        self.backend.retire()
        self.let()
        assert self.running.done()
        self.loop.run_until_complete(self.world.state.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def test_any_sequence_of_events_keeps_the_promises(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = mkdtemp(dir=tmp_path_factory.mktemp("machine"))
    Life.home = Home.from_environment({"AIGW_HOME": folder, "XDG_RUNTIME_DIR": folder})
    Life.home.prepare()
    run_state_machine_as_test(Life, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))
