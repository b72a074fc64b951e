"""Ollama under the supervisor: whose answer counts, what is adopted, and models that come while it runs."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigw_daemon.home import Home
from aigw_daemon.models.ollama import OllamaPull, pull
from aigw_daemon.supervisor.failures import FailureKind
from aigw_daemon.words import State
from tests.support import ollama_registry
from tests.support.ollama import KINDS, program, served
from tests.support.supervision import fresh_home, profile, supervised
from tests.support.upstream_server import Peer, UpstreamServer
from tests.support.wait import eventually


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@pytest.fixture(params=KINDS)
def binary(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return program(request.param, tmp_path / "bin")


def backend(binary: Path, folder: Path, more: str = "") -> str:
    return f"{{engine: ollama, binary: {binary}, models_dir: {folder}/models, env: {{HOME: {folder}}}{more}}}"


async def test_answer_of_another_server_on_the_port_does_not_make_it_ready(
    home: Home, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is taken between the look and the start: ours ends, and meanwhile the other answers its probe (A16)."""
    with served(binary, tmp_path) as other:
        states = set()

        def state() -> State:
            states.add(made.report("a").state)
            return made.report("a").state

        async with supervised(home) as made:
            monkeypatch.setattr(made.launcher, "port_owner", lambda _: None)
            text = f"backends: {{a: {backend(binary, tmp_path / 'ours', f', port: {other.port}')}}}"
            await made.supervisor.apply(profile(text))
            await eventually(lambda: state() is State.FAILED, what="its failure")
            failed = made.report("a")
        assert State.READY not in states
        assert failed.failure is FailureKind.PORT_TAKEN
        assert f"attach: http://127.0.0.1:{other.port}" in (failed.why or "")
        assert any("address already in use" in line for line in failed.log_tail)
        assert other.answers()


async def test_model_pulled_past_us_is_there_after_a_refresh(home: Home, binary: Path, tmp_path: Path) -> None:
    with ollama_registry.serving() as registry:
        name = registry.offer("small:1", os.urandom(1000))
        async with supervised(home) as made:
            await made.supervisor.apply(profile(f"backends: {{a: {backend(binary, tmp_path)}}}"))
            ready = await made.reaches("a", State.READY)
            assert (ready.models, ready.api_key) == ((), None)
            assert ready.address is not None
            steps = [step async for step in pull(OllamaPull(ready.address.url, name, insecure=True))]
            assert steps[-1].phase == "done"
            await made.supervisor.refresh("a")
            (model,) = made.report("a").models
            assert model.id == name
            assert model.digest is not None
            await made.supervisor.stop(["a"])
            assert [(model.id, model.listed) for model in made.report("a").models] == [(name, False)]
            await made.supervisor.refresh("a")


async def test_frozen_one_stops_all_the_same(home: Home, binary: Path, tmp_path: Path) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend(binary, tmp_path)}}}"))
        await made.reaches("a", State.READY)
        os.kill(made.pid("a"), signal.SIGSTOP)
        await made.supervisor.stop(["a"])
        assert made.processes() == set()


async def test_next_daemon_adopts_it_with_its_models(home: Home, binary: Path, tmp_path: Path) -> None:
    text = f"backends: {{a: {backend(binary, tmp_path)}}}"
    async with supervised(home, stop=False) as before:
        await before.supervisor.apply(profile(text))
        await before.reaches("a", State.READY)
        pid = before.pid("a")
    async with supervised(home) as made:
        await made.supervisor.apply(profile(text))
        await made.reaches("a", State.READY)
        assert made.pid("a") == pid
        assert not made.report("a").stale


async def v1_only(peer: Peer) -> None:
    """What stands before somebody's Ollama and opens nothing but OpenAI's routes."""
    listing = json.dumps({"data": [{"id": "m:latest", "created": 5}]}).encode()
    while True:
        head, _ = await peer.request()
        found = head.startswith(b"GET /v1/models ")
        status, content = (b"200 OK", listing) if found else (b"404 Not Found", b"{}")
        await peer.send(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(content), content))


async def test_attached_one_that_opens_only_openais_routes_is_listed_by_them(home: Home) -> None:
    async with UpstreamServer(v1_only) as server, supervised(home) as made:
        text = f"backends: {{a: {{engine: ollama, attach: 'http://127.0.0.1:{server.port}'}}}}"
        await made.supervisor.apply(profile(text))
        ready = await made.reaches("a", State.READY)
        assert [(model.id, model.created, model.digest) for model in ready.models] == [("m:latest", 5, None)]
        assert ready.loaded == ()


async def test_attached_one_tells_digests(home: Home, binary: Path, tmp_path: Path) -> None:
    with ollama_registry.serving() as registry, served(binary, tmp_path) as other:
        name = registry.offer("small:1", os.urandom(1000))
        assert [step async for step in pull(OllamaPull(other.url, name, insecure=True))][-1].phase == "done"
        async with supervised(home) as made:
            await made.supervisor.apply(profile(f"backends: {{a: {{engine: ollama, attach: '{other.url}'}}}}"))
            (model,) = (await made.reaches("a", State.READY)).models
            assert model.id == name
            assert model.digest is not None
