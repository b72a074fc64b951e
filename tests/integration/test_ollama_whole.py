"""Ollama in a whole aigw: its stand-in and, where it is on the PATH, the real one."""

import json
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import APIError

from tests.support import ollama_registry, ollama_standin, stub_engine
from tests.support.aigw import Aigw
from tests.support.engines import smollm2
from tests.support.ollama import KINDS, Server, program, served
from tests.support.ollama_registry import Registry
from tests.support.wait import eventually_now


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with ollama_registry.serving() as found:
        found.offer_file("smollm2:latest", smollm2())
        yield found


@pytest.fixture(params=KINDS)
def binary(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return program(request.param, tmp_path / "bin")


@pytest.fixture
def standin(tmp_path: Path) -> Path:
    return ollama_standin.install(tmp_path / "bin")


def write(aigw: Aigw, backend: str, more: str = "") -> Path:
    text = f"""\
        version: 1
        gateway: {{port: {aigw.port}}}
        restart: {{crash_exits: 1000, failed_starts: 1000}}
        backends:
          ollama: {backend}
        """
    return aigw.write_profile(textwrap.dedent(text) + more)


def up(aigw: Aigw, binary: Path, more: str = "", port: int = 0) -> None:
    models, fixed = aigw.folder / "ollama-models", f", port: {port}" if port else ""
    backend = f"{{engine: ollama, binary: {binary}, models_dir: {models}, env: {{HOME: {aigw.folder}}}{fixed}{more}}}"
    aigw.run("up", "--profile", str(write(aigw, backend)))


def pull(aigw: Aigw, registry: Registry, model: str = "smollm2") -> str:
    name = registry.name(model)
    aigw.run("pull", name, "--backend", "ollama", "--insecure")
    return name


def said(aigw: Aigw, model: str, **more: Any) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 5, **more}
    return httpx.post(f"{aigw.url}/v1/chat/completions", json=body, timeout=60)


def leader(aigw: Aigw) -> psutil.Process:
    return psutil.Process(aigw.backend("ollama")["pid"])


def test_pulled_model_is_listed_asked_for_at_once_and_shown_as_loaded(
    aigw: Aigw, binary: Path, registry: Registry
) -> None:
    up(aigw, binary)
    assert aigw.backend("ollama")["models"] == []
    name = registry.name("smollm2")
    events = aigw.events("pull", name, "--backend", "ollama", "--insecure")
    assert events[-1]["phase"] == "done"
    assert events[-1]["model"] == f"{name}:latest"
    assert not events[-1]["already"]
    # At once, and by the name without its tag.
    assert said(aigw, name).json()["choices"][0]["message"]["content"]
    assert f"{name}:latest" in [model.id for model in aigw.openai().models.list().data]
    shown = aigw.backend("ollama")
    assert shown["models"] == [f"{name}:latest"]
    assert aigw.events("pull", name, "--backend", "ollama", "--insecure")[-1]["already"]
    eventually_now(lambda: aigw.backend("ollama")["loaded"], seconds=20, what="the loaded model in the status")
    (loaded,) = aigw.backend("ollama")["loaded"]
    assert (loaded["name"], loaded["context"]) == (f"{name}:latest", 4096)
    assert loaded["memory_bytes"] > 1_000_000


def test_model_that_came_and_went_without_us_is_noticed(aigw: Aigw, binary: Path, registry: Registry) -> None:
    up(aigw, binary)
    name = f"{pull(aigw, registry)}:latest"
    address = aigw.backend("ollama")["address"]
    httpx.request("DELETE", f"{address}/api/delete", json={"model": name}, timeout=10).raise_for_status()
    eventually_now(lambda: not aigw.backend("ollama")["models"], seconds=20, what="the model leaving the status")
    eventually_now(lambda: said(aigw, name).status_code == 404, what="the gateway not knowing it any more")


def test_killed_runner_ends_the_stream_with_an_error_and_the_next_request_is_answered(
    aigw: Aigw, binary: Path, registry: Registry
) -> None:
    up(aigw, binary)
    name = pull(aigw, registry)
    with aigw.openai() as client:
        stream = client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": "Count to a thousand."}],
            max_tokens=2000,
            stream=True,
        )
        next(stream)
        (runner,) = leader(aigw).children()
        runner.kill()
        with pytest.raises(APIError):
            list(stream)
    assert said(aigw, name).status_code == 200


def test_runner_of_a_killed_leader_is_swept_before_the_next_start(aigw: Aigw, binary: Path, registry: Registry) -> None:
    up(aigw, binary)
    name = pull(aigw, registry)
    assert said(aigw, name).status_code == 200
    first = leader(aigw)
    (runner,) = first.children()
    eventually_now(lambda: len(aigw.processes("ollama")) == 2, what="leader and runner")
    first.kill()
    eventually_now(lambda: aigw.backend("ollama")["restarts"] == 1, what="the restart")
    eventually_now(lambda: aigw.backend("ollama")["state"] == "ready", what="ready again")
    assert not runner.is_running()
    assert [process.pid for process in aigw.processes("ollama")] == [leader(aigw).pid]
    assert said(aigw, name).status_code == 200
    assert len(aigw.processes("ollama")) == 2


