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


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"texts": ["x", "y"], "query": "q"}, b'[{"index":1,"score":0.9},{"index":0,"score":0.1}]'),
        ({"documents": ["x"], "query": "q"}, b'{"results":[{"index":0,"relevance_score":0.9}]}'),
        ({"texts": [], "query": "q"}, b"[]"),
    ],
)
async def test_ranks_of_every_form_are_passed_on(
    gateway: LocalGateway, first: FakeEngine, asked: dict[str, object], answer: bytes
) -> None:
    first.behaviour = says(whole(answer))
    status, headers, body = await gateway.ask(msgspec.json.encode({"model": "m", **asked}), path="rerank")
    assert (status, headers[b"x-aigw-backend"], body) == (200, b"one", answer)


@pytest.mark.parametrize(
    ("path", "asked", "answer"),
    [
        ("embeddings", {"input": "x"}, b'{"object":"list","data":[]}'),
        ("embeddings", {"input": "x"}, b'{"object":"error"}'),
        ("rerank", {"query": "q", "documents": ["x"]}, b'{"results":[]}'),
        ("rerank", {"query": "q", "texts": ["x"]}, b"[]"),
    ],
)
async def test_no_vectors_and_no_ranks_are_no_answer(
    gateway: LocalGateway, first: FakeEngine, path: str, asked: dict[str, object], answer: bytes
) -> None:
    first.behaviour = says(whole(answer))
    status, _, body = await gateway.ask(msgspec.json.encode({"model": "m", **asked}), path=path)
    assert (status, "one: its answer has no" in sentence(body)) == (500, True)


# What a request needs.

PROSE = "The quick brown fox jumps over the lazy dog. "
SCHEMA = {"type": "object", "properties": {"image_url": {"type": "string"}, "image": {"type": "string"}}}


def local_and_cloud(first: FakeEngine, second: FakeEngine, *capabilities: str) -> Snapshot:
    """A small local model that can do these, before one that can do everything."""
    small = ModelView("m", 1, 4_096, capabilities=capabilities)
    large = ModelView("m2", 1, 1_000_000, capabilities=("chat", "tools", "vision"))
    wanted = over_two(first, second)
    views = tuple(
        msgspec.structs.replace(view, models=(model,))
        for view, model in zip(wanted.backends, (small, large), strict=True)
    )
    return msgspec.structs.replace(wanted, backends=views)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"metadata": {"image_url": "https://x", "trace": PROSE * 2_000}},
        {"tools": [{"type": "function", "function": {"name": "show", "parameters": SCHEMA}}]},
        {"messages": [{"role": "user", "content": 'Is {"type":"image_url"} right?'}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A" * 200_000}}]}]},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_local_model_can_do_stays_on_this_machine(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, fields: dict[str, object], stream: bool
) -> None:
    gateway.apply(local_and_cloud(first, second, "chat", "tools"))
    body = msgspec.json.encode(
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **fields}
    )
    _, headers, _ = await gateway.ask(body)
    assert (headers[b"x-aigw-backend"], second.requests) == (b"one", [])
    indented = msgspec.json.format(body, indent=2_000)
    assert len(indented) > 20_000
    _, headers, _ = await gateway.ask(indented)
    assert (headers[b"x-aigw-backend"], second.requests) == (b"one", [])


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "A" * 500_000}}]}]},
        {"messages": [{"role": "user", "content": PROSE * 1_000}]},
        {"messages": [{"role": "user", "content": PROSE * 10_000}]},
    ],
    ids=["a picture", "a large picture", "a long text", "a very long text"],
)
async def test_what_it_cannot_goes_on(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, fields: dict[str, object]
) -> None:
    gateway.apply(local_and_cloud(first, second, "chat", "tools"))
    plain = msgspec.json.encode({"model": "m", **fields})
    for body in (plain, plain.replace(b"image_url", rb"im\u0061ge\u005Furl")):
        status, headers, _ = await gateway.ask(body)
        assert (status, headers[b"x-aigw-backend"], first.requests) == (200, b"two", [])


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


@pytest.mark.parametrize(
    "refusal",
    [
        whole(
            b'{"object":"error","message":"The decoder prompt (length 5000) is longer than the maximum model length of '
            b'4096.","type":"BadRequestError","param":null,"code":400}',
            400,
        ),
        whole(
            b'{"error":"Input validation error: `inputs` must have less than 4095 tokens","error_type":"validation"}',
            422,
        ),
        whole(
            b'[{"error":{"code":400,"message":"input token count (9) exceeds the maximum number of tokens allowed"}}]',
            400,
        ),
        whole(
            b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 tokens > 8"}}',
            400,
        ),
        whole(b'{"error":{"message":"input (600 tokens) is too large to process","type":"server_error"}}', 500),
        whole(b'{"error":"Trying to keep the first 5000 tokens when context the overflows."}'),
    ],
    ids=["vLLM", "TGI", "Gemini", "Anthropic", "llama.cpp, a vector", "LM Studio, with 200"],
)
async def test_a_prompt_that_is_too_long_is_known_by_any_engines_words(
    gateway: LocalGateway, first: FakeEngine, second: FakeEngine, third: FakeEngine, refusal: bytes
) -> None:
    first.behaviour = says(refusal)
    status, _, answer = await gateway.ask(ASK)
    assert (status in {400, 422}, second.requests) == (True, [])
    assert msgspec.json.decode(answer)["error"]["code"] == "context_length_exceeded"
    gateway.apply(with_longer(first, second, third))
    status, headers, _ = await gateway.ask(ASK)
    assert (status, headers[b"x-aigw-backend"]) == (200, b"long")
    assert gateway.breaker("one").failures == 0


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
