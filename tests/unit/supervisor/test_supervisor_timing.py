"""One backend on a clock of its own: what happens when, and what a request in between does."""

import asyncio
from collections.abc import Iterator

import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor.attached import AttachedBackend
from aigw_daemon.supervisor.failures import Exit, FailureKind
from aigw_daemon.supervisor.launcher import LaunchError
from aigw_daemon.supervisor.traffic import Traffic
from aigw_daemon.words import State
from tests.support.fake_clock import settle
from tests.support.fake_engines import FakeWorld, running
from tests.support.supervision import fresh_home
from tests.support.wait import eventually


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@pytest.fixture
def world(home: Home) -> FakeWorld:
    return FakeWorld(home)


async def test_start_that_takes_too_long_is_ended_and_told(world: FakeWorld) -> None:
    world.prober.up = False
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await world.clock.advance(599)
        assert backend.report().state is State.STARTING
        while backend.state is State.STARTING:
            await world.clock.advance(0.1)
        assert backend.report().state is State.BACKOFF
        assert world.clock.now < 1000 + 602
        assert world.launcher.running() == []
        assert backend.failure is not None
        assert backend.failure.kind is FailureKind.START_TIMEOUT
        assert backend.failure.sentence == "it was not ready within 600 s: it is loading its model"


async def test_start_that_does_nothing_for_five_minutes_has_stalled(home: Home) -> None:
    world = FakeWorld(home, backend="{engine: command, command: [sh, -c, sleep 1d]}")
    world.prober.up = False
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await world.clock.advance(298)
        assert backend.report().state is State.STARTING
        while backend.state is State.STARTING:
            await world.clock.advance(0.1)
        assert world.clock.now < 1000 + 303
        assert backend.failure is not None
        assert backend.failure.kind is FailureKind.START_TIMEOUT
        assert backend.failure.sentence.startswith("it stalled: for 300 s it neither wrote to its log nor used the CPU")


async def test_profile_may_say_how_long_a_start_takes(home: Home) -> None:
    world = FakeWorld(home, backend="{engine: command, command: [sh, -c, sleep 1d], start_timeout: 20s}")
    world.prober.up = False
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        while backend.state is State.STARTING:
            await world.clock.advance(0.1)
        assert world.clock.now < 1000 + 22
        assert backend.failure is not None
        assert backend.failure.sentence == "it was not ready within 20 s: it is loading its model"


async def test_engine_that_answers_no_more_is_degraded_then_replaced(world: FakeWorld) -> None:
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        assert backend.report().state is State.READY
        world.prober.sick = "it does not answer within 5 s"
        await world.clock.advance(13)
        assert backend.report().state is State.DEGRADED
        assert backend.why == "it does not answer within 5 s (1 failed liveness probes)"
        first = world.launcher.running()
        await world.clock.advance(20)
        world.prober.sick = None
        await world.clock.advance(2)
        assert backend.report().state is State.READY
        assert [leader.running for leader in first] == [False]
        assert len(world.launcher.running()) == 1
        assert backend.report().restarts == 1


async def test_engine_that_recovers_is_ready_again_with_its_uptime(world: FakeWorld) -> None:
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        world.prober.sick = "it answers 500"
        await world.clock.advance(13)
        world.prober.sick = None
        await world.clock.advance(13)
        assert backend.report().state is State.READY
        assert backend.report().uptime_s == pytest.approx(26)


async def test_busy_engine_is_not_replaced(world: FakeWorld) -> None:
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        world.prober.sick = "it does not answer within 5 s"
        for _ in range(10):
            world.traffic = Traffic(relayed=world.traffic.relayed + 1)
            await world.clock.advance(10)
        assert backend.report().state is State.DEGRADED
        assert len(world.launcher.leaders) == 1


async def test_delays_between_restarts_grow_and_shrink_again(world: FakeWorld) -> None:
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        for wait in (0.5, 1.0, 2.0):
            world.launcher.running()[0].end(Exit(code=1))
            await settle()
            assert backend.report().state is State.BACKOFF
            await world.clock.advance(wait - 0.1)
            assert backend.report().state is State.BACKOFF
            await world.clock.advance(0.2)
            assert backend.report().state is State.READY
        await world.clock.advance(61)
        world.launcher.running()[0].end(Exit(code=1))
        await settle()
        assert backend.why == "the engine exited with code 1; trying again in 0.5 s"


