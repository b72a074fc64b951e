"""What an attached URL offers: its own list, or the profile's, and what is known of it while it can't be asked."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor.attached import AttachedBackend
from aigw_daemon.supervisor.engines.base import LoadedModel
from aigw_daemon.supervisor.failures import Exit
from aigw_daemon.supervisor.launcher import LaunchError
from aigw_daemon.supervisor.traffic import Traffic
from aigw_daemon.words import State
from tests.support.cloud import cloud_server
from tests.support.fake_clock import settle
from tests.support.fake_engines import FakeWorld, running
from tests.support.supervision import fresh_home, profile, supervised
from tests.support.wait import eventually


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


async def test_what_an_attached_ollama_loads_for_a_request_shows_within_two_seconds() -> None:
    with fresh_home() as home:
        world = FakeWorld(home, backend="{engine: ollama, attach: 'http://127.0.0.1:11434'}")
        backend = AttachedBackend(world.plan, world.edges)
        async with running(world, backend):
            await backend.start()
            await settle()
            assert (backend.state, backend.report().loaded) == (State.READY, ())
            await world.clock.advance(1)
            loaded = LoadedModel("m", 10, 0, None)
            world.prober.in_memory, world.traffic = (loaded,), Traffic(in_flight=1)
            changes = world.changes
            await world.clock.advance(2)
            assert backend.report().loaded == (loaded,)
            assert world.changes == changes + 1
            # Without requests it is asked at the next probe only.
            world.prober.in_memory = ()
            await world.clock.advance(2)
            assert backend.report().loaded == (loaded,)
            world.traffic = Traffic(in_flight=0)
            await world.clock.advance(2)
            assert backend.report().loaded == ()


@pytest.mark.parametrize(
    ("listed", "named", "offered"),
    [
        (["x", "y"], "", {"x": True, "y": True}),
        (["x", "y"], ", models: [y, z]", {"y": True, "z": False}),
        ([], ", models: [y]", {"y": True}),
    ],
)
async def test_a_model_that_only_the_profile_names_is_offered_and_marked(
    listed: list[str], named: str, offered: dict[str, bool]
) -> None:
    with fresh_home() as home, cloud_server(*listed) as cloud:
        async with supervised(home) as made:
            await made.supervisor.apply(profile(f"backends: {{c: {{engine: openai, url: '{cloud.url}'{named}}}}}"))
            report = await made.reaches("c", State.READY)
    assert {model.id: model.listed for model in report.models} == offered


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_url_without_a_list_is_up_with_the_models_of_the_profile(status: int) -> None:
    with fresh_home() as home, cloud_server() as cloud:
        cloud.listing = (status, {"error": "no such path"})
        text = (
            f"backends: {{c: {{engine: openai, url: '{cloud.url}', models: [y, z]}}, "
            f"d: {{engine: openai, url: '{cloud.url}'}}}}"
        )
        async with supervised(home) as made:
            await made.supervisor.apply(profile(text))
            report = await made.reaches("c", State.READY)
            await eventually(lambda: made.report("d").probed, what="the first probe")
            unnamed = made.report("d")
    assert {model.id: model.listed for model in report.models} == {"y": False, "z": False}
    assert not report.has_list
    assert unnamed.state is State.UNREACHABLE
    assert unnamed.why is not None
    assert f"/models answers {status}" in unnamed.why
    assert "name models" in unnamed.why


async def test_a_bare_list_of_models_is_read() -> None:
    with fresh_home() as home, cloud_server() as cloud:
        cloud.listing = (200, [{"id": "x"}, {"id": "y", "created": 5}, {"name": "no id"}, "no object"])
        async with supervised(home) as made:
            await made.supervisor.apply(profile(f"backends: {{c: {{engine: openai, url: '{cloud.url}'}}}}"))
            report = await made.reaches("c", State.READY)
    assert [(model.id, model.created) for model in report.models] == [("x", 0), ("y", 5)]


@asynccontextmanager
async def attached(home: Home, url: str = "https://models.test/v1") -> AsyncIterator[tuple[FakeWorld, AttachedBackend]]:
    world = FakeWorld(home, backend=f"{{engine: openai, url: '{url}'}}")
    backend = AttachedBackend(world.plan, world.edges)
    async with running(world, backend):
        await backend.start()
        await settle()
        yield world, backend


async def unreachable(world: FakeWorld, backend: AttachedBackend) -> None:
    world.prober.why = "it refuses connections"
    await world.clock.advance(40)
    assert backend.state is State.UNREACHABLE


async def test_what_an_unreachable_url_listed_last_stays_known(home: Home) -> None:
    async with attached(home) as (world, backend):
        await unreachable(world, backend)
        (model,) = backend.report().models
        assert (model.id, model.listed) == ("m", False)
        assert model.listed_at is not None
        assert 0 <= world.clock.time() - model.listed_at <= 40
        await backend.stop(hold=True)
        assert [model.id for model in backend.report().models] == ["m"]
        world.prober.why, world.prober.models = None, ("n",)
        await backend.start()
        await settle()
        assert [(model.id, model.listed, model.listed_at) for model in backend.report().models] == [("n", True, None)]


async def test_the_next_daemon_knows_it_too_unless_the_url_is_another(home: Home) -> None:
    async with attached(home) as (world, backend):
        kept = world.state.backend("a").listed
    for url, expected in (("https://models.test/v1", ["m"]), ("https://other.test/v1", [])):
        world = FakeWorld(home, backend=f"{{engine: openai, url: '{url}'}}")
        world.prober.why = "it refuses connections"
        world.state.update_backend("a", listed=kept)
        backend = AttachedBackend(world.plan, world.edges)
        async with running(world, backend):
            await backend.start()
            await settle()
            assert [model.id for model in backend.report().models] == expected


async def test_a_managed_engine_that_failed_keeps_what_it_listed(home: Home) -> None:
    world = FakeWorld(home)
    backend = world.managed()
    async with running(world, backend):
        await backend.start()
        await settle()
        world.launcher.refuse = LaunchError("no such program")
        world.launcher.running()[0].end(Exit(code=1))
        await settle()
        assert backend.state is not State.READY
        assert [(model.id, model.listed) for model in backend.report().models] == [("m", False)]


@pytest.mark.parametrize("verb", ["start", "restart"])
async def test_a_start_of_an_unreachable_url_asks_at_once(home: Home, verb: str) -> None:
    async with attached(home) as (world, backend):
        await unreachable(world, backend)
        await world.clock.advance(3)
        world.prober.why = None
        await (backend.start() if verb == "start" else backend.restart())
        assert not backend.report().probed
        await settle()
        assert (backend.report().state, backend.report().probed) == (State.READY, True)


async def test_a_start_that_fails_says_what_the_new_probe_met(home: Home) -> None:
    async with attached(home) as (world, backend):
        await unreachable(world, backend)
        await world.clock.advance(3)
        world.prober.why = "the name models.test can't be resolved"
        changes = world.changes
        await backend.start()
        await settle()
        report = backend.report()
        assert (report.state, report.probed, report.why) == (State.UNREACHABLE, True, world.prober.why)
        assert world.changes > changes


async def test_a_request_does_not_ask_anew(home: Home) -> None:
    async with attached(home) as (world, backend):
        await unreachable(world, backend)
        backend.demand()
        await settle()
        assert backend.report().probed
