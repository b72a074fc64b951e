"""Before the first byte every failure goes to the next candidate; a spent chain says what each attempt met."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from time import monotonic

import msgspec
import pytest
import pytest_asyncio

from aigw_daemon.link.messages import BackendView, Demand, GatewayView, Secret, Snapshot
from aigw_daemon.words import EngineKind, State
from tests.support.fake_engine import (
    CHAT_ANSWER,
    DONE,
    FINISH,
    HELLO,
    STREAM_HEAD,
    USAGE,
    Behaviour,
    FakeEngine,
    chunk,
    fake_engine,
    hangs,
    resets,
    says,
    says_and_hangs_up,
    stream,
    whole,
)
from tests.support.gateway import GatewayProcess, ask, backend, gateway_process, post, route, snapshot, unchunked
from tests.support.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = b'{"model":"m","messages":[],"temperature":0.5}'
STREAM = b'{"model":"m","messages":[],"stream":true}'
REFUSING_PORT = 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def first() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def second() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker() -> AsyncIterator[GatewayProcess]:
    async with gateway_process(snapshot()) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(worker: GatewayProcess, first: FakeEngine, second: FakeEngine) -> GatewayProcess:
    """The worker with a route over both engines, nothing remembered of the test before."""
    for engine in (first, second):
        engine.behaviour = says(whole())
        engine.requests.clear()
    worker.messages.clear()
    await worker.start_over(over(backend("one", first.port), backend("two", second.port, models=["m2"])))
    return worker


def over(*backends: BackendView, cold: str = "wait", timeout: float = 30.0) -> Snapshot:
    """A snapshot with the one route over two engines."""
    targets = route("m", ("one", "m"), ("two", "m2"), cold=cold)
    return snapshot(*backends, routes=[targets], gateway=GatewayView(request_timeout=timeout))


def error_of(body: bytes) -> dict[str, str]:
    """What the envelope says."""
    found = msgspec.json.decode(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return dict(found)


@pytest.mark.parametrize(
    "failing",
    [
        pytest.param(resets, id="reset"),
        pytest.param(says_and_hangs_up(b""), id="closed without an answer"),
        pytest.param(says_and_hangs_up(whole()[:-5]), id="truncated"),
        pytest.param(says(b"not HTTP at all\r\n\r\n"), id="not HTTP"),
        pytest.param(says(whole(b"")), id="empty answer"),
        pytest.param(says(whole(b"<html>")), id="an answer that is no JSON"),
        pytest.param(says(whole(b'{"error":{"message":"out of memory"}}')), id="an error inside a 200"),
        pytest.param(says(whole(b'{"choices":[{"finish_reason":"\xff"}]}')), id="an answer that is no UTF-8"),
        pytest.param(says(whole(b'{"error":' + b"[" * 5_000 + b"]" * 5_000 + b"}")), id="an error nested too deeply"),
        pytest.param(says(whole(b'{"error":{"message":"\xff"}}', 500)), id="500 that is no UTF-8"),
        pytest.param(says(whole(b'{"error":"boom"}', 500)), id="500"),
        pytest.param(says(whole(b"", 502)), id="502"),
        pytest.param(says(whole(b'{"error":"loading"}', 503)), id="503"),
        pytest.param(says(whole(b'{"error":"slow down"}', 429)), id="429"),
        pytest.param(says(whole(b'{"error":"who are you"}', 401)), id="401"),
        pytest.param(says(whole(b'{"error":"no"}', 403)), id="403"),
        pytest.param(says(whole(b'{"error":"no such model"}', 404)), id="404"),
        pytest.param(says(whole(b"{}")), id="an answer without choices"),
        pytest.param(says(whole(b'{"object":"error","message":"boom","code":500}')), id="an error without the word"),
        pytest.param(says(whole(b'{"id":"x","choices":[],"usage":{"prompt_tokens":3}}')), id="no choice"),
        pytest.param(says(whole(b'{"id":"x","choices":null}')), id="choices that are null"),
        pytest.param(says(whole(b'{"choices":[null]}')), id="a choice that is null"),
        pytest.param(says(whole(b'[{"error":{"message":"boom","code":500}}]')), id="an error in an array"),
        pytest.param(
            says(whole(b'{"error":{"message":"TPM","code":"rate_limit_exceeded"}}', 413)), id="413 that limits"
        ),
        pytest.param(says(whole(b"", 302, "location: http://127.0.0.1:9/")), id="a redirect"),
    ],
)
async def test_a_failure_before_the_first_byte_falls_back(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine, failing: Behaviour
) -> None:
    first.behaviour = failing
    status, headers, body = await ask(gateway.port, post(ASK))
    assert (status, body) == (200, CHAT_ANSWER)
    assert headers[b"x-aigw-backend"] == b"two"
    assert headers[b"x-aigw-model"] == b"m2"
    assert headers[b"x-aigw-attempts"] == b"2"
    assert second.requests[0].json == {"model": "m2", "messages": [], "temperature": 0.5}


@pytest.mark.parametrize(
    "failing",
    [
        pytest.param(says(STREAM_HEAD + chunk(b'data: {"error":{"message":"boom"}}\n\n')), id="an error event first"),
        pytest.param(says(stream(DONE)), id="only [DONE]"),
        pytest.param(says(stream(b"data: {}\n\n", DONE)), id="an empty event"),
        pytest.param(says(stream(b'data: {"choices":[]}\n\n', DONE)), id="no choices"),
        pytest.param(says(stream(b'data: {"choices":null}\n\n', USAGE, DONE)), id="null for choices"),
        pytest.param(says(stream(b'data: {"object":"error","message":"boom"}\n\n', DONE)), id="an error by its object"),
        pytest.param(says(stream(b'data: {"detail":"boom"}\n\n')), id="an error of another shape"),
        pytest.param(says(stream(b'event: error\ndata: {"message":"boom"}\n\n')), id="an error by its event"),
        pytest.param(says(stream(HELLO[:-5])), id="half an event"),
        pytest.param(says(whole(b'{"error":"boom"}')), id="an error in one piece"),
        pytest.param(says(whole(b"")), id="nothing in one piece"),
        pytest.param(says(whole(CHAT_ANSWER.replace(b'"Hi"', b"[1]"))), id="one piece that makes no stream"),
        pytest.param(says(stream(b": comment\n\n")), id="only a comment"),
        pytest.param(says_and_hangs_up(STREAM_HEAD), id="cut before the first event"),
        pytest.param(says(whole(b'{"error":"boom"}', 500)), id="500"),
    ],
)
async def test_a_stream_that_fails_before_its_first_event_falls_back(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine, failing: Behaviour
) -> None:
    first.behaviour = failing
    second.behaviour = says(stream(HELLO, FINISH, DONE))
    status, headers, body = await ask(gateway.port, post(STREAM))
    assert status == 200
    assert headers[b"x-aigw-backend"] == b"two"
    assert unchunked(body) == HELLO + FINISH + DONE


async def test_a_refused_connection_falls_back(gateway: GatewayProcess, second: FakeEngine) -> None:
    await gateway.apply(over(backend("one", REFUSING_PORT), backend("two", second.port, models=["m2"])))
    status, headers, _ = await ask(gateway.port, post(ASK))
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_the_clients_own_fault_is_relayed_and_not_retried(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine, status: int
) -> None:
    first.behaviour = says(whole(b'{"error":{"code":400,"message":"too hot","type":"BadRequestError"}}', status))
    got, headers, body = await ask(gateway.port, post(ASK))
    assert got == status
    assert error_of(body)["message"] == "too hot"
    assert error_of(body)["type"] == "BadRequestError"
    assert b"x-should-retry" not in headers
    assert second.requests == []


async def test_a_bare_string_error_is_put_into_the_envelope(gateway: GatewayProcess, first: FakeEngine) -> None:
    first.behaviour = says(whole(b'{"error":"invalid options"}', 400))
    _, _, body = await ask(gateway.port, post(ASK))
    assert error_of(body) == {
        "message": "invalid options",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request",
    }


async def test_an_engines_own_fields_are_relayed(gateway: GatewayProcess, first: FakeEngine) -> None:
    said = b'{"error":{"code":400,"message":"odd","type":"t","param":"top_k","hint":"use 40","limit":7,"at":{"x":1}}}'
    first.behaviour = says(whole(said, 400))
    _, _, body = await ask(gateway.port, post(ASK))
    envelope = {"message": "odd", "type": "t", "param": "top_k", "code": "invalid_request"}
    assert msgspec.json.decode(body)["error"] == {**envelope, "hint": "use 40", "limit": 7}


KEY = "sk-of-a-provider"
REPEATS_KEY = b'{"error":{"message":"bad key: Bearer KEY","code":"KEY","hint":"is it KEY?"}}'.replace(
    b"KEY", KEY.encode()
)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(whole(REPEATS_KEY, 400), b"bad key: Bearer ***", id="relayed"),
        pytest.param(whole(REPEATS_KEY, 401), b"it answered 401: bad key: Bearer ***", id="not relayed"),
        pytest.param(whole(REPEATS_KEY), b"its answer is an error: bad key: Bearer ***", id="inside a 200"),
        pytest.param(stream(b"data: %b\n\n" % REPEATS_KEY), b"bad key: Bearer ***", id="at a stream's beginning"),
        pytest.param(stream(HELLO, b"data: %b\n\n" % REPEATS_KEY), b"bad key: Bearer ***", id="in mid-stream"),
    ],
)
async def test_a_key_that_a_provider_repeats_reaches_neither_client_nor_record(
    gateway: GatewayProcess, first: FakeEngine, answer: bytes, said: bytes
) -> None:
    keyed = msgspec.structs.replace(backend("one", first.port), api_key=Secret(KEY))
    await gateway.apply(over(keyed))
    first.behaviour = says(answer)
    _, headers, body = await ask(gateway.port, post(STREAM))
    assert f"authorization: bearer {KEY}".encode() in first.requests[0].head.lower()
    assert said in body
    assert KEY.encode() not in body
    record = await gateway.record_of(headers)
    assert "***" in (record.error or "")
    assert KEY not in (record.error or "")


async def test_nothing_reachable_is_503_with_retry_after(gateway: GatewayProcess) -> None:
    await gateway.apply(
        over(backend("one", REFUSING_PORT), backend("two", 9, models=["m2"], state=State.FAILED, why="no such file"))
    )
    began = monotonic()
    status, headers, body = await ask(gateway.port, post(ASK))
    assert status == 503
    assert monotonic() - began < 1.0
    assert int(headers[b"retry-after"]) > 0
    assert b"x-should-retry" not in headers
    assert "connection refused" in error_of(body)["message"]
    assert "two: failed: no such file" in error_of(body)["message"]


async def test_providers_that_fail_are_500_and_not_worth_a_retry(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = says(whole(b'{"error":"boom one"}', 500))
    second.behaviour = resets
    status, headers, body = await ask(gateway.port, post(ASK))
    assert status == 500
    assert headers[b"x-should-retry"] == b"false"
    assert error_of(body)["code"] == "provider_failure"
    assert "boom one" in error_of(body)["message"]
    assert "two: " in error_of(body)["message"]


async def test_providers_that_are_all_limited_are_429_with_the_shortest_wait(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = says(whole(b'{"error":"slow"}', 429, "retry-after: 30"))
    second.behaviour = says(whole(b'{"error":"slow"}', 429, "retry-after: 7"))
    status, headers, _ = await ask(gateway.port, post(ASK))
    assert (status, headers[b"retry-after"]) == (429, b"7")


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("retry-after: 7.5", b"8"),
        ("retry-after-ms: 6200", b"7"),
        ("retry-after: Sat, 28 Nov 2026 08:50:07 GMT\r\ndate: Sat, 28 Nov 2026 08:49:37 GMT", b"30"),
        ("retry-after: soon", b"40"),
    ],
)
async def test_a_retry_after_in_any_form_is_told_in_whole_seconds(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine, line: str, seconds: bytes
) -> None:
    first.behaviour = says(whole(b'{"error":"slow"}', 429, *line.split("\r\n")))
    second.behaviour = says(whole(b'{"error":"slow"}', 429, "retry-after: 40"))
    status, headers, _ = await ask(gateway.port, post(ASK))
    assert (status, headers[b"retry-after"]) == (429, seconds)


async def test_a_backend_is_left_alone_as_long_as_its_date_says(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine
) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    first.behaviour = says(whole(b'{"error":"slow"}', 429, f"retry-after: {until}"))
    for _ in range(2):
        status, headers, _ = await ask(gateway.port, post(ASK))
        assert (status, headers[b"x-aigw-backend"]) == (200, b"two")
    assert (len(first.requests), len(second.requests)) == (1, 2)


async def test_upstream_401_and_404_never_reach_the_client_as_such(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine
) -> None:
    first.behaviour = says(whole(b'{"error":"bad key"}', 401))
    second.behaviour = says(whole(b'{"error":"no such model"}', 404))
    status, _, _ = await ask(gateway.port, post(ASK))
    assert status == 500


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_one_deadline_holds_over_all_attempts(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine, body: bytes
) -> None:
    first.behaviour = second.behaviour = hangs
    await gateway.apply(over(backend("one", first.port), backend("two", second.port, models=["m2"]), timeout=0.5))
    began = monotonic()
    status, headers, answer = await ask(gateway.port, post(body))
    assert status == 504
    assert headers[b"x-should-retry"] == b"false"
    assert error_of(answer)["code"] == "timeout"
    assert monotonic() - began < 3.0
    await asyncio.wait_for((await first.request()).gone.wait(), 1.0)


async def test_an_unknown_model_is_404_with_the_nearest_names(gateway: GatewayProcess, first: FakeEngine) -> None:
    status, _, body = await ask(gateway.port, post(b'{"model":"m22","messages":[]}'))
    assert status == 404
    assert error_of(body)["code"] == "model_not_found"
    assert error_of(body)["message"].startswith("Model 'm22' not found")
    assert "m2" in error_of(body)["message"]
    assert first.requests == []


async def test_a_model_that_the_engine_does_not_serve_is_never_asked_of_it(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine
) -> None:
    await gateway.apply(over(backend("one", first.port, models=["other"]), backend("two", second.port, models=["m2"])))
    status, headers, _ = await ask(gateway.port, post(ASK))
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")
    assert first.requests == []


async def test_a_cold_backend_is_demanded_and_waited_for(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine
) -> None:
    ready = backend("two", second.port, models=["m2"])
    await gateway.apply(over(backend("one", first.port, state=State.STOPPED), ready))
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ask(gateway.port, post(ASK)))
        await eventually(lambda: gateway.said(Demand), what="a demand")
        await gateway.apply(over(backend("one", first.port, state=State.STARTING), ready))
        assert not asking.done()
        await gateway.apply(over(backend("one", first.port), ready))
    status, headers, _ = asking.result()
    assert (status, headers[b"x-aigw-backend"]) == (200, b"one")
    assert gateway.said(Demand)[0] == Demand("one", "m")


async def test_a_start_that_fails_falls_back(gateway: GatewayProcess, first: FakeEngine, second: FakeEngine) -> None:
    ready = backend("two", second.port, models=["m2"])
    await gateway.apply(over(backend("one", first.port, state=State.STARTING), ready))
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ask(gateway.port, post(ASK)))
        await asyncio.sleep(0.1)  # it may not answer yet; nothing shows that it waits
        assert not asking.done()
        await gateway.apply(over(backend("one", first.port, state=State.FAILED), ready))
    assert asking.result()[1][b"x-aigw-backend"] == b"two"


async def test_bridge_answers_from_the_next_while_the_first_starts(
    gateway: GatewayProcess, first: FakeEngine, second: FakeEngine
) -> None:
    ready = backend("two", second.port, models=["m2"])
    await gateway.apply(over(backend("one", first.port, state=State.STOPPED), ready, cold="bridge"))
    status, headers, _ = await ask(gateway.port, post(ASK))
    assert (status, headers[b"x-aigw-backend"]) == (200, b"two")
    await eventually(lambda: gateway.said(Demand), what="a demand")


async def test_reject_answers_503_at_once_and_still_demands(gateway: GatewayProcess, first: FakeEngine) -> None:
    await gateway.apply(over(backend("one", first.port, state=State.STOPPED), cold="reject"))
    status, headers, _ = await ask(gateway.port, post(ASK))
    assert (status, b"retry-after" in headers) == (503, True)
    await eventually(lambda: gateway.said(Demand), what="a demand")


async def test_a_stop_by_the_operator_holds_against_demand(gateway: GatewayProcess, first: FakeEngine) -> None:
    await gateway.apply(over(backend("one", first.port, state=State.STOPPED, wanted=False)))
    status, _, body = await ask(gateway.port, post(ASK))
    assert status == 503
    assert "stopped by the operator" in error_of(body)["message"]
    assert gateway.said(Demand) == []


async def test_an_engine_that_closed_its_idle_connection_costs_no_attempt(
    gateway: GatewayProcess, first: FakeEngine
) -> None:
    first.behaviour = says_and_hangs_up(whole())
    for _ in range(3):
        status, headers, _ = await ask(gateway.port, post(ASK))
        assert (status, headers[b"x-aigw-attempts"]) == (200, b"1")


async def test_what_goes_upstream_is_built_by_the_gateway(gateway: GatewayProcess, first: FakeEngine) -> None:
    await ask(
        gateway.port, post(ASK, "/v1/chat/completions", "authorization: Bearer sk-secret", "x-private: 1", "te: x")
    )
    head = first.requests[0].head.lower()
    assert head.startswith(b"post /v1/chat/completions http/1.1\r\n")
    assert b"sk-secret" not in head
    assert b"x-private" not in head
    assert b"\r\nte:" not in head
    assert f"host: 127.0.0.1:{first.port}".encode() in head
    assert b"user-agent: aigw/" in head


async def test_the_bytes_of_a_request_pass_untouched(gateway: GatewayProcess, first: FakeEngine) -> None:
    odd = b'{ "model" : "m",\n "x_unknown": {"\xc3\xa9": [1.50, 1e3, null]}, "messages": [ ] }'
    await ask(gateway.port, post(odd))
    assert first.requests[0].body == odd


@pytest.mark.parametrize("prefix", ["/v1", ""])
@pytest.mark.parametrize("endpoint", ["chat/completions", "completions"])
async def test_each_endpoint_reaches_its_own_upstream_path(
    gateway: GatewayProcess, first: FakeEngine, prefix: str, endpoint: str
) -> None:
    status, _, _ = await ask(gateway.port, post(ASK, f"{prefix}/{endpoint}"))
    assert status == 200
    assert first.requests[0].head.startswith(f"POST /v1/{endpoint} ".encode())


async def test_an_engines_own_routes_are_out_of_reach(gateway: GatewayProcess, first: FakeEngine) -> None:
    for path in ("/api/delete", "/v1/load_lora_adapter", "/sleep", "/v1/chat/completions/../../sleep", "/invocations"):
        status, _, _ = await ask(gateway.port, post(ASK, path))
        assert status == 404, path
    assert first.requests == []


async def test_a_record_says_what_happened(gateway: GatewayProcess, first: FakeEngine) -> None:
    first.behaviour = says(whole(b'{"error":"boom"}', 500))
    _, headers, _ = await ask(gateway.port, post(ASK))
    record = await gateway.record_of(headers)
    assert (record.model, record.backend, record.upstream_model, record.attempts) == ("m", "two", "m2", 2)
    assert (record.status, record.stream, record.finish_reason) == (200, False, "stop")
    assert (record.prompt_tokens, record.completion_tokens) == (3, 2)
    assert 0 < record.overhead_ms < record.duration_ms
    assert record.error is None


async def test_an_answers_headers_say_what_happened(gateway: GatewayProcess) -> None:
    _, headers, _ = await ask(gateway.port, post(ASK))
    assert headers[b"x-aigw-cache"] == b"off"
    assert headers[b"cache-control"] == b"private, no-store"
    assert float(headers[b"x-aigw-overhead-ms"]) >= 0


async def test_a_large_body_is_parsed_and_rewritten_aside(gateway: GatewayProcess, second: FakeEngine) -> None:
    content = "x" * 2_000_000
    body = msgspec.json.encode({"model": "two/m2", "messages": [{"role": "user", "content": content}], "stream": False})
    status, _, _ = await ask(gateway.port, post(body))
    assert status == 200
    assert second.requests[0].json["model"] == "m2"
    assert len(second.requests[0].body) > 2_000_000


async def test_ollamas_names_without_a_tag_mean_latest(gateway: GatewayProcess, first: FakeEngine) -> None:
    await gateway.apply(snapshot(backend("one", first.port, models=["llama:latest"], engine=EngineKind.OLLAMA)))
    status, headers, _ = await ask(gateway.port, post(b'{"model":"llama","messages":[]}'))
    assert (status, headers[b"x-aigw-model"]) == (200, b"llama:latest")


async def test_a_picture_for_models_without_eyes_is_the_clients_to_change(
    gateway: GatewayProcess, first: FakeEngine
) -> None:
    blind = msgspec.structs.replace(backend("one", first.port).models[0], capabilities=("chat",))
    only = msgspec.structs.replace(backend("one", first.port), models=(blind,))
    await gateway.apply(snapshot(only))
    body = b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}'
    status, headers, answer = await ask(gateway.port, post(body))
    assert (status, b"retry-after" in headers) == (400, False)
    assert "lacks vision" in error_of(answer)["message"]
    assert first.requests == []


WELL = b'{"choices":[{"index":%b,"message":{"content":"\\ud83d"},"finish_reason" : "stop"}],"usage":%b}'


@pytest.mark.parametrize(
    ("index", "usage", "tokens"),
    [
        (b"0", b'{"prompt_tokens":1.0,"completion_tokens":2}', (1, 2)),
        (b"null", b'{"prompt_tokens":1,"completion_tokens":"two"}', (1, None)),
        (b'"0"', b'{"prompt_tokens":-1,"completion_tokens":1e400}', (None, None)),
        (b"0.0", b'["none"]', (None, None)),
    ],
)
async def test_what_is_only_noted_breaks_no_answer(
    gateway: GatewayProcess, first: FakeEngine, index: bytes, usage: bytes, tokens: tuple[int | None, int | None]
) -> None:
    answer = WELL % (index, usage)
    first.behaviour = says(whole(answer))
    status, headers, body = await ask(gateway.port, post(ASK))
    assert (status, headers[b"x-aigw-backend"], body) == (200, b"one", answer)
    record = await gateway.record_of(headers)
    assert (record.prompt_tokens, record.completion_tokens, record.finish_reason) == (*tokens, "stop")
    event = b"data: " + answer.replace(b'"message"', b'"delta"') + b"\n\n"
    first.behaviour = says(stream(event, DONE))
    _, headers, body = await ask(gateway.port, post(STREAM))
    assert unchunked(body) == event + DONE
    record = await gateway.record_of(headers)
    assert (record.prompt_tokens, record.completion_tokens, record.finish_reason) == (*tokens, "stop")
    assert record.error is None


async def test_half_an_emoji_reaches_the_engine_as_it_was_written(gateway: GatewayProcess, first: FakeEngine) -> None:
    body = rb'{"model":"m","messages":[{"role":"user","content":"cut \ud83d"}]}'
    status, _, _ = await ask(gateway.port, post(body))
    assert (status, first.requests[0].body) == (200, body)
    renamed = body.replace(b'"m"', b'"one/m"')
    status, _, _ = await ask(gateway.port, post(renamed))
    assert status == 200
    assert json.loads(first.requests[1].body) == json.loads(body)
    assert rb'"content":"cut \ud83d"' in first.requests[1].body


async def test_what_is_no_utf_8_reaches_no_engine(gateway: GatewayProcess, first: FakeEngine) -> None:
    status, _, answer = await ask(gateway.port, post(b'{"model":"m","messages":[{"content":"\xff"}]}'))
    assert (status, error_of(answer)["code"], first.requests) == (400, "invalid_json", [])
    assert "byte 0xff at offset 37" in error_of(answer)["message"]


async def test_a_field_that_is_missing_is_named(gateway: GatewayProcess) -> None:
    status, _, answer = await ask(gateway.port, post(b'{"messages":[]}'))
    assert (status, error_of(answer)["param"]) == (400, "model")


async def test_a_short_deadline_of_the_clients_own_is_kept(gateway: GatewayProcess, first: FakeEngine) -> None:
    first.behaviour = hangs
    asked = ask(gateway.port, post(ASK, "/v1/chat/completions", "x-aigw-timeout: 20ms"))
    assert (await asyncio.wait_for(asked, 1.0))[0] == 504
