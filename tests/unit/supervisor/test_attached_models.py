"""What an attached URL offers: its own list, or the profile's, and where the two disagree."""

import pytest

from aigw_daemon.words import State
from tests.support.cloud import cloud_server
from tests.support.supervision import fresh_home, profile, supervised


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
