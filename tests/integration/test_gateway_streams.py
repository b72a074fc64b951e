"""A stream after its first byte: passed on as it arrives, ended whole or with one error, stopped with its client."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import openai
import pytest
import pytest_asyncio

from aigw_daemon.link.messages import GatewayView, Load, Snapshot, Started, Tail
from tests.support.fake_engine import (
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
    says,
    says_and_hangs_up,
    stream,
    whole,
)
from tests.support.gateway import (
    GatewayProcess,
    ask,
    backend,
    data_of,
    gateway_process,
    post,
    route,
    snapshot,
    unchunked,
)
from tests.support.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = b'{"model":"m","messages":[],"stream":true}'
STREAM_WITH_USAGE = b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}'
WHOLE = b'{"model":"m","messages":[]}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_engine() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(b"")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker() -> AsyncIterator[GatewayProcess]:
    async with gateway_process(snapshot()) as running:
        yield running


@pytest.fixture
def engine(running_engine: FakeEngine) -> FakeEngine:
    running_engine.requests.clear()
    return running_engine


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(worker: GatewayProcess, engine: FakeEngine) -> GatewayProcess:
    worker.messages.clear()
    await worker.start_over(over(engine))
    return worker


def over(engine: FakeEngine, timeout: float = 30.0) -> Snapshot:
    """One route to one engine."""
    limits = GatewayView(request_timeout=timeout)
    return snapshot(backend("b", engine.port), routes=[route("m", ("b", "m"))], gateway=limits)


async def events(gateway: GatewayProcess, body: bytes = STREAM) -> bytes:
    """The whole stream as the client gets it."""
    status, _, answer = await ask(gateway.port, post(body))
    assert status == 200
    return unchunked(answer)


@contextlib.asynccontextmanager
async def client(
    gateway: GatewayProcess, body: bytes = STREAM
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client that has asked and may leave at any time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(post(body))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def in_steps(*pieces: bytes, gate: asyncio.Event | None = None) -> Behaviour:
    """Send each piece in a packet of its own; after the first wait for ``gate``."""

    async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        for number, piece in enumerate(pieces):
            if number == 1 and gate is not None:
                await gate.wait()
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.005)  # so that the kernel doesn't join the packets

    return send


async def test_events_arrive_while_the_stream_is_still_running(gateway: GatewayProcess, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.behaviour = in_steps(STREAM_HEAD + chunk(HELLO), chunk(FINISH) + chunk(DONE) + STREAM_END, gate=gate)
    async with client(gateway) as (reader, _):
        await asyncio.wait_for(reader.readuntil(HELLO), 5)
        gate.set()
        await asyncio.wait_for(reader.readuntil(DONE), 5)


async def test_a_streams_headers_say_what_it_is(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    _, headers, _ = await ask(gateway.port, post(STREAM))
    assert headers[b"content-type"] == b"text/event-stream"
    assert headers[b"x-accel-buffering"] == b"no"
    assert headers[b"cache-control"] == b"private, no-store"
    assert headers[b"x-aigw-backend"] == b"b"


async def test_usage_is_asked_for_counted_and_taken_out_again(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, USAGE, DONE))
    _, headers, body = await ask(gateway.port, post(STREAM))
    assert unchunked(body) == HELLO + FINISH + DONE
    assert engine.requests[0].json["stream_options"] == {"include_usage": True}
    record = await gateway.record_of(headers)
    assert (record.prompt_tokens, record.completion_tokens, record.finish_reason) == (3, 2, "stop")
    assert record.ttft_ms is not None
    assert record.stream


async def test_usage_that_the_client_asked_for_is_passed_on(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, USAGE, DONE))
    assert await events(gateway, STREAM_WITH_USAGE) == HELLO + FINISH + USAGE + DONE
    assert engine.requests[0].body == STREAM_WITH_USAGE


@pytest.mark.parametrize("options", ["null", "{}", '{"include_usage":null,"x":1}', '{"continuous_usage_stats":false}'])
async def test_other_stream_options_are_kept(gateway: GatewayProcess, engine: FakeEngine, options: str) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, USAGE, DONE))
    body = f'{{"model":"m","stream":true,"stream_options":{options}}}'.encode()
    assert await events(gateway, body) == HELLO + FINISH + DONE
    asked = engine.requests[0].json["stream_options"]
    assert asked == {**(msgspec.json.decode(options) or {}), "include_usage": True}


async def test_pieces_of_any_size_pass_byte_exact(gateway: GatewayProcess, engine: FakeEngine) -> None:
    odd = (
        (
            b": a comment\n\n"
            b'data: {"choices":[{"index":0,"delta":{"content":"\xc3\xa9\xf0\x9f\x98\x80"}}]}\r\n\r\n'
            b"event: junk\ndata: not json\n\n"
            b'id: 7\ndata: {"choices":[{"index":0,"delta":{"content":"data: [DONE]\\n\\n"},"finish_reason":null}]}\n\n'
        )
        + FINISH
        + DONE
    )
    engine.behaviour = in_steps(STREAM_HEAD, *(chunk(odd[at : at + 3]) for at in range(0, len(odd), 3)), STREAM_END)
    assert await events(gateway) == odd


@pytest.mark.parametrize("options", ['{"include_usage":false,"x":1}', '{"continuous_usage_stats":true}'])
async def test_a_client_that_decides_about_usage_is_obeyed(
    gateway: GatewayProcess, engine: FakeEngine, options: str
) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    body = f'{{"model":"m","stream":true,"stream_options":{options}}}'.encode()
    assert await events(gateway, body) == HELLO + FINISH + DONE
    assert engine.requests[0].body == body


TIMINGS = b'"timings":{"cache_n":1,"prompt_n":2,"predicted_n":2}'
LLAMAS_FINISH = FINISH.replace(b"}]}", b"}]," + TIMINGS + b"}")
LLAMAS_USAGE = USAGE.replace(b"}}", b"}," + TIMINGS + b"}")


async def test_timings_in_the_usage_frame_reach_a_client_that_asked_for_no_usage(
    gateway: GatewayProcess, engine: FakeEngine
) -> None:
    """As in the engine's last event when nobody asks it for usage."""
    engine.behaviour = says(stream(HELLO, FINISH, LLAMAS_USAGE, DONE))
    assert await events(gateway) == HELLO + LLAMAS_FINISH + DONE
    assert await events(gateway, STREAM_WITH_USAGE) == HELLO + FINISH + LLAMAS_USAGE + DONE