async def test_start_that_failed_says_which_try_comes_next(home: Home) -> None:
    world = FakeWorld(home, top="restart: {failed_starts: 3}")
    world.prober.up = False
    world.launcher.log = ["0.1 E x: failed to allocate CPU buffer of size 10"]
    backend = world.managed()
    cause = "the model and its context don't fit into memory, 0.0 GiB at once were refused"
    async with running(world, backend):
        await backend.start()
        await settle()
        assert backend.report().why is None
        for count, wait in ((2, 0.6), (3, 1.2)):
            world.launcher.running()[0].end(Exit(code=1))
            await eventually(lambda: backend.state is State.BACKOFF)
            assert (backend.why or "").startswith(cause)
            assert (backend.why or "").endswith(f"(try {count} of 3)")
            assert backend.report().telling == world.launcher.log[0]
            await world.clock.advance(wait)
            assert backend.state is State.STARTING
            assert (backend.report().why or "").startswith(f"try {count} of 3: {cause}")
        world.launcher.running()[0].end(Exit(code=1))
        await eventually(lambda: backend.state is State.FAILED)
        assert "3 failed starts in a row" in (backend.why or "")


@pytest.mark.parametrize("up", [True, False])
async def test_stop_that_takes_long_says_what_it_waits_for(world: FakeWorld, up: bool) -> None:
    world.prober.up, world.launcher.stop_seconds = up, 10
    backend = world.managed()
    async with running(world, backend), asyncio.TaskGroup() as tasks:
        await backend.start()
        await settle()
        pid = world.launcher.running()[0].identity.pid
        stopping = tasks.create_task(backend.stop(hold=True))
        await world.clock.advance(0.5)
        assert (backend.state, backend.why) == (State.STOPPING, None)
        await world.clock.advance(3)
        assert backend.why == f"waiting for its process {pid} to end on SIGTERM; after 15 s it is killed"
        await world.clock.advance(8)
        await stopping
        # One that was never ready has nothing to finish.
        assert backend.report().state is State.STOPPED
        assert (backend.report().why, world.launcher.insisted) == (None, not up)


async def test_start_that_would_fail_again_is_failed_at_once(world: FakeWorld) -> None:
    world.prober.up = False
    world.launcher.log = ["0.1 E x: unknown model architecture: 'frobx'", "0.2 E y: failed to load model, 'm.gguf'"]
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        world.launcher.running()[0].end(Exit(code=1))
        await eventually(lambda: backend.state is State.FAILED)
        report = backend.report()
        assert (report.failure, report.restarts) == (FailureKind.MODEL_UNREADABLE, 0)
        assert report.telling == world.launcher.log[0]


async def test_crash_loop_is_tried_again_every_five_minutes(world: FakeWorld) -> None:
    backend = world.managed()
    world.launcher.refuse = LaunchError("cannot run it: not enough memory", transient=True)
    async with running(world, backend):
        await backend.start()
        await world.clock.advance(10)
        assert backend.report().state is State.FAILED
        await world.clock.advance(280)
        assert backend.report().state is State.FAILED
        world.launcher.refuse = None
        await world.clock.advance(20)
        assert backend.report().state is State.READY


async def test_system_without_resources_is_waited_for(world: FakeWorld) -> None:
    backend = world.managed()
    world.launcher.refuse = LaunchError("cannot run it: Resource temporarily unavailable", transient=True)
    async with running(world, backend):
        await backend.start()
        await settle()
        assert backend.report().state is State.BACKOFF
        world.launcher.refuse = None
        await world.clock.advance(1)
        assert backend.report().state is State.READY


async def test_requests_do_not_get_round_the_wait_and_the_operator_does(world: FakeWorld) -> None:
    backend = world.managed()
    world.launcher.refuse = LaunchError("cannot run it: Too many open files", transient=True)
    async with running(world, backend):
        await backend.start()
        await settle()
        backend.demand()
        await settle()
        assert backend.report().state is State.BACKOFF
        world.launcher.refuse = None
        await backend.start()
        await settle()
        assert backend.report().state is State.READY


async def test_stop_while_waiting_is_immediate(world: FakeWorld) -> None:
    backend = world.managed()
    world.launcher.refuse = LaunchError("cannot run it: Too many open files", transient=True)
    async with running(world, backend):
        await backend.start()
        await settle()
        await backend.stop()
        assert backend.report().state is State.STOPPED
        world.launcher.refuse = None
        await world.clock.advance(1000)
        assert world.launcher.leaders == []


async def test_stop_while_starting_cancels_the_start(world: FakeWorld) -> None:
    world.prober.up = False
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await world.clock.advance(5)
        assert len(world.launcher.running()) == 1
        await backend.stop()
        assert backend.report().state is State.STOPPED
        assert world.launcher.running() == []
        assert backend.failure is None


