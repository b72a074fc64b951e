"""A request that waited before it got its place is known to the daemon all the same, though nothing else goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec
import pytest

from aigw_daemon.gateway.reporter import LOAD_SECONDS
from aigw_daemon.link.messages import CacheView, Load, Snapshot
from aigw_daemon.words import State
from tests.support.fake_engine import CHAT_ANSWER, DONE, FINISH, HELLO, EngineRequest, FakeEngine, stream, whole
from tests.support.local_gateway import LocalGateway, local_gateway, over_two, with_state
from tests.support.wait import eventually

ASK = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'
SLACK_SECONDS = 0.4
"""For a busy machine, on top of the tenth of a second."""
LATER = whole(b'{"error":"busy"}', 503, "retry-after: 2")


class Held:
    """An engine that answers what it was given first, and holds every other request until it is told to go on."""

    def __init__(self, engine: FakeEngine, *first: bytes) -> None:
        self.go_on = asyncio.Event()
        self._first = list(first)
        engine.behaviour = self.behave

    async def behave(self, request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        if self._first:
            writer.write(self._first.pop(0))
            return
        await self.go_on.wait()
        writer.write(stream(HELLO, FINISH, DONE) if request.json.get("stream") else whole(CHAT_ANSWER))


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over_two(first, second)) as running:
        yield running


def in_flight(gateway: LocalGateway) -> dict[str, int]:
    """What the daemon knows."""
    loads = gateway.said(Load)
    return {name: count for name, count in loads[-1].in_flight.items() if count} if loads else {}


def cold(wanted: Snapshot) -> Snapshot:
    return with_state(wanted, "one", State.STARTING)


def short(wanted: Snapshot) -> Snapshot:
    """The first starts for longer than anybody waits."""
    views = tuple(msgspec.structs.replace(view, cold_timeout=1.6) for view in cold(wanted).backends)
    return msgspec.structs.replace(wanted, backends=views)


def cached(wanted: Snapshot) -> Snapshot:
    """Equal requests share a call."""
    return msgspec.structs.replace(cold(wanted), cache=CacheView())


def plain(wanted: Snapshot) -> Snapshot:
    return wanted


def alone(wanted: Snapshot) -> Snapshot:
    """Nobody else can answer."""
    return with_state(wanted, "two", State.FAILED)


@dataclass(frozen=True)
class Way:
    """How a request comes to wait, and what ends that."""

    before: Callable[[Snapshot], Snapshot]
    after: Callable[[Snapshot], Snapshot] | None = None
    answers: tuple[bytes, ...] = ()
    """What the engine says first."""
    backend: str = "one"
    """Who answers in the end."""


@pytest.mark.parametrize("body", [ASK, STREAM])
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(Way(cold, plain), id="after a cold start"),
        pytest.param(Way(cached, plain), id="in a shared call after a cold start"),
        pytest.param(Way(short, backend="two"), id="at the fallback of a start that takes too long"),
        pytest.param(Way(alone, answers=(LATER,)), id="after a pause that the engine asked for"),
    ],
)
async def test_a_request_that_waited_is_told_as_soon_as_it_has_its_place(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, way: Way, body: bytes
) -> None:
    wanted, backend, answers = over_two(first, second), way.backend, way.answers
    engines = {"one": first, "two": second}
    held = Held(engines[backend], *answers)
    gateway.apply(way.before(wanted))
    async with gateway.asking(body) as asking:
        if answers:
            await engines[backend].request()
        activity = gateway.gateway.live.standings.activity
        await eventually(lambda: activity.asleep, seconds=3.0, what="an idle reporter")
        assert in_flight(gateway) == {}
        if way.after is not None:
            gateway.apply(way.after(wanted))
        await engines[backend].request(1 + len(answers))
        await eventually(
            lambda: in_flight(gateway) == {backend: 1}, seconds=LOAD_SECONDS + SLACK_SECONDS, what="its place"
        )
        held.go_on.set()
        status, _, _ = await asking.answer()
        assert status == 200
        await eventually(lambda: in_flight(gateway) == {}, seconds=LOAD_SECONDS + SLACK_SECONDS, what="its end")


async def test_a_new_daemon_is_told_what_the_last_one_was(gateway: LocalGateway, first: FakeEngine) -> None:
    held = Held(first)
    async with gateway.asking(ASK) as asking:
        await eventually(lambda: in_flight(gateway) == {"one": 1}, what="its place")
        gateway.messages.clear()
        gateway.gateway.reporter.tell_again()
        await eventually(
            lambda: in_flight(gateway) == {"one": 1}, seconds=LOAD_SECONDS + SLACK_SECONDS, what="the same again"
        )
        held.go_on.set()
        assert (await asking.answer())[0] == 200
