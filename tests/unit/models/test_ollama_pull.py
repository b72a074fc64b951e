"""Pulls through an Ollama whose lines a test writes: what they add up to, and every way in which they fail."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest

from aigw_daemon.models.ollama import OllamaPull, pull
from aigw_daemon.models.ollama_names import check_name, full_name
from aigw_daemon.models.request import PullError, PullProgress
from tests.support.aigw import free_port
from tests.support.upstream_server import Peer, UpstreamServer

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SUCCESS = [{"status": "verifying sha256 digest"}, {"status": "writing manifest"}, {"status": "success"}]


def layer(digest: str, total: int, completed: int | None = None) -> dict[str, object]:
    line: dict[str, object] = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": total}
    return line if completed is None else {**line, "completed": completed}


class Script:
    """An Ollama that answers a pull with these lines, and is asked for its models before and after."""

    def __init__(self, lines: Sequence[object], *, digests: Sequence[str] = ("", "d"), status: str = "200 OK") -> None:
        self.lines = lines
        self.digests = list(digests)
        self.status = status
        self.hold = False
        """Stay silent after the lines, until the client leaves."""
        self.cut = False
        self.asked: dict[str, object] = {}
        self.left = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            if head.startswith(b"GET /api/tags"):
                await peer.send(self._tags())
            else:
                self.asked = json.loads(body)
                await self._pull(peer)

    def _tags(self) -> bytes:
        digest = self.digests.pop(0)
        models = [{"name": "m:latest", "digest": digest}] if digest else []
        return answer("200 OK", json.dumps({"models": models}).encode())

    async def _pull(self, peer: Peer) -> None:
        content = b"".join(
            line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in self.lines
        )
        if self.hold or self.cut:
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n" + content)
            if self.hold:
                await peer.client_left()
                self.left.set()
            peer.close()
        else:
            await peer.send(answer(self.status, content))


def answer(status: str, content: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


@asynccontextmanager
async def running(script: Script) -> AsyncIterator[str]:
    async with UpstreamServer(script) as server:
        yield f"http://127.0.0.1:{server.port}"


async def steps_of(script: Script, *, insecure: bool = False) -> list[PullProgress]:
    async with running(script) as base:
        return [step async for step in pull(OllamaPull(base, "m", insecure))]


async def failure_of(script: Script) -> PullError:
    with pytest.raises(PullError) as caught:
        await steps_of(script)
    return caught.value


async def test_layers_are_summed_up_by_digest() -> None:
    lines = [
        {"status": "pulling manifest"},
        layer(A, 100),
        layer(A, 100, 40),
        layer(A, 100, 100),
        layer(B, 10, 10),
        layer(A, 100, 100),
    ]
    steps = await steps_of(Script([*lines, *SUCCESS]))
    assert [(step.phase, step.done_bytes, step.total_bytes) for step in steps] == [
        ("resolving", 0, None),
        ("downloading", 0, 100),
        ("downloading", 40, 100),
        ("downloading", 100, 100),
        ("downloading", 110, 110),
        ("downloading", 110, 110),
        ("verifying", 110, 110),
        ("verifying", 110, 110),
        ("done", 110, 110),
    ]
    assert {step.model for step in steps} == {"m:latest"}
    assert not steps[-1].already


async def test_same_digest_before_and_after_was_there_already() -> None:
    assert (await steps_of(Script(SUCCESS, digests=("d", "d"))))[-1].already
    assert not (await steps_of(Script(SUCCESS, digests=("c", "d"))))[-1].already


async def test_request_names_the_model_and_says_insecure_only_when_asked() -> None:
    script = Script(SUCCESS)
    await steps_of(script)
    assert script.asked == {"model": "m", "insecure": False}
    script = Script(SUCCESS)
    await steps_of(script, insecure=True)
    assert script.asked == {"model": "m", "insecure": True}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("pull model manifest: file does not exist", "not_found"),
        ("digest mismatch, file must be downloaded again: want a, got b", "checksum"),
        ('Get "https://r/v2/": dial tcp 127.0.0.1:9: connect: connection refused', "network"),
        ("write blob: no space left on device", "no_space"),
        ("something new", "tool"),
    ],
)
async def test_error_line_in_a_200_is_a_failure(said: str, reason: str) -> None:
    error = await failure_of(Script([{"status": "pulling manifest"}, layer(A, 9, 9), {"error": said}]))
    assert error.reason == reason
    assert said in str(error)


async def test_refusal_by_status_is_a_failure() -> None:
    error = await failure_of(Script([{"error": "invalid model name"}], status="400 Bad Request"))
    assert error.reason == "invalid"
    assert "answers 502" in str(await failure_of(Script([b"<html>"], status="502 Bad Gateway")))


async def test_end_without_success_is_a_failure() -> None:
    error = await failure_of(Script([{"status": "pulling manifest"}, layer(A, 9, 9)]))
    assert "without saying that it succeeded" in str(error)


async def test_cut_connection_is_a_failure() -> None:
    script = Script([layer(A, 9, 3)])
    script.cut = True
    assert (await failure_of(script)).reason == "network"


async def test_what_is_no_progress_is_a_failure() -> None:
    assert "not answer as Ollama does" in str(await failure_of(Script([b"[]\n"])))


async def test_ollama_that_is_not_there_is_told() -> None:
    base = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(PullError, match="cannot reach the Ollama") as caught:
        [step async for step in pull(OllamaPull(base, "m"))]
    assert caught.value.reason == "network"


async def test_leaving_closes_the_connection_at_once() -> None:
    script = Script([layer(A, 9, 3)])
    script.hold = True
    async with running(script) as base, aclosing(pull(OllamaPull(base, "m"))) as steps:
        await anext(steps)
        await steps.aclose()
        async with asyncio.timeout(2):
            await script.left.wait()


@pytest.mark.parametrize(
    "name",
    ["llama3.1", "llama3.1:8b", "team/model:1", "hf.co/user/repo:Q4_K_M", "127.0.0.1:5000/library/smollm2:135m", "_a"],
)
def test_names_of_ollamas_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a b", "a/b/c/d", "http://h/n/m", "../x", "a:", "a:b:c", "a\n", "x" * 81, "n.s/m", "a;b", "é"]
)
async def test_what_is_no_name_is_refused_before_anything_is_asked(name: str) -> None:
    with pytest.raises(PullError, match="a model of Ollama is named") as caught:
        [step async for step in pull(OllamaPull("http://127.0.0.1:1", name))]
    assert caught.value.reason == "invalid"


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        ("m", "m:latest"),
        ("m:1", "m:1"),
        ("library/m", "m:latest"),
        ("registry.ollama.ai/library/m:1", "m:1"),
        ("registry.ollama.ai/team/m", "team/m:latest"),
        ("127.0.0.1:5000/library/m", "127.0.0.1:5000/library/m:latest"),
    ],
)
def test_name_as_ollama_lists_it(asked: str, listed: str) -> None:
    assert full_name(asked) == listed


async def test_a_line_ends_where_json_ends_it_however_it_arrives() -> None:
    name = "a\u2028b\u2029c\x85d"
    said = json.dumps({"status": f"pulling {name}"}, ensure_ascii=False).encode() + b"\r\n"
    steps = await steps_of(Script([said[:12], said[12:], *SUCCESS]))
    assert steps[0].message == f"pulling {name}"
    assert steps[-1].phase == "done"