async def test_timings_are_counted_where_the_client_forbids_usage(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(stream(HELLO, LLAMAS_FINISH, DONE))
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":false}}'
    _, headers, answer = await ask(gateway.port, post(body))
    assert unchunked(answer) == HELLO + LLAMAS_FINISH + DONE
    record = await gateway.record_of(headers)
    assert (record.prompt_tokens, record.completion_tokens) == (3, 2)


async def test_a_finish_does_not_wait_long_for_a_usage_frame(gateway: GatewayProcess, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.behaviour = in_steps(STREAM_HEAD + chunk(HELLO + FINISH), chunk(DONE) + STREAM_END, gate=gate)
    async with client(gateway) as (reader, _):
        await asyncio.wait_for(reader.readuntil(FINISH), 5)
        gate.set()
        await asyncio.wait_for(reader.readuntil(DONE), 5)


async def test_a_finished_stream_without_its_done_is_ended_for_the_client(
    gateway: GatewayProcess, engine: FakeEngine
) -> None:
    for end in (stream(HELLO, FINISH), stream(HELLO, FINISH, DONE.rstrip()), stream(HELLO, FINISH.rstrip())):
        engine.behaviour = says(end)
        assert await events(gateway) == HELLO + FINISH + DONE
    engine.behaviour = says_and_hangs_up(STREAM_HEAD + chunk(HELLO + FINISH))
    assert await events(gateway) == HELLO + FINISH + DONE


async def heard(gateway: GatewayProcess) -> tuple[str, list[str]]:
    """What OpenAI's client makes of a stream: its text and its finish reasons. Raises what the client raises."""
    text, finishes = "", list[str]()
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        chunks = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        async for each in chunks:
            text += each.choices[0].delta.content or ""
            finishes += [each.choices[0].finish_reason] if each.choices[0].finish_reason else []
    return text, finishes


HALVES = [b'data: {"id":"x', b'data: {"id":"x"}\n', HELLO[:-1], b": comm", b"data: \r", b"event: x\ndata: {\n"]


@pytest.mark.parametrize("half", [*HALVES, b'data: {"x":"' + b"y" * 3_000_000], ids=lambda half: repr(half[:30]))
@pytest.mark.parametrize("reset", [True, False])
async def test_an_error_is_an_event_of_its_own_whatever_was_cut(
    gateway: GatewayProcess, engine: FakeEngine, half: bytes, reset: bool
) -> None:
    cut = STREAM_HEAD + chunk(HELLO + half)
    engine.behaviour = says_and_hangs_up(cut) if reset else says(cut + STREAM_END)
    got = await events(gateway)
    assert got.startswith(HELLO)
    error = msgspec.json.decode(data_of(got)[-1])["error"]
    assert error["code"] == "stream_cut"
    with pytest.raises(openai.APIError, match="the stream of b was cut"):
        await heard(gateway)


async def test_an_event_of_many_mebibytes_passes_and_one_without_end_is_an_error(
    gateway: GatewayProcess, engine: FakeEngine
) -> None:
    def sends(size: int) -> Behaviour:
        large = b'data: {"choices":[],"x":"' + b"y" * size + b'"}\n\n'

        async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD + chunk(HELLO))
            for at in range(0, len(large), 60_000):
                writer.write(chunk(large[at : at + 60_000]))
                await writer.drain()
            writer.write(chunk(FINISH) + chunk(DONE) + STREAM_END)

        return send

    before = resident(gateway.process.pid)
    engine.behaviour = sends(10_000_000)
    got = await events(gateway)
    assert (got[: len(HELLO)], got[-len(FINISH + DONE) :], len(got) > 10_000_000) == (HELLO, FINISH + DONE, True)
    engine.behaviour = sends(60_000_000)
    got = await events(gateway)
    (last,) = data_of(got.removeprefix(HELLO))
    assert "longer than 16 MiB" in msgspec.json.decode(last)["error"]["message"]
    assert resident(gateway.process.pid) - before < 80_000_000


def labelled(content_type: str, *events: bytes) -> bytes:
    """A stream under another label."""
    return stream(*events).replace(b"text/event-stream", content_type.encode())


@pytest.mark.parametrize(
    "answer",
    [
        labelled("application/json", HELLO, FINISH, DONE),
        labelled("text/plain", b"\xef\xbb\xbf" + HELLO, FINISH, DONE),
        labelled("text/event-stream; charset=utf-8", HELLO, FINISH, DONE),
        labelled("application/x-ndjson", b": hi\n\n", HELLO[:2], HELLO[2:], FINISH, DONE),
        labelled("Text/Event-Stream", b"\n", HELLO, FINISH),
    ],
)
async def test_a_stream_is_one_whatever_its_label(gateway: GatewayProcess, engine: FakeEngine, answer: bytes) -> None:
    engine.behaviour = says(answer)
    _, headers, _ = await ask(gateway.port, post(STREAM))
    assert headers[b"content-type"] == b"text/event-stream"
    assert await heard(gateway) == ("Hi", ["stop"])


@pytest.mark.parametrize("label", ["application/json", "text/event-stream", "text/plain"])
async def test_an_answer_in_one_piece_becomes_the_stream_that_was_asked_for(
    gateway: GatewayProcess, engine: FakeEngine, label: str
) -> None:
    engine.behaviour = says(whole().replace(b"application/json", label.encode()))
    _, headers, body = await ask(gateway.port, post(STREAM))
    assert headers[b"content-type"] == b"text/event-stream"
    assert body.endswith(DONE)
    assert b'"usage"' not in body
    record = await gateway.record_of(headers)
    assert (record.prompt_tokens, record.completion_tokens, record.finish_reason) == (3, 2, "stop")
    assert await heard(gateway) == ("Hi", ["stop"])
    with_usage = data_of((await ask(gateway.port, post(STREAM_WITH_USAGE)))[2])
    assert msgspec.json.decode(with_usage[-2])["usage"]["total_tokens"] == 5


@pytest.mark.parametrize("label", ["application/json", "text/event-stream"])
async def test_a_stream_becomes_the_answer_in_one_piece_that_was_asked_for(
    gateway: GatewayProcess, engine: FakeEngine, label: str
) -> None:
    engine.behaviour = says(labelled(label, HELLO, FINISH, USAGE, DONE))
    _, headers, body = await ask(gateway.port, post(WHOLE))
    answer = msgspec.json.decode(body)
    assert headers[b"content-type"] == b"application/json"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hi"}
    assert answer["usage"]["total_tokens"] == 5
    record = await gateway.record_of(headers)
    assert (record.prompt_tokens, record.finish_reason, record.stream) == (3, "stop", False)


@pytest.mark.parametrize(
    "answer",
    [stream(HELLO), stream(HELLO, b'data: {"error":"boom"}\n\n'), stream(HELLO.replace(b'"Hi"', b"[1]"), FINISH)],
)
async def test_a_stream_that_makes_no_whole_answer_is_a_failure(
    gateway: GatewayProcess, engine: FakeEngine, answer: bytes
) -> None:
    engine.behaviour = says(answer)
    assert (await ask(gateway.port, post(WHOLE)))[0] == 500


async def test_what_is_never_streamed_is_no_stream_whatever_is_asked_for(
    gateway: GatewayProcess, engine: FakeEngine
) -> None:
    vectors = b'{"data":[{"embedding":[0.5]}],"usage":{"prompt_tokens":3}}'
    engine.behaviour = says(whole(vectors))
    body = b'{"model":"m","input":"x","stream":true}'
    status, headers, answer = await ask(gateway.port, post(body, "/v1/embeddings"))
    assert (status, answer, headers[b"content-type"]) == (200, vectors, b"application/json")
    assert engine.requests[0].body == body


def refuses_usage(error: bytes, status: int = 400) -> Behaviour:
    """An engine that streams only without ``stream_options``."""

    async def send(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(error, status) if "stream_options" in request.json else stream(HELLO, FINISH, DONE))

    return send


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (b'{"error":{"message":"Unrecognized request argument supplied: stream_options"}}', 400),
        (b'{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs"}]}', 422),
        (b"bad request", 400),
    ],
)
async def test_an_engine_that_refuses_to_count_usage_streams_without(
    gateway: GatewayProcess, engine: FakeEngine, error: bytes, status: int
) -> None:
    engine.behaviour = refuses_usage(error, status)
    assert await heard(gateway) == ("Hi", ["stop"])
    assert await heard(gateway) == ("Hi", ["stop"])
    assert ["stream_options" in request.json for request in engine.requests] == [True, False, False]
    await gateway.start_over(over(engine))
    assert await events(gateway) == HELLO + FINISH + DONE
    assert "stream_options" in engine.requests[3].json


