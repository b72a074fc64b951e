"""What routes do with a request: its fields, endpoints that not all speak, prompts that are too long, balance."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from aigw_daemon.link.messages import (
    CHAT,
    EMBEDDINGS,
    BackendView,
    ModelView,
    ParamsView,
    RouteView,
    Snapshot,
    TargetView,
)
from tests.support.fake_engine import (
    FakeEngine,
    fake_engine,
    hangs,
    says,
    whole,
)
from tests.support.gateway import backend, route, snapshot
from tests.support.local_gateway import LocalGateway, local_gateway, over_two, sentence
from tests.support.wait import eventually

ASK = b'{"model":"m","messages":[]}'
BOOM = says(whole(b'{"error":"boom"}', 500))


@pytest.fixture
async def gateway(first: FakeEngine, second: FakeEngine) -> AsyncIterator[LocalGateway]:
    async with local_gateway(over_two(first, second)) as running:
        yield running


async def test_a_routes_fields_reach_the_engine(gateway: LocalGateway, first: FakeEngine, second: FakeEngine) -> None:
    params = ParamsView({"temperature": b"0.2", "seed": b"7"}, {"top_k": b"40"}, ("user",))
    gateway.apply(over_two(first, second, params=params))
    await gateway.ask(b'{"model":"m","messages":[],"temperature":1,"top_k":1,"user":"u","min_p":0.05}')
    assert first.requests[0].json == {
        "model": "m",
        "messages": [],
        "temperature": 1,
        "top_k": 40,
        "min_p": 0.05,
        "seed": 7,
    }


async def test_an_endpoint_that_no_engine_of_the_model_speaks_is_501_with_names(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    views = (
        doing(backend("one", first.port), CHAT),
        doing(backend("two", second.port, models=["vectors"]), EMBEDDINGS),
    )
    gateway.apply(snapshot(*views, routes=[route("m", ("one", "m"))]))
    status, headers, answer = await gateway.ask(b'{"model":"m","input":"x"}', path="embeddings")
    assert (status, headers[b"x-aigw-attempts"]) == (501, b"0")
    assert "vectors" in sentence(answer)
    assert (await gateway.record_of(headers)).endpoint == EMBEDDINGS


async def test_vectors_never_come_from_another_model(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = BOOM
    status, _, answer = await gateway.ask(b'{"model":"m","input":"x"}', path="embeddings")
    assert (status, second.requests) == (500, [])
    assert "don't mix" in sentence(answer)


async def test_vectors_may_come_from_the_same_model_elsewhere(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    views = (backend("one", first.port), backend("two", second.port))
    gateway.apply(snapshot(*views, routes=[route("m", ("one", "m"), ("two", "m"))]))
    first.behaviour = BOOM
    second.behaviour = says(whole(b'{"object":"list","data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":1}}'))
    status, headers, _ = await gateway.ask(b'{"model":"m","input":"x"}', path="embeddings")
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")


def doing(view: BackendView, *endpoints: str) -> BackendView:
    """The same backend, speaking only these."""
    return msgspec.structs.replace(view, endpoints=endpoints)


TOO_LONG = says(
    whole(
        b'{"error":{"code":400,"message":"exceeds the available context size","type":"exceed_context_size_error"}}', 400
    )
)


@pytest.fixture
async def third() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


def with_longer(first: FakeEngine, second: FakeEngine, third: FakeEngine) -> Snapshot:
    """Two targets, and a third backend for prompts that are too long for them, with one place."""
    longer = msgspec.structs.replace(backend("long", third.port, models=["l"]), max_concurrency=1)
    wanted = over_two(first, second, on_context_overflow=(TargetView("long", "l"),))
    return msgspec.structs.replace(wanted, backends=(*wanted.backends, longer))


@pytest.mark.parametrize("lines", [(), ("x-aigw-priority: high",)])
async def test_a_prompt_that_is_too_long_goes_to_the_chain_for_long_ones_at_once(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, third: FakeEngine, lines: tuple[str, ...]
) -> None:
    gateway.apply(with_longer(first, second, third))
    first.behaviour = TOO_LONG
    status, headers, _ = await gateway.ask(ASK, *lines)
    assert (status, headers[b"x-aigw-backend"], headers[b"x-aigw-attempts"]) == (200, b"long", b"2")
    assert (second.requests, gateway.breaker("one").failures) == ([], 0)


async def test_a_long_prompt_waits_for_a_place_in_the_chain_for_long_ones(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, third: FakeEngine
) -> None:
    gateway.apply(with_longer(first, second, third))
    first.behaviour = TOO_LONG
    assert gateway.lane("long").try_enter()
    async with gateway.asking(ASK) as asking:
        await eventually(lambda: gateway.lane("long").waiting == 1, what="a waiter")
        gateway.lane("long").leave()
        status, headers, _ = await asking.answer()
    assert (status, headers[b"x-aigw-backend"]) == (200, b"long")
    assert gateway.lane("long").in_flight == 0


@pytest.mark.parametrize("lines", [("x-aigw-fallback: off",), ("x-aigw-backend: one",)])
async def test_the_clients_headers_hold_for_long_prompts_too(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, third: FakeEngine, lines: tuple[str, ...]
) -> None:
    gateway.apply(with_longer(first, second, third))
    first.behaviour = TOO_LONG
    status, _, answer = await gateway.ask(ASK, *lines)
    assert (status, third.requests) == (400, [])
    assert "context size" in sentence(answer)


async def test_a_prompt_that_is_too_long_for_everybody_is_the_clients_fault(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, third: FakeEngine
) -> None:
    gateway.apply(with_longer(first, second, third))
    first.behaviour = third.behaviour = TOO_LONG
    status, headers, answer = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-attempts"], second.requests) == (400, b"2", [])
    assert "context size" in sentence(answer)


async def test_without_a_chain_for_long_prompts_the_engines_400_is_relayed(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = TOO_LONG
    status, headers, answer = await gateway.ask(ASK, "x-aigw-priority: 1")
    assert (status, second.requests, headers[b"x-aigw-attempts"]) == (400, [], b"1")
    assert "context size" in sentence(answer)


async def test_a_long_prompt_skips_what_is_known_to_be_too_small(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, third: FakeEngine
) -> None:
    small = with_longer(first, second, third)
    views = tuple(
        msgspec.structs.replace(view, models=tuple(ModelView(each.id, 1, 512) for each in view.models))
        if view.name != "long"
        else msgspec.structs.replace(view, models=(ModelView("l", 1, 100_000),))
        for view in small.backends
    )
    gateway.apply(msgspec.structs.replace(small, backends=views))
    body = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "x" * 40_000}]})
    _, headers, _ = await gateway.ask(body)
    assert (headers[b"x-aigw-backend"], headers[b"x-aigw-attempts"]) == (b"long", b"1")


# Balance.


def balanced(first: FakeEngine, second: FakeEngine, policy: str, *weights: int) -> Snapshot:
    """One model at both."""
    targets = tuple(TargetView(name, "m", weight) for name, weight in zip(("one", "two"), weights, strict=True))
    views = (backend("one", first.port), backend("two", second.port))
    return snapshot(*views, routes=[RouteView("m", targets, balance=policy)])


async def test_weights_share_the_requests_out(gateway: LocalGateway, first: FakeEngine, second: FakeEngine) -> None:
    gateway.apply(balanced(first, second, "weighted", 3, 1))
    for _ in range(200):
        status, _, _ = await gateway.ask(ASK)
        assert status == 200
    # Of 200 draws at 3 to 1, six standard deviations to either side.
    assert 113 <= len(first.requests) <= 187
    assert len(first.requests) + len(second.requests) == 200


async def test_the_least_busy_is_asked(gateway: LocalGateway, first: FakeEngine, second: FakeEngine) -> None:
    gateway.apply(balanced(first, second, "least_busy", 1, 1))
    first.behaviour = hangs
    async with gateway.asking(ASK):
        await first.request()
        for _ in range(5):
            _, headers, _ = await gateway.ask(ASK)
            assert headers[b"x-aigw-backend"] == b"two"
    await eventually(lambda: gateway.lane("one").in_flight == 0, what="the slot")
