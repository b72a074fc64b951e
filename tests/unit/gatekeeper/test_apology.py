"""While no worker lives, clients are told so in OpenAI's envelope, and the sockets stay usable afterwards."""

import json
import socket

import httpx

from aigw_daemon.gatekeeper.apology import apologizing
from aigw_daemon.gatekeeper.crashes import CRASHES, WINDOW_SECONDS, CrashWindow
from aigw_daemon.gatekeeper.listeners import bind


async def test_every_request_gets_503_with_the_reason_and_when_to_come_back() -> None:
    (listener,) = bind([("127.0.0.1", 0)])
    port = listener.getsockname()[1]
    async with apologizing([listener], "no worker stays alive", 30), httpx.AsyncClient() as client:
        for _ in range(3):
            answer = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json={"model": "m"})
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "30"
            assert answer.json()["error"]["message"] == "no worker stays alive"
            assert set(json.loads(answer.content)["error"]) == {"message", "type", "param", "code"}
    socket.create_connection(("127.0.0.1", port), timeout=2).close()
    listener.close()


async def test_a_caller_that_says_nothing_or_garbage_breaks_nothing() -> None:
    (listener,) = bind([("127.0.0.1", 0)])
    port = listener.getsockname()[1]
    async with apologizing([listener], "sorry", 1), httpx.AsyncClient() as client:
        socket.create_connection(("127.0.0.1", port)).close()
        with socket.create_connection(("127.0.0.1", port)) as garbage:
            garbage.sendall(b"\x00" * 200_000)
        assert (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 503
    listener.close()


def test_five_crashes_in_a_minute_are_too_many() -> None:
    window = CrashWindow()
    assert [window.add(float(second)) for second in range(CRASHES)] == [False] * (CRASHES - 1) + [True]


def test_crashes_far_apart_are_not() -> None:
    window = CrashWindow()
    assert not any(window.add(number * WINDOW_SECONDS / 3) for number in range(20))