def test_frozen_runner_behind_a_healthy_server_is_found_by_progress_and_replaced(
    aigw: Aigw, binary: Path, registry: Registry, foreign: Server
) -> None:
    name = f"{registry.name('smollm2')}:latest"
    more = f"""\
  house: {{engine: ollama, attach: '{foreign.url}'}}
routes:
  chat: {{targets: [{{backend: ollama, model: "{name}"}}, {{backend: house, model: "{name}"}}]}}
"""
    section = f"binary: {binary}, models_dir: {aigw.folder}/models, env: {{HOME: {aigw.folder}}}, hang_timeout: 2s"
    aigw.run("up", "--profile", str(write(aigw, f"{{engine: ollama, {section}}}", more)))
    pull(aigw, registry)
    assert said(aigw, "chat").headers["x-aigw-backend"] == "ollama"
    server = leader(aigw)
    (runner,) = server.children()
    runner.suspend()
    address = aigw.backend("ollama")["address"]
    answer = said(aigw, "chat")
    assert (answer.status_code, answer.headers["x-aigw-backend"]) == (200, "house")
    assert "failed liveness probes" not in aigw.log("aigwd")
    eventually_now(lambda: aigw.backend("ollama")["state"] == "ready", what="the fresh one", seconds=20)
    assert not server.is_running()
    assert not runner.is_running()
    assert httpx.get(f"{address}/api/version", timeout=10).status_code == httpx.codes.OK
    told = aigw.json("why", "ollama")
    assert (told["well"], told["failure"]) == (True, "hung")
    assert told["sentence"].endswith("hung: 1 request in flight and no progress for 2 s")
    words = [event["event"] for event in aigw.events("events", "ollama")]
    assert [word for word in words if word != "sweep"] == ["start", "ready", "hung", "restart", "ready"]
    assert said(aigw, "chat").headers["x-aigw-backend"] == "ollama"


def test_what_an_attached_one_loads_shows_within_seconds_of_a_request(
    aigw: Aigw, binary: Path, registry: Registry, tmp_path: Path
) -> None:
    with served(binary, tmp_path) as server:
        aigw.run("up", "--profile", str(write(aigw, f"{{engine: ollama, attach: '{server.url}'}}")))
        name = pull(aigw, registry)
        # The next probe is ten seconds away: what is seen before comes of the request.
        assert said(aigw, name).status_code == 200
        eventually_now(lambda: aigw.backend("ollama")["loaded"], seconds=4, what="the loaded model in the status")
        assert f"loaded {name}:latest" in aigw.run("status").stdout


def test_what_is_loaded_shows_within_seconds_of_a_request(aigw: Aigw, binary: Path, registry: Registry) -> None:
    up(aigw, binary)
    name = pull(aigw, registry)
    assert said(aigw, name).status_code == 200
    eventually_now(lambda: aigw.backend("ollama")["loaded"], seconds=6, what="the loaded model in the status")
    assert f"loaded {name}:latest" in aigw.run("status").stdout


def test_ollama_makes_way_for_another_of_its_group_and_its_models_bring_it_back(
    aigw: Aigw, binary: Path, registry: Registry
) -> None:
    section = f"binary: {binary}, models_dir: {aigw.folder}/models, env: {{HOME: {aigw.folder}}}, group: gpu0"
    engine, model = stub_engine.install(aigw.folder / "stub"), aigw.folder / "m.gguf"
    model.write_bytes(b"GGUF")
    more = f"  other: {{engine: llamacpp, binary: {engine}, model: {model}, start: on_demand, group: gpu0}}\n"
    aigw.run("up", "--profile", str(write(aigw, f"{{engine: ollama, {section}}}", more)))
    name = pull(aigw, registry)
    assert said(aigw, name).status_code == 200
    assert said(aigw, "m").headers["x-aigw-backend"] == "other"
    assert aigw.processes("ollama") == []
    assert f"{name}:latest" in [model.id for model in aigw.openai().models.list().data]
    assert said(aigw, name).headers["x-aigw-backend"] == "ollama"
    assert [event["event"] for event in aigw.events("events", "ollama")].count("evicted") == 1
    assert aigw.processes("other") == []


def test_stop_takes_leader_and_runners_along(aigw: Aigw, binary: Path, registry: Registry) -> None:
    up(aigw, binary)
    assert said(aigw, pull(aigw, registry)).status_code == 200
    aigw.run("stop", "ollama")
    assert aigw.processes("ollama") == []
    failed = aigw.run("pull", "m", "--backend", "ollama", code=1)
    assert "the backend ollama is stopped" in failed.stderr
    assert "'aigw start ollama' starts it" in failed.stderr


# --- one that somebody else runs


