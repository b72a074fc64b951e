"""The Node `openai` client against the whole of aigw."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.aigw import MODEL, Aigw
from tests.support.engines import node, node_clients
from tests.support.llamacpp import ENDLESS, chat, stops, works

CLIENT = """
import OpenAI from 'openai';
const client = new OpenAI({ baseURL: process.env.URL, apiKey: 'not-needed', maxRetries: 0, timeout: 60000 });
const body = JSON.parse(process.env.BODY);
"""

WHOLE = "console.log(JSON.stringify(await client.chat.completions.create(body)));"

STREAM = """
const chunks = [];
for await (const chunk of await client.chat.completions.create(body)) chunks.push(chunk);
console.log(JSON.stringify(chunks));
"""

ABORT = """
const stream = await client.chat.completions.create(body);
for await (const chunk of stream) {
  console.log('began');
  await new Promise((done) => process.stdin.once('data', done));
  break;  // the documented way to end a stream early: it aborts the request
}
console.log('left');
await new Promise((done) => process.stdin.once('data', done));
process.exit(0);
"""

REFUSED = """
try {
  await client.chat.completions.create(body);
} catch (error) {
  console.log(JSON.stringify({ name: error.constructor.name, status: error.status, code: error.code }));
}
"""

MODELS = """
const names = [];
for await (const model of client.models.list()) names.push(model.id);
console.log(JSON.stringify([names, (await client.models.retrieve(body.model)).owned_by]));
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a module finds the clients."""
    (tmp_path / "node_modules").symlink_to(node_clients() / "node_modules")
    return tmp_path


def program(whole: Aigw, folder: Path, code: str, body: dict[str, Any]) -> subprocess.Popen[str]:
    """A Node program with a client and a request's body."""
    (folder / "client.mjs").write_text(CLIENT + code)
    return subprocess.Popen(
        [str(node()), "client.mjs"],
        cwd=folder,
        env={**whole.env, "URL": f"{whole.url}/v1", "BODY": json.dumps(body)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(whole: Aigw, folder: Path, code: str, body: dict[str, Any]) -> Any:
    """What such a program prints."""
    with program(whole, folder, code, body) as running:
        said, _ = running.communicate(timeout=90)
    return json.loads(said)


def test_a_chat_is_answered(either: Aigw, folder: Path) -> None:
    told = answer(either, folder, WHOLE, chat())
    assert told["choices"][0]["message"]["role"] == "assistant"
    assert told["usage"]["completion_tokens"] > 0


def test_a_chat_is_streamed(either: Aigw, folder: Path) -> None:
    chunks = answer(either, folder, STREAM, chat(stream=True, stream_options={"include_usage": True}))
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]][-1]
    assert chunks[-1]["usage"]["total_tokens"] > 0


def test_a_stream_that_is_left_ends_the_generation(either: Aigw, folder: Path, engine: httpx.Client) -> None:
    with program(either, folder, ABORT, chat(stream=True, **ENDLESS)) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == "began\n"
        works(engine)
        print(file=running.stdin, flush=True)
        assert running.stdout.readline() == "left\n"
        stops(either, engine)
        print(file=running.stdin, flush=True)


def test_an_unknown_model_is_the_clients_not_found(either: Aigw, folder: Path) -> None:
    told = answer(either, folder, REFUSED, chat() | {"model": "invalid-model"})
    assert told == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}


def test_models_are_listed_and_retrieved(either: Aigw, folder: Path) -> None:
    names, owner = answer(either, folder, MODELS, chat())
    assert sorted(names) == ["chat", MODEL]
    assert owner == "llamacpp"
