"""A plain HTTP client against the whole of aigw: what goes through it is the engine's own, byte for byte."""

import json
from typing import Any

import httpx

from tests.support.aigw import Aigw
from tests.support.llamacpp import ENDLESS, chat, stops, works
from tests.support.wait import eventually_now

EXACT: dict[str, Any] = {"temperature": 0, "seed": 7, "cache_prompt": False, "max_tokens": 6}
"""The engine says the same again."""
OF_THE_MOMENT = ("id", "created", "timings")


def lasting(body: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs each time."""
    return {key: value for key, value in body.items() if key not in OF_THE_MOMENT}


def test_an_answer_is_the_engines_own(either: Aigw, engine: httpx.Client) -> None:
    through = httpx.post(f"{either.url}/v1/chat/completions", json=chat(**EXACT), timeout=60)
    direct = engine.post("/v1/chat/completions", json=chat(**EXACT), timeout=60)
    assert lasting(through.json()) == lasting(direct.json())
    assert list(through.json()) == list(direct.json())


def test_the_events_of_a_stream_are_the_engines_own(either: Aigw, engine: httpx.Client) -> None:
    body = chat(stream=True, **EXACT)
    through = httpx.post(f"{either.url}/v1/chat/completions", json=body, timeout=60)
    direct = engine.post("/v1/chat/completions", json=body, timeout=60)
    assert [shape(event) for event in events(through.text)] == [shape(event) for event in events(direct.text)]


def events(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


def shape(event: str) -> Any:
    return event if event == "[DONE]" else lasting(json.loads(event))


def test_a_stream_is_not_held_back_by_anybody_on_the_way(either: Aigw) -> None:
    answer = httpx.post(f"{either.url}/v1/chat/completions", json=chat(stream=True), timeout=60)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "private, no-store"


def test_the_key_of_the_engine_is_nobodys_to_see(either: Aigw, engine: httpx.Client) -> None:
    key = engine.headers["authorization"].removeprefix("Bearer ")
    assert httpx.post(f"{engine.base_url}/v1/chat/completions", json=chat(), timeout=30).status_code == 401
    other = {"Authorization": "Bearer other"}
    answer = httpx.post(f"{either.url}/v1/chat/completions", json=chat(), headers=other, timeout=60)
    assert answer.status_code == 200
    assert key not in f"{answer.headers}{answer.text}{either.status()}{either.log('aigwd')}{either.log('llamacpp')}"


def test_a_connection_that_breaks_ends_the_generation(either: Aigw, engine: httpx.Client) -> None:
    body = json.dumps(chat(stream=True, **ENDLESS)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with either.connect() as connection:
        connection.sendall(head.encode() + body)
        works(engine)
    stops(either, engine)


def test_counts_in_flight_are_those_of_the_moment(either: Aigw, engine: httpx.Client) -> None:
    with httpx.stream("POST", f"{either.url}/v1/chat/completions", json=chat(stream=True, **ENDLESS)) as answer:
        received = answer.iter_raw()  # held: httpx closes the connection with its iterator
        next(received)
        eventually_now(lambda: either.backend()["in_flight"] == 1, what="one in flight")
        assert httpx.get(f"{either.url}/health", timeout=2).json()["status"] == "ok"
    stops(either, engine)
