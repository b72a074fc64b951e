"""curl against the whole of aigw: streams, old HTTP, bodies that wait for a go-ahead, connections that stay."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.aigw import MODEL, Aigw
from tests.support.llamacpp import ENDLESS, chat, stops, works

JSON = "Content-Type: application/json"


def curl(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run curl, which must succeed."""
    return subprocess.run(
        ["curl", "-sS", "--max-time", str(seconds), *arguments], capture_output=True, text=True, check=True
    )


def posting(whole: Aigw, body: dict[str, Any], path: str = "chat/completions") -> list[str]:
    """The arguments of a request."""
    return ["-H", JSON, "-d", json.dumps(body), f"{whole.url}/v1/{path}"]


def events(text: str) -> list[str]:
    """The data of each server-sent event."""
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


def test_a_stream_comes_whole(either: Aigw) -> None:
    told = events(curl("-N", *posting(either, chat(stream=True))).stdout)
    assert told[-1] == "[DONE]"
    assert json.loads(told[-2])["choices"][0]["finish_reason"]


def test_a_stream_comes_while_the_engine_still_works_and_ends_with_its_reader(
    either: Aigw, engine: httpx.Client
) -> None:
    arguments = posting(either, chat(stream=True, **ENDLESS))
    with subprocess.Popen(["curl", "-sSN", *arguments], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline().startswith("data: ")
        works(engine)
        reader.kill()
    stops(either, engine)


def test_http_1_0_is_answered_and_the_connection_closed(either: Aigw) -> None:
    said = curl("--http1.0", "-i", *posting(either, chat())).stdout
    head, _, body = said.replace("\r\n", "\n").partition("\n\n")
    assert " 200 " in head.splitlines()[0]
    assert "transfer-encoding" not in head.lower()
    assert json.loads(body)["choices"][0]["finish_reason"]


def test_http_1_0_gets_a_stream_that_ends_with_the_connection(either: Aigw) -> None:
    said = curl("--http1.0", "-N", "-i", *posting(either, chat(stream=True))).stdout
    assert "transfer-encoding" not in said.lower()
    assert events(said)[-1] == "[DONE]"


@pytest.mark.parametrize("size", [100_000, 2_000_000])
def test_a_large_body_is_sent_once_the_gateway_says_go_on(either: Aigw, tmp_path: Path, size: int) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps(chat(metadata={"pad": "x" * size})))
    done = curl(
        "-v", "-H", JSON, "-H", "Expect: 100-continue", "--expect100-timeout", "30",
        "--data-binary", f"@{body}", f"{either.url}/v1/chat/completions",
    )  # fmt: skip
    assert "HTTP/1.1 100 Continue" in done.stderr
    assert json.loads(done.stdout)["choices"][0]["finish_reason"]


def test_a_chunked_body_is_taken(either: Aigw) -> None:
    said = curl("-H", "Transfer-Encoding: chunked", *posting(either, chat())).stdout
    assert json.loads(said)["choices"][0]["finish_reason"]


def test_who_takes_compressed_answers_can_read_them(either: Aigw) -> None:
    said = curl("--http1.1", "--compressed", *posting(either, chat())).stdout
    assert json.loads(said)["choices"][0]["finish_reason"]


def test_a_connection_serves_one_request_after_another(either: Aigw) -> None:
    again = ["--next", "-sS", "-o", "/dev/null", "-w", "%{num_connects} "]
    first = ["-o", "/dev/null", "-w", "%{num_connects} "]
    said = curl(
        *first, *posting(either, chat(max_tokens=1)),
        *again, *posting(either, chat(max_tokens=1, stream=True)),
        *again, *posting(either, {"model": "nobody", "messages": []}),
        *again, f"{either.url}/health",
    ).stdout  # fmt: skip
    assert said.split() == ["1", "0", "0", "0"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_both_loopbacks_answer(either: Aigw, host: str) -> None:
    listed = json.loads(curl(f"http://{host}:{either.port}/v1/models").stdout)
    assert MODEL in [model["id"] for model in listed["data"]]


def test_another_host_name_is_turned_away(either: Aigw) -> None:
    said = curl("-H", "Host: rebound.example", f"{either.url}/v1/models").stdout
    assert json.loads(said)["error"]["code"] == "host_not_allowed"
