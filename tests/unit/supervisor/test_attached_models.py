"""What an attached URL offers: its own list, or the profile's, and where the two disagree."""

import pytest

from aigw_daemon.supervisor.attached import AttachedBackend
from aigw_daemon.supervisor.engines.base import LoadedModel
from aigw_daemon.supervisor.traffic import Traffic
from aigw_daemon.words import State
from tests.support.cloud import cloud_server
from tests.support.fake_clock import settle
from tests.support.fake_engines import FakeWorld, running
from tests.support.supervision import fresh_home, profile, supervised


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