@pytest.fixture
def foreign(binary: Path, tmp_path: Path, registry: Registry) -> Iterator[Server]:
    """An Ollama that is not aigw's, with the model."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    with served(binary, folder) as server:
        body = {"model": registry.name("smollm2"), "insecure": True, "stream": False}
        server.post("/api/pull", body).raise_for_status()
        yield server


def test_attached_one_is_routed_pulled_into_and_never_stopped(aigw: Aigw, foreign: Server, registry: Registry) -> None:
    name = registry.name("smollm2")
    aigw.run("up", "--profile", str(write(aigw, f"{{engine: ollama, attach: '{foreign.url}'}}")))
    shown = aigw.backend("ollama")
    assert (shown["models"], shown["pid"]) == ([f"{name}:latest"], None)
    assert said(aigw, name).status_code == 200
    more = registry.offer("more:1", os.urandom(1000))
    pull(aigw, registry, "more:1")
    assert set(aigw.backend("ollama")["models"]) == {more, f"{name}:latest"}
    aigw.run("down")
    assert foreign.answers()


def test_port_of_a_foreign_one_is_told_with_the_way_to_attach(aigw: Aigw, foreign: Server, binary: Path) -> None:
    with pytest.raises(AssertionError, match="ended with 1"):
        up(aigw, binary, port=foreign.port)
    why = aigw.backend("ollama")["why"]
    assert f"port {foreign.port} is taken by" in why
    assert f"(PID {foreign.process.pid}" in why
    assert "answers as ollama does" in why
    assert f"attach: http://127.0.0.1:{foreign.port}" in why
    assert foreign.answers()


# --- faults that only the stand-in shows on demand


def test_install_without_its_runner_fails_the_request_and_falls_back(
    aigw: Aigw, standin: Path, registry: Registry, foreign: Server
) -> None:
    env = f"{{HOME: {aigw.folder}, OLLAMA_STANDIN_NO_RUNNER: '1'}}"
    name = f"{registry.name('smollm2')}:latest"
    more = f"""\
  house: {{engine: ollama, attach: '{foreign.url}'}}
routes:
  chat: {{targets: [{{backend: ollama, model: "{name}"}}, {{backend: house, model: "{name}"}}]}}
"""
    backend = f"{{engine: ollama, binary: {standin}, models_dir: {aigw.folder}/models, env: {env}}}"
    aigw.run("up", "--profile", str(write(aigw, backend, more)))
    pull(aigw, registry)
    answer = said(aigw, "chat")
    assert (answer.status_code, answer.headers["x-aigw-backend"]) == (200, "house")
    alone = said(aigw, f"ollama/{name}")
    assert alone.status_code == 500
    assert "llama-server binary not found" in json.dumps(alone.json())


def test_interrupted_pull_stops_and_the_next_one_goes_on(aigw: Aigw, standin: Path, registry: Registry) -> None:
    up(aigw, standin)
    name = registry.offer("slow:1", os.urandom(8_000_000))
    registry.bytes_per_second = 2_000_000
    partial = aigw.folder / "ollama-models" / "blobs"
    try:
        with aigw.started("pull", name, "--backend", "ollama", "--insecure", "--json") as pulling:
            pulling.says('"downloading"')
            eventually_now(lambda: [path for path in partial.glob("*-partial") if path.stat().st_size > 10**6])
            assert pulling.interrupt() == 130
            assert f"aigw pull {name} --backend ollama" in pulling.text()
        (part,) = partial.glob("*-partial")
        kept = part.stat().st_size
        assert 10**6 < kept < 8 * 10**6
    finally:
        registry.bytes_per_second = None
    registry.ranges.clear()
    pull(aigw, registry, "slow:1")
    begins = [int(wanted.removeprefix("bytes=").partition("-")[0]) for wanted in registry.ranges]
    assert max(begins) >= kept
    assert name in aigw.backend("ollama")["models"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["none:1"], 1, "its registry has no such model"),
        (["a b"], 1, "a model of Ollama is named"),
        (["m", "--sha256", "ab"], 2, "leave --sha256 and --name out"),
        (["m", "--backend", "nobody"], 4, "there is no backend"),
    ],
)
def test_pull_that_cannot_be_is_told(
    running_standin: Aigw, registry: Registry, words: list[str], code: int, says: str
) -> None:
    named = [registry.name(word) if word == "none:1" else word for word in words]
    done = running_standin.run("pull", "--backend", "ollama", "--insecure", *named, code=code)
    assert says in done.stderr


def test_model_that_may_be_ollamas_is_told_how_to_pull(running_standin: Aigw) -> None:
    assert "'aigw pull llama3.1 --backend ollama'" in running_standin.run("pull", "llama3.1", code=4).stderr
    assert "--backend" in running_standin.run("pull", "llama3.1", "--insecure", code=2).stderr


@pytest.fixture(scope="module")
def running_standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aigw]:
    """An aigw with an Ollama that has no model."""
    whole = Aigw(tmp_path_factory.mktemp("aigw"))
    try:
        up(whole, ollama_standin.install(whole.folder / "bin"))
        yield whole
    finally:
        whole.end()
