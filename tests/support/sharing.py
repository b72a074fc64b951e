"""Equal requests at the same time: the gateway that they meet, engines that wait for a word, who is aboard of what."""

import asyncio

import msgspec

from aigw_daemon.link.messages import CacheView, GatewayView, Snapshot
from tests.support.fake_engine import (
    DONE,
    HELLO,
    STREAM_END,
    STREAM_HEAD,
    Behaviour,
    EngineRequest,
    FakeEngine,
    chunk,
    whole,
)
from tests.support.gateway import backend, route, snapshot
from tests.support.local_gateway import Answer, LocalGateway
from tests.support.wait import eventually

FAILURE = whole(b'{"error":{"message":"boom"}}', 500)
REFUSAL = whole(b'{"error":{"message":"top_p is wrong"}}', 400)
ASK = b'{"model":"m","messages":[]}'
SOLO = ASK.replace(b'"m"', b'"solo"')
STREAM = b'{"model":"m","messages":[],"stream":true}'
WITH_USAGE = b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}'
LAST = DONE + b"\r\n" + STREAM_END
LONG = 30.0


def over(
    first: FakeEngine,
    second: FakeEngine,
    seconds: float = LONG,
    cache: CacheView | None = None,
    route_seconds: float | None = None,
) -> Snapshot:
    """A route over two engines, and one to the first alone; ``seconds`` are a request's deadline, as the gateway or,
    for these routes, the routes themselves have it.
    """
    views = (backend("one", first.port), backend("two", second.port, models=["m2"]))
    routes = [route("m", ("one", "m"), ("two", "m2")), route("solo", ("one", "m"))]
    routes = [msgspec.structs.replace(each, request_timeout=route_seconds) for each in routes]
    return snapshot(*views, routes=routes, gateway=GatewayView(request_timeout=seconds), cache=cache or CacheView())


def after(go: asyncio.Event, *answers: bytes) -> Behaviour:
    """The first request gets the first answer when it is time, the next ones theirs at once, the last one repeats."""
    left = list(answers)

    async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        await go.wait()
        writer.write(answer)

    return send


def streaming(go: asyncio.Event, *rest: bytes, begin: bytes = HELLO) -> Behaviour:
    """A stream that begins at once and goes on when it is time."""

    async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(begin))
        await go.wait()
        writer.write(b"".join(map(chunk, rest)) + STREAM_END)

    return send


def aboard(gateway: LocalGateway) -> int:
    """How many clients wait for shared calls now."""
    return sum(len(account._calls) for account in gateway.gateway.cached._accounts.values())


async def all_aboard(gateway: LocalGateway, count: int) -> None:
    """Wait until so many do."""
    await eventually(lambda: aboard(gateway) == count, what=f"{count} clients aboard")


def word(answer: Answer) -> str:
    """What the cache had to do with it."""
    return answer[1][b"x-aigw-cache"].decode()
