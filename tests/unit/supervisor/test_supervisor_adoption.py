"""What the next daemon makes of engines that an earlier one left, and what a switch of profiles makes of them."""

import asyncio
import json
import sys
from collections.abc import Iterator

import pytest

from aigw_daemon.home import Home
from aigw_daemon.words import State
from tests.support import stub_engine
from tests.support.supervision import bearing, fresh_home, kill, profile, supervised
from tests.support.wait import eventually


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@pytest.fixture
def backend(home: Home) -> str:
    """The beginning of a backend's settings; close it with a brace."""
    return stub_engine.settings(home.state / "bin", home.models)


def args(*words: str) -> str:
    return f", args: {json.dumps(words)}}}"


async def test_switch_stops_starts_replaces_and_spares(home: Home, backend: str) -> None:
    first = profile(f"backends: {{same: {backend}}}, changed: {backend}}}, gone: {backend}}}}}", "one.yaml")
    second = profile(
        f"backends: {{same: {backend}, max_concurrency: 7}}, changed: {backend}, context: 64}}, new: {backend}}}}}",
        "two.yaml",
    )
    async with supervised(home) as made:
        await made.supervisor.apply(first)
        await made.supervisor.settled()
        same, changed = made.pid("same"), made.pid("changed")
        await made.supervisor.apply(second)
        await made.supervisor.settled()
        assert [report.name for report in made.supervisor.reports()] == ["same", "changed", "new"]
        assert made.pid("same") == same
        assert made.report("same").max_concurrency == 7
        assert made.pid("changed") != changed
        assert made.processes() == {made.pid("same"), made.pid("changed"), made.pid("new")}


async def test_backend_of_the_same_name_in_another_profile_begins_without_the_others_past(
    home: Home, backend: str
) -> None:
    first = profile(f"backends: {{a: {backend}}}, b: {backend}}}, c: {backend}}}}}", "one.yaml")
    second = profile(
        f"backends: {{a: {backend}, context: 64}}, b: {backend}, context: 64, start: on_demand}}, c: {backend}}}}}",
        "two.yaml",
    )
    async with supervised(home) as made:
        await made.supervisor.apply(first)
        await made.supervisor.settled()
        for name in ("a", "c"):
            kill(made.pid(name))
            await eventually(lambda name=name: made.report(name).restarts == 1)  # type: ignore[misc]  # its default
            await made.reaches(name, State.READY)
        await made.supervisor.stop(["b"])
        await made.supervisor.apply(second)
        await made.supervisor.settled()
        assert (made.report("a").restarts, made.report("a").past) == (0, None)
        assert not made.state.backend("b").stopped_by_operator
        # The very same one goes on, and so does its count.
        assert made.report("c").restarts == 1


async def test_next_daemon_adopts_what_runs_and_can_stop_it(home: Home, backend: str) -> None:
    text = profile(f"backends: {{a: {backend}{args('--child', 'session')}}}")
    async with supervised(home, stop=False) as first:
        await first.supervisor.apply(text)
        pid = (await first.reaches("a", State.READY)).pid
    async with supervised(home) as second:
        await second.supervisor.apply(text)
        report = await second.reaches("a", State.READY)
        assert (report.pid, report.restarts, report.stale) == (pid, 0, False)
        assert len(second.processes()) == 2
        await second.supervisor.stop(["a"])
        assert second.processes() == set()


async def test_adopted_engine_that_the_profile_now_wants_otherwise_is_stale_and_spared(
    home: Home, backend: str
) -> None:
    async with supervised(home, stop=False) as first:
        await first.supervisor.apply(profile(f"backends: {{a: {backend}}}}}"))
        pid = (await first.reaches("a", State.READY)).pid
    async with supervised(home) as second:
        await second.supervisor.apply(profile(f"backends: {{a: {backend}, context: 99}}}}"))
        report = await second.reaches("a", State.READY)
        assert (report.pid, report.stale) == (pid, True)
        await second.supervisor.restart(["a"])
        await eventually(lambda: second.report("a").state is not State.READY)
        fresh = await second.reaches("a", State.READY)
        assert fresh.pid != pid
        assert not fresh.stale


async def test_engines_of_another_profile_make_way_in_the_next_daemon(home: Home, backend: str) -> None:
    async with supervised(home, stop=False) as first:
        await first.supervisor.apply(profile(f"backends: {{a: {backend}}}, b: {backend}}}}}", "one.yaml"))
        await first.supervisor.settled()
        old = first.processes()
    async with supervised(home) as second:
        await second.supervisor.apply(profile(f"backends: {{a: {backend}, context: 99}}}}", "two.yaml"))
        await second.reaches("a", State.READY)
        assert second.processes() == {second.pid("a")}
        assert not old & second.processes()


async def test_operators_stop_holds_in_the_next_daemon(home: Home, backend: str) -> None:
    text = profile(f"backends: {{a: {backend}}}}}")
    async with supervised(home, stop=False) as first:
        await first.supervisor.apply(text)
        await first.reaches("a", State.READY)
        await first.supervisor.stop(["a"])
    async with supervised(home) as second:
        await second.supervisor.apply(text)
        await second.supervisor.settled()
        assert second.report("a").state is State.STOPPED


async def test_engines_behind_a_torn_state_file_are_found_by_their_cookie(home: Home, backend: str) -> None:
    text = profile(f"backends: {{a: {backend}{args('--child', 'session')}}}")
    async with supervised(home, stop=False) as first:
        await first.supervisor.apply(text)
        await first.reaches("a", State.READY)
        old = first.processes()
        instance = first.state.document.instance
    home.state_file.write_bytes(home.state_file.read_bytes()[:40])
    async with supervised(home) as second:
        assert second.state.document.instance == instance
        await second.supervisor.apply(text)
        await second.reaches("a", State.READY)
        assert not old & second.processes()
        assert len(second.processes()) == 2


async def test_strays_are_ended_when_nothing_is_to_be_served(home: Home, backend: str) -> None:
    async with supervised(home, stop=False) as first:
        await first.supervisor.apply(profile(f"backends: {{a: {backend}{args('--child', 'session')}}}"))
        await first.reaches("a", State.READY)
        instance = first.state.document.instance
    async with supervised(home) as second:
        await second.supervisor.sweep_strays()
        assert bearing(instance) == set()


async def test_reused_pid_in_the_state_file_is_never_signalled(home: Home, backend: str) -> None:
    text = profile(f"backends: {{a: {backend}}}}}")
    async with supervised(home) as made:
        await made.supervisor.apply(text)
        await made.reaches("a", State.READY)
        identity = made.state.backend("a").identity
    assert identity is not None
    stranger = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(600)")
    try:
        forged = type(identity)(stranger.pid, identity.start_ticks, identity.boot_id, stranger.pid, identity.cookie)
        async with supervised(home) as made:
            made.state.update_backend("a", identity=forged, wanted=True)
            await made.supervisor.apply(text)
            report = await made.reaches("a", State.READY)
            assert report.pid != stranger.pid
            await made.supervisor.stop()
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()