async def test_start_while_stopping_queues_behind_the_stop(world: FakeWorld) -> None:
    world.launcher.stop_seconds = 10
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        first = world.launcher.running()[0]
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(backend.stop(now=True))
            await world.clock.advance(0.1)
            assert backend.report().state is State.STOPPING
            await backend.start()
            assert first.running
            await world.clock.advance(11)
            assert stopping.done()
        assert backend.report().state is State.READY
        assert not first.running
        assert world.launcher.most_at_once == 1


async def test_what_survives_sigkill_is_never_called_stopped(world: FakeWorld) -> None:
    world.launcher.unkillable = True
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        pid = backend.report().pid
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(backend.stop())
            await world.clock.advance(1)
        assert backend.report().state is State.FAILED
        assert backend.failure is not None
        assert backend.failure.kind is FailureKind.UNKILLABLE
        assert str(pid) in backend.failure.sentence
        assert world.state.backend("a").identity is not None
        world.launcher.unkillable = False
        await backend.stop()
        assert backend.report().state is State.STOPPED


async def test_caller_of_a_retired_backend_is_answered(world: FakeWorld) -> None:
    backend = world.managed()
    async with running(world, backend):
        await settle()
    await backend.start()
    await backend.stop()
    assert world.launcher.leaders == []


async def test_changes_are_announced(world: FakeWorld) -> None:
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        seen = world.changes
        assert seen >= 2
        world.launcher.running()[0].end(Exit(code=1))
        await settle()
        assert world.changes > seen


async def test_url_is_degraded_at_the_first_failure_and_unreachable_at_the_third(home: Home) -> None:
    world = FakeWorld(home, backend="{engine: openai, url: https://models.test/v1, api_key: k}")
    backend = AttachedBackend(world.plan, world.edges)
    async with running(world, backend):
        await backend.start()
        await settle()
        assert backend.report().state is State.READY
        report = backend.report()
        assert [model.id for model in report.models] == ["m"]
        assert report.address is not None
        assert (report.address.host, report.address.port, report.address.tls) == ("models.test", 443, True)
        assert report.api_key is not None
        assert report.api_key.value == "k"
        world.prober.why = "it refuses connections"
        await world.clock.advance(30)
        assert backend.report().state is State.DEGRADED
        await world.clock.advance(4)
        assert (backend.report().state, backend.why) == (State.UNREACHABLE, "it refuses connections")
        world.prober.why = None
        await world.clock.advance(30)
        assert backend.report().state is State.READY


@pytest.mark.parametrize("key", ["sk-secret\nx-other: 1", "sk-secret-ä", " sk-secret"])
async def test_key_of_the_environment_that_no_header_can_hold_is_told_by_its_path_alone(home: Home, key: str) -> None:
    world = FakeWorld(home, backend='{engine: openai, url: "https://models.test/v1", api_key: "${KEY}"}')
    world.edges.environ["KEY"] = key
    backend = AttachedBackend(world.plan, world.edges)
    async with running(world, backend):
        await backend.start()
        await settle()
        report = backend.report()
        assert (report.state, report.failure) == (State.FAILED, "bad_setting")
        assert report.why is not None
        assert report.why.startswith("backends.a.api_key must be one line of printable ASCII")
        assert report.why.endswith("see what the environment has as KEY")
        assert "secret" not in report.why


async def test_restart_by_hand_leaves_nothing_of_the_process_before(world: FakeWorld) -> None:
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        world.launcher.running()[0].end(Exit(code=1))
        await world.clock.advance(5)
        assert backend.report().past is not None
        world.launcher.log = ["its last words"]
        world.launcher.stop_seconds = 1.0
        await backend.restart()
        await world.clock.advance(5)
        report = backend.report()
        assert (report.state, report.past, report.log_tail) == (State.READY, None, ())
        assert len(world.launcher.leaders) == 3


@pytest.mark.parametrize(("number", "killed", "kind"), [(9, 1, "oom_killed"), (9, 0, "exited"), (11, 1, "exited")])
async def test_sigkill_is_the_oom_killers_when_the_kernel_has_counted_one_more(
    world: FakeWorld, number: int, killed: int, kind: str
) -> None:
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        world.launcher.oom_killed += killed
        world.launcher.running()[0].end(Exit(signal=number))
        await settle()
        assert backend.report().failure == kind
        await world.clock.advance(5)
        report = backend.report()
        assert (report.state, report.failure) == (State.READY, None)
        assert report.past is not None
        assert report.past.failure.kind == kind
