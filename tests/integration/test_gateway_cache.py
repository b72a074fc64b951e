"""The gateway's cache as clients meet it: hits in both forms, what is never kept, one call for equal requests."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from aigw_daemon.link.messages import CacheView, Snapshot
from aigw_daemon.words import State
from tests.support.fake_engine import (
    CHAT_ANSWER,
    DONE,
    FINISH,
    HELLO,
    STREAM_END,
    STREAM_HEAD,
    USAGE,
    Behaviour,
    EngineRequest,
    FakeEngine,
    chunk,
    fake_engine,
    hangs,
    resets,
    says,
    stream,
    whole,
)
from tests.support.gateway import GatewayProcess, ask, backend, gateway_process, post, route, snapshot, unchunked

pytestmark = pytest.mark.asyncio(loop_scope="module")

Answer = tuple[int, dict[bytes, bytes], bytes]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker() -> AsyncIterator[GatewayProcess]:
    async with gateway_process(snapshot()) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(worker: GatewayProcess, engine: FakeEngine, other: FakeEngine) -> GatewayProcess:
    """The worker with an empty cache."""
    for running in (engine, other):
        running.behaviour = says(whole())
        running.requests.clear()
    worker.messages.clear()
    fresh.count += 1
    await worker.start_over(over(engine, other, CacheView(memory=1_000_000 + fresh.count)))
    return worker


class fresh:  # noqa: N801  a counter, not a class: each memory size of its own makes an empty cache
    count = 0


def over(engine: FakeEngine, other: FakeEngine, cache: CacheView, state: State = State.READY) -> Snapshot:
    one, two = backend("one", engine.port, state=state), backend("two", other.port, models=["m2"])
    return snapshot(one, two, routes=[route("m", ("one", "m"), ("two", "m2"))], cache=cache)


def request(*, stream: bool = False, usage: bool = False, text: str = "Hello", **fields: object) -> bytes:
    body: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    if stream:
        body["stream"] = True
    if usage:
        body["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(body)


async def asked(gateway: GatewayProcess, body: bytes, *lines: str) -> Answer:
    return await ask(gateway.port, post(body, "/v1/chat/completions", *lines))


async def test_the_same_request_is_answered_from_the_cache(gateway: GatewayProcess, engine: FakeEngine) -> None:
    first = await asked(gateway, request())
    again = await asked(gateway, b'{"messages": [{"content": "Hello", "role": "user"}], "model": "m", "user": "u1"}')
    assert [first[1][b"x-aigw-cache"], again[1][b"x-aigw-cache"]] == [b"miss", b"hit"]
    assert again[2] == first[2] == CHAT_ANSWER
    assert again[1][b"x-aigw-cache-key"] == first[1][b"x-aigw-cache-key"]
    assert (again[1][b"x-aigw-backend"], again[1][b"x-aigw-attempts"], again[1][b"age"]) == (b"one", b"0", b"0")
    assert len(engine.requests) == 1
    record = await gateway.record_of(again[1])
    assert (record.cache, record.backend, record.completion_tokens) == ("hit", "one", 2)


async def test_another_parameter_is_another_request(gateway: GatewayProcess, engine: FakeEngine) -> None:
    for temperature in (0.1, 0.2):
        assert (await asked(gateway, request(temperature=temperature)))[1][b"x-aigw-cache"] == b"miss"
    assert len(engine.requests) == 2


async def test_no_hit_across_two_keys(gateway: GatewayProcess, engine: FakeEngine) -> None:
    words = [
        (await asked(gateway, request(), f"authorization: Bearer {key}"))[1][b"x-aigw-cache"]
        for key in ("anna", "bert", "anna")
    ]
    words.append((await asked(gateway, request(), "x-api-key: bert"))[1][b"x-aigw-cache"])
    assert words == [b"miss", b"miss", b"hit", b"miss"]
    assert len(engine.requests) == 3


async def test_a_stream_is_replayed_event_for_event(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, USAGE, DONE))
    first = await asked(gateway, request(stream=True))
    plain = await asked(gateway, request(stream=True))
    with_usage = await asked(gateway, request(stream=True, usage=True))
    assert (first[1][b"x-aigw-cache"], unchunked(first[2])) == (b"miss", HELLO + FINISH + DONE)
    assert (plain[1][b"x-aigw-cache"], plain[2]) == (b"hit", HELLO + FINISH + DONE)
    assert (with_usage[1][b"x-aigw-cache"], with_usage[2]) == (b"hit", HELLO + FINISH + USAGE + DONE)
    assert plain[1][b"content-type"] == b"text/event-stream"
    assert len(engine.requests) == 1


async def test_each_form_is_answered_from_the_other(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, USAGE, DONE))
    await asked(gateway, request(stream=True, text="streamed first"))
    as_whole = await asked(gateway, request(text="streamed first"))
    engine.behaviour = says(whole())
    await asked(gateway, request(text="whole first"))
    as_stream = await asked(gateway, request(stream=True, text="whole first"))
    assert (as_whole[1][b"x-aigw-cache"], as_stream[1][b"x-aigw-cache"]) == (b"hit", b"hit")
    assert msgspec.json.decode(as_whole[2])["choices"][0]["message"]["content"] == "Hi"
    assert b'"content":"Hi"' in as_stream[2]
    assert as_stream[2].endswith(DONE)
    assert len(engine.requests) == 2


LENGTH = CHAT_ANSWER.replace(b'"stop"', b'"length"')


@pytest.mark.parametrize(
    ("behaviour", "body"),
    [
        pytest.param(says(whole(LENGTH)), request(), id="cut by length"),
        pytest.param(says(whole(CHAT_ANSWER.replace(b'"Hi"', b'""'))), request(), id="nothing said"),
        pytest.param(says(stream(FINISH, DONE)), request(stream=True), id="nothing said in a stream"),
        pytest.param(says(whole(b'{"error":"bad"}', 400)), request(), id="an error"),
        pytest.param(says(stream(HELLO)), request(stream=True), id="a stream that was cut"),
        pytest.param(says(stream(DONE)), request(stream=True), id="nothing but the end"),
        pytest.param(says(stream(HELLO, b'data: {"error":"x"}\n\n')), request(stream=True), id="an error in it"),
    ],
)
async def test_what_is_not_complete_is_never_kept(
    gateway: GatewayProcess, engine: FakeEngine, other: FakeEngine, behaviour: Behaviour, body: bytes
) -> None:
    engine.behaviour = other.behaviour = behaviour
    for _ in range(2):
        _, headers, _ = await asked(gateway, body)
        assert headers.get(b"x-aigw-cache", b"miss") == b"miss"
    assert len(engine.requests) >= 2


async def test_half_an_emoji_is_answered_and_not_kept(gateway: GatewayProcess, engine: FakeEngine) -> None:
    body = request().replace(b"Hello", rb"cut \ud83d")
    for _ in range(2):
        status, headers, _ = await asked(gateway, body)
        assert (status, headers[b"x-aigw-cache"]) == (200, b"off")
    assert len(engine.requests) == 2


@pytest.mark.parametrize(
    ("lines", "field", "words"),
    [
        (["x-aigw-cache: bypass"], None, ["miss", "bypass", "hit"]),
        (["cache-control: no-cache"], None, ["miss", "bypass", "hit"]),
        (["cache-control: max-age=0"], None, ["miss", "bypass", "hit"]),
        ([], {"no-cache": True}, ["miss", "bypass", "hit"]),
        (["cache-control: no-store"], None, ["miss", "hit", "hit"]),
    ],
)
async def test_a_request_says_what_it_wants_of_the_cache(
    gateway: GatewayProcess, engine: FakeEngine, lines: list[str], field: object, words: list[str]
) -> None:
    special = request(cache=field) if field is not None else request()
    said = [await asked(gateway, request()), await asked(gateway, special, *lines), await asked(gateway, request())]
    assert [answer[1][b"x-aigw-cache"].decode() for answer in said] == words
    assert all("cache" not in received.json for received in engine.requests)


async def test_a_fresh_answer_replaces_the_kept_one(gateway: GatewayProcess, engine: FakeEngine) -> None:
    await asked(gateway, request())
    engine.behaviour = says(whole(CHAT_ANSWER.replace(b"Hi", b"Ho")))
    await asked(gateway, request(), "cache-control: no-cache")
    assert b"Ho" in (await asked(gateway, request()))[2]


async def test_nothing_is_kept_of_a_request_that_says_so(gateway: GatewayProcess, engine: FakeEngine) -> None:
    for _ in range(2):
        await asked(gateway, request(), "cache-control: no-store")
    assert len(engine.requests) == 2


async def test_a_hundred_equal_requests_make_one_call(gateway: GatewayProcess, engine: FakeEngine) -> None:
    go = asyncio.Event()

    async def slowly(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(whole())

    engine.behaviour = slowly
    async with asyncio.TaskGroup() as tasks:
        all_of_them = [tasks.create_task(asked(gateway, request())) for _ in range(100)]
        await engine.request()
        go.set()
    words = [task.result()[1][b"x-aigw-cache"] for task in all_of_them]
    assert {task.result()[2] for task in all_of_them} == {CHAT_ANSWER}
    assert (len(engine.requests), words.count(b"miss")) == (1, 1)
    assert set(words) <= {b"miss", b"coalesced", b"hit"}


async def test_followers_get_the_events_as_they_come_though_the_leader_leaves(
    gateway: GatewayProcess, engine: FakeEngine
) -> None:
    go = asyncio.Event()

    async def slowly(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(HELLO))
        await go.wait()
        writer.write(chunk(FINISH) + chunk(DONE) + STREAM_END)

    engine.behaviour = slowly
    leader = await asyncio.open_connection("127.0.0.1", gateway.port)
    leader[1].write(post(request(stream=True)))
    await leader[0].readuntil(b'"Hi"')
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(post(request(stream=True)))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"x-aigw-cache: coalesced" in head
    await reader.readuntil(b'"Hi"')
    leader[1].close()
    go.set()
    rest = await reader.readuntil(b"[DONE]\n\n")
    assert b'"finish_reason":"stop"' in rest
    writer.close()
    assert len(engine.requests) == 1
    assert (await asked(gateway, request(stream=True)))[1][b"x-aigw-cache"] == b"hit"


async def test_when_the_last_one_leaves_the_engine_is_let_go(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = hangs
    clients = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(3)]
    for _, writer in clients:
        writer.write(post(request()))
    received = await engine.request()
    for _, writer in clients:
        writer.close()
    await asyncio.wait_for(received.gone.wait(), 1.0)
    record = await gateway.record_where(lambda record: (record.error or "").startswith("client_left"))
    assert (record.model, record.cache) == ("m", "miss")


async def test_a_failure_of_the_shared_call_is_not_everybodys(gateway: GatewayProcess, engine: FakeEngine) -> None:
    await gateway.apply(snapshot(backend("one", engine.port), cache=CacheView(memory=2_000_000 + fresh.count)))
    go = asyncio.Event()

    async def fails_once(received: EngineRequest, writer: asyncio.StreamWriter) -> None:
        if received is engine.requests[0]:
            await go.wait()
            writer.write(whole(b'{"error":"boom"}', 500))
        else:
            writer.write(whole())

    engine.behaviour = fails_once
    async with asyncio.TaskGroup() as tasks:
        all_of_them = [tasks.create_task(asked(gateway, request())) for _ in range(5)]
        await engine.request()
        await asyncio.sleep(
            0.2
        )  # the others have joined by now; whoever hasn't asks for itself, which is right as well
        go.set()
    statuses = sorted(task.result()[0] for task in all_of_them)
    assert statuses == [200, 200, 200, 200, 500]


async def test_a_fallbacks_answer_does_not_pose_as_the_first_ones(
    gateway: GatewayProcess, engine: FakeEngine, other: FakeEngine
) -> None:
    engine.behaviour = resets
    fallback = await asked(gateway, request())
    assert fallback[1][b"x-aigw-backend"] == b"two"
    engine.behaviour = says(whole())
    first = await asked(gateway, request())
    assert (first[1][b"x-aigw-cache"], first[1][b"x-aigw-backend"]) == (b"miss", b"one")
    assert len(other.requests) == 1


async def test_a_hit_wakes_no_cold_backend(gateway: GatewayProcess, engine: FakeEngine, other: FakeEngine) -> None:
    await asked(gateway, request())
    view = CacheView(memory=1_000_000 + fresh.count)
    await gateway.apply(over(engine, other, view, State.STOPPED))
    hit = await asked(gateway, request())
    assert (hit[1][b"x-aigw-cache"], len(engine.requests)) == (b"hit", 1)


async def test_deterministic_keeps_only_what_would_come_again(
    gateway: GatewayProcess, engine: FakeEngine, other: FakeEngine
) -> None:
    view = CacheView(memory=3_000_000 + fresh.count, mode="deterministic")
    await gateway.apply(over(engine, other, view))
    words = [
        (await asked(gateway, body))[1][b"x-aigw-cache"]
        for body in (
            request(),
            request(),
            request(temperature=0),
            request(temperature=0),
            request(seed=7),
            request(seed=7),
        )
    ]
    assert words == [b"off", b"off", b"miss", b"hit", b"miss", b"hit"]


async def test_a_wrong_word_is_told_with_the_choices(gateway: GatewayProcess) -> None:
    status, _, body = await asked(gateway, request(), "x-aigw-cache: nope")
    assert (status, b"bypass" in body) == (400, True)
    status, _, body = await asked(gateway, request(cache={"nocache": True}))
    assert (status, b"no-cache" in body) == (400, True)