async def test_other_refusals_are_relayed_and_ask_for_usage_again(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(whole(b'{"error":{"message":"top_p is wrong"}}', 400))
    status, _, body = await ask(gateway.port, post(STREAM))
    assert (status, b"top_p is wrong" in body, len(engine.requests)) == (400, True, 2)
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    await events(gateway)
    engine.behaviour = says(whole(b'{"error":{"message":"top_p is wrong"}}', 400))
    await ask(gateway.port, post(STREAM))
    # Nothing is asked twice of an engine that is known to take the field.
    assert ["stream_options" in request.json for request in engine.requests] == [True, False, True, True]
    engine.behaviour = refuses_usage(b'{"error":{"message":"stream_options is wrong"}}')
    status, _, body = await ask(gateway.port, post(STREAM_WITH_USAGE))
    assert (status, b"stream_options is wrong" in body) == (400, True)
    assert len(engine.requests) == 5


def resident(pid: int) -> int:
    """Bytes of memory in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        pytest.param(says(stream(HELLO)), "stream_cut", id="a clean end without a finish_reason"),
        pytest.param(says(stream(HELLO, DONE)), "stream_cut", id="a false [DONE]"),
        pytest.param(
            says(stream(HELLO, b'data: {"object":"error","message":"boom"}\n\n')), "provider_failure", id="vLLM's error"
        ),
        pytest.param(says_and_hangs_up(STREAM_HEAD + chunk(HELLO)), "stream_cut", id="a closed connection"),
        pytest.param(
            says(stream(HELLO, b'data: {"error":{"message":"boom"}}\n\n', DONE)),
            "provider_failure",
            id="an error event",
        ),
        pytest.param(in_steps(STREAM_HEAD + chunk(HELLO), b"zz\r\n"), "stream_cut", id="broken framing"),
    ],
)
async def test_a_cut_stream_ends_with_one_error_and_no_done(
    gateway: GatewayProcess, engine: FakeEngine, behaviour: Behaviour, code: str
) -> None:
    engine.behaviour = behaviour
    _, headers, body = await ask(gateway.port, post(STREAM))
    got = unchunked(body)
    assert got.startswith(HELLO)
    assert b"[DONE]" not in got
    (last,) = data_of(got.removeprefix(HELLO))
    assert msgspec.json.decode(last)["error"]["code"] == code
    record = await gateway.record_of(headers)
    assert record.error is not None
    assert record.error.startswith(code)


async def test_every_choice_must_finish_unless_the_engine_says_that_it_is_done(
    gateway: GatewayProcess, engine: FakeEngine
) -> None:
    second = FINISH.replace(b'"index":0', b'"index":1')
    body = b'{"model":"m","n":2,"stream":true}'
    engine.behaviour = says(stream(HELLO, FINISH))
    assert b"stream_cut" in await events(gateway, body)
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    assert await events(gateway, body) == HELLO + FINISH + DONE
    engine.behaviour = says(stream(HELLO, FINISH, second, DONE))
    assert await events(gateway, body) == HELLO + FINISH + second + DONE


async def test_a_deadline_in_mid_stream_ends_it_with_an_error(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = hangs_in_mid_stream
    await gateway.apply(over(engine, timeout=0.5))
    got = await events(gateway)
    assert msgspec.json.decode(data_of(got)[-1])["error"]["code"] == "timeout"
    await asyncio.wait_for(engine.requests[0].gone.wait(), 1)


async def hangs_after_headers(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD)
    await asyncio.Event().wait()


async def hangs_in_mid_stream(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + chunk(HELLO))
    await asyncio.Event().wait()


async def hangs_in_mid_body(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
    await asyncio.Event().wait()


async def floods(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD)
    while True:
        writer.write(chunk(HELLO * 100))
        await writer.drain()


@pytest.mark.parametrize(
    ("behaviour", "body"),
    [
        pytest.param(hangs, STREAM, id="waiting for headers"),
        pytest.param(hangs_after_headers, STREAM, id="waiting for the first event"),
        pytest.param(hangs_in_mid_stream, STREAM, id="in mid-stream"),
        pytest.param(floods, STREAM, id="in mid-stream and behind"),
        pytest.param(hangs, WHOLE, id="not streamed, waiting for headers"),
        pytest.param(hangs_in_mid_body, WHOLE, id="not streamed, in mid-body"),
    ],
)
async def test_a_client_that_leaves_stops_the_generation_within_a_second(
    gateway: GatewayProcess, engine: FakeEngine, behaviour: Behaviour, body: bytes
) -> None:
    engine.behaviour = behaviour
    async with client(gateway, body) as (reader, _):
        await engine.request()
        if behaviour in {hangs_in_mid_stream, floods}:
            await reader.readuntil(HELLO)
        await eventually(lambda: in_flight(gateway) == {"b": 1}, what="the load of one request")
    await asyncio.wait_for(engine.requests[0].gone.wait(), 1.0)
    record = await gateway.record_where(lambda record: (record.error or "").startswith("client_left"))
    assert (record.model, record.stream) == ("m", body is STREAM)
    await eventually(lambda: in_flight(gateway) == {"b": 0}, what="no load")


def in_flight(gateway: GatewayProcess) -> dict[str, int]:
    """As the daemon was told last."""
    loads = gateway.said(Load)
    return loads[-1].in_flight if loads else {}


async def test_hundreds_of_clients_that_leave_leave_nothing_behind(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = hangs_in_mid_stream
    before = sockets(gateway.process.pid)

    async def come_and_go(number: int) -> None:
        async with client(gateway):
            await asyncio.sleep(number % 50 / 1000)  # a moment of its own for each

    async with asyncio.TaskGroup() as tasks:
        for number in range(300):
            tasks.create_task(come_and_go(number))
    await eventually(lambda: all(request.gone.is_set() for request in engine.requests), what="all upstreams closed")
    await eventually(lambda: sockets(gateway.process.pid) <= before, what="all sockets closed")
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    assert await events(gateway) == HELLO + FINISH + DONE


def sockets(pid: int) -> int:
    """Open sockets of a process."""
    links = (path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink())
    return sum(str(link).startswith("socket:") for link in links)


async def test_a_client_that_reads_nothing_holds_back_the_engine(gateway: GatewayProcess, engine: FakeEngine) -> None:
    sent = 0

    async def flood(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(STREAM_HEAD)
        while True:
            writer.write(chunk(HELLO * 1000))
            await writer.drain()
            sent += 1

    engine.behaviour = flood
    before = resident(gateway.process.pid)
    async with client(gateway):
        await engine.request()
        seen = -1
        while seen != sent:
            seen = sent
            await asyncio.sleep(0.3)  # it is held back once nothing more is taken for a while
        assert resident(gateway.process.pid) - before < 20_000_000


async def test_starts_are_told_only_while_somebody_tails(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    await events(gateway)
    gateway.push(Tail(on=True))
    await gateway.apply(over(engine))
    await events(gateway)
    await eventually(lambda: len(gateway.said(Started)) == 1, what="one start")
    gateway.push(Tail(on=False))
    await gateway.apply(over(engine))
    await events(gateway)
    assert len(gateway.said(Started)) == 1


async def test_an_http_1_0_client_gets_a_stream_that_ends_with_its_connection(
    gateway: GatewayProcess, engine: FakeEngine
) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    head = f"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: {len(STREAM)}\r\n\r\n".encode()
    status, headers, body = await ask(gateway.port, head + STREAM)
    assert (status, body) == (200, HELLO + FINISH + DONE)
    assert b"transfer-encoding" not in headers
