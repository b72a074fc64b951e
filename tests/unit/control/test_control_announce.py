"""What a daemon in the foreground says of itself."""

from collections.abc import AsyncIterator

from msgspec.structs import replace

from aigw_daemon.control.announce import announce
from aigw_daemon.control.schema import BackendStatus, GatewayStatus, Status
from tests.support.statuses import starter


async def said(*statuses: Status) -> list[str]:
    async def stream() -> AsyncIterator[Status]:
        for status in statuses:
            yield status

    told: list[str] = []
    await announce(stream(), told.append)
    return told


async def test_the_address_comes_at_once_and_the_models_when_all_is_settled() -> None:
    starting = starter("starting", gateway=GatewayStatus(url=None, state="starting"))
    far = BackendStatus(name="far", engine="openai", state="unreachable", why="it refuses connections", managed=False)
    ready = replace(starter("ready"), routes=["chat"])
    ready = replace(ready, backends=[*ready.backends, far])
    address, outcome = await said(starting, starter("starting"), ready, ready)
    assert address == "Gateway  http://127.0.0.1:4000/v1\nCtrl-C stops everything."
    assert outcome == (
        "Models   smollm2-135m\nRoutes   chat\nfar unreachable: it refuses connections\nCtrl-C stops everything."
    )


async def test_a_url_that_was_not_probed_yet_is_waited_for() -> None:
    far = BackendStatus(name="far", engine="openai", state="unreachable", probed=False)
    assert len(await said(replace(starter("ready"), backends=[far]))) == 1
