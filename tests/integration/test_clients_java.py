"""Java's own HTTP client, as it comes: each request of it offers to go on in HTTP/2."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.aigw import Aigw
from tests.support.engines import CHECKOUT
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import backend, gateway_process, route, snapshot
from tests.support.llamacpp import chat

pytestmark = pytest.mark.program("javac")

WAYS = ("whole", "chunks", "expect")
CLIENT = CHECKOUT / "tests" / "support" / "java" / "Client.java"


async def answers(url: str, body: dict[str, Any], folder: Path) -> list[str]:
    """What the client got, sending the body in each way on one connection: the statuses are checked."""
    (folder / "body.json").write_text(json.dumps(body))
    program = await asyncio.create_subprocess_exec(
        "java", str(CLIENT), f"{url}/v1/chat/completions", str(folder / "body.json"), *WAYS,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(90):
        said, _ = await program.communicate()
    lines = [line.split(" ", 2) for line in said.decode().splitlines()]
    assert [line[:2] for line in lines] == [["200", "HTTP_1_1"]] * len(WAYS)
    return [line[2] for line in lines]


async def test_a_chat_is_answered(running: Aigw, tmp_path: Path) -> None:
    for answer in await answers(running.url, chat(max_tokens=2), tmp_path):
        assert json.loads(answer)["choices"][0]["message"]["role"] == "assistant"


async def test_a_chat_is_streamed(running: Aigw, tmp_path: Path) -> None:
    for answer in await answers(running.url, chat(stream=True, max_tokens=2), tmp_path):
        assert answer.startswith("data: ")
        assert answer.rstrip("\\n").endswith("data: [DONE]")


async def test_a_large_body_arrives_whole(first: FakeEngine, tmp_path: Path) -> None:
    """Of more packets than one, and more than what may wait."""
    body = {"model": "m", "messages": [{"role": "user", "content": "häß " * 600_000}]}
    one = snapshot(backend("one", first.port), routes=[route("m", ("one", "m"))])
    async with gateway_process(one) as gateway:
        await answers(gateway.url, body, tmp_path)
    assert [request.json for request in first.requests] == [body] * len(WAYS)
