"""What aigw relies on in Ollama: the same assertions on the stand-in and, where it is on the PATH, on the real one."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from aigw_daemon.profile.backends import OllamaBackend
from aigw_daemon.supervisor.engines.ollama import OllamaEngine
from aigw_daemon.supervisor.failures import FailureKind, classify
from aigw_daemon.words import EngineKind
from tests.support import ollama_registry
from tests.support.engines import smollm2
from tests.support.ollama import KINDS, Server, program, served
from tests.support.ollama_registry import Registry
from tests.support.wait import eventually_now

SECTION = OllamaBackend(engine=EngineKind.OLLAMA)


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with ollama_registry.serving() as found:
        found.offer_file("smollm2:135m", smollm2())
        yield found


@pytest.fixture(scope="module", params=KINDS)
def binary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(request.param, tmp_path_factory.mktemp("bin"))


@pytest.fixture(scope="module")
def shared(binary: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the small model, for tests that leave it as it is."""
    with served(binary, tmp_path_factory.mktemp("shared")) as server:
        assert pulled(server, registry.name("smollm2:135m"))[-1] == {"status": "success"}
        yield server


@pytest.fixture
def own(binary: Path, shared: Server, tmp_path: Path) -> Iterator[Server]:
    """A server for a test that ends it, with the model of the other."""
    (tmp_path / "models").symlink_to(shared.log.with_name("models"))
    with served(binary, tmp_path) as server:
        yield server


@pytest.fixture
def empty(binary: Path, tmp_path: Path) -> Iterator[Server]:
    """A server without a model."""
    with served(binary, tmp_path) as server:
        yield server


@pytest.fixture
def model(registry: Registry) -> str:
    return registry.name("smollm2:135m")


def pulled(server: Server, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.events("/api/pull", {"model": name, "insecure": True})]


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Count to a thousand."}], **more}


def begun(server: Server, model: str) -> tuple[Iterator[str], str]:
    """A long stream, and its first event."""
    events = server.events("/v1/chat/completions", chat(model, stream=True, max_tokens=2000))
    return events, next(events)


def data(lines: list[str]) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


# --- what it answers


def test_it_says_its_version_and_that_it_runs(shared: Server) -> None:
    assert shared.get("/api/version").json()["version"]
    assert shared.get("/").text == "Ollama is running"


def test_engine_reads_name_digest_time_and_capabilities_off_its_list(shared: Server, model: str) -> None:
    (view,) = OllamaEngine().models(SECTION, shared.get("/api/tags").json(), {"models": []})
    assert view.id == model
    assert view.digest is not None
    assert len(view.digest) == 64
    assert abs(view.created - time.time()) < 600
    assert view.capabilities == ("chat", "completions")
    assert shared.get("/v1/models").json()["data"][0]["id"] == model


def test_loaded_model_is_listed_with_memory_and_context_and_runs_in_the_leaders_group(
    shared: Server, model: str
) -> None:
    answer = shared.post("/api/generate", {"model": model, "keep_alive": "10m"}).json()
    assert (answer["done"], answer["done_reason"]) == (True, "load")
    (loaded,) = OllamaEngine().loaded(shared.get("/api/ps").json())
    assert loaded.name == model
    assert loaded.memory_bytes > 1_000_000
    assert loaded.context == 4096
    (runner,) = shared.runners()
    assert (os.getpgid(runner.pid), os.getsid(runner.pid)) == (shared.process.pid, shared.process.pid)


def test_unloaded_model_is_listed_as_loaded_no_more(shared: Server, model: str) -> None:
    shared.post("/api/generate", {"model": model})
    assert shared.post("/api/generate", {"model": model, "keep_alive": 0}).json()["done_reason"] == "unload"
    assert OllamaEngine().loaded(shared.get("/api/ps").json()) == ()


def test_stream_ends_with_a_finish_reason_usage_and_done(shared: Server, model: str) -> None:
    body = chat(model, stream=True, max_tokens=3, stream_options={"include_usage": True})
    lines = list(shared.events("/v1/chat/completions", body))
    events = data(lines)
    assert lines[-1] == "data: [DONE]"
    assert [event["choices"][0]["finish_reason"] for event in events if event["choices"]][-1] == "length"
    assert events[-1]["usage"]["completion_tokens"] == 3
    assert events[-1]["choices"] == []


def test_answer_at_once_has_text_and_usage(shared: Server, model: str) -> None:
    answer = shared.post("/v1/chat/completions", chat(model, max_tokens=3)).json()
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["model"] == model


def test_completion_without_a_prompt_only_loads(shared: Server, model: str) -> None:
    answer = shared.post("/v1/completions", {"model": model})
    assert (answer.status_code, answer.json()["choices"][0]["finish_reason"]) == (200, "load")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_unknown_model_is_404_in_openais_shape(shared: Server, path: str) -> None:
    answer = shared.post(path, chat("nope", input="x"))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (404, "not_found_error", None)


def test_unknown_path_is_404_in_plain_text(shared: Server) -> None:
    answer = shared.get("/nope")
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (404, "text/plain")


# --- processes and signals


def test_sigterm_ends_it_with_0_and_cuts_streams_and_takes_its_runners_along(own: Server, model: str) -> None:
    events, _ = begun(own, model)
    (runner,) = own.runners()
    own.process.send_signal(signal.SIGTERM)
    with pytest.raises(httpx.TransportError):
        assert "data: [DONE]" not in list(events)
    assert own.process.wait(10) == 0
    eventually_now(lambda: not psutil.pid_exists(runner.pid), what="the runner's end")


def test_runner_outlives_its_killed_leader_and_the_port_is_free(own: Server, model: str) -> None:
    own.post("/api/generate", {"model": model})
    (runner,) = own.runners()
    try:
        own.process.kill()
        own.process.wait()
        eventually_now(lambda: runner.ppid() != own.process.pid, what="the runner being orphaned")
        assert not own.answers()
        assert runner.is_running()
        assert runner.status() != psutil.STATUS_ZOMBIE
        assert os.getsid(runner.pid) == own.process.pid
    finally:
        runner.kill()


def test_second_one_on_a_port_exits_with_1_while_the_first_answers_its_probe(shared: Server) -> None:
    code, said = shared.second()
    assert code == 1
    assert shared.answers()
    failure = classify(OllamaEngine.signs, said.splitlines(), "exited")
    assert failure.kind is FailureKind.PORT_TAKEN
    assert f"attach: http://127.0.0.1:{shared.port}" in failure.sentence


def test_stream_of_a_killed_runner_ends_in_order_but_without_finish_or_error(own: Server, model: str) -> None:
    events, first = begun(own, model)
    own.runners()[0].kill()
    lines = [first, *events]
    assert "data: [DONE]" not in lines
    assert not [event for event in data(lines) if event["choices"][0]["finish_reason"]]
    assert not [event for event in data(lines) if "error" in event]
    assert data(lines)[-1]["model"] == ""
    assert own.post("/v1/chat/completions", chat(model, max_tokens=2)).status_code == 200


def test_stopped_runner_hangs_chats_while_the_leader_says_all_is_well(own: Server, model: str) -> None:
    own.post("/api/generate", {"model": model})
    (runner,) = own.runners()
    runner.suspend()
    try:
        with pytest.raises(httpx.ReadTimeout):
            own.post("/v1/chat/completions", chat(model, max_tokens=2), seconds=1.5)
        assert own.get("/api/version").status_code == 200
        assert own.get("/api/ps").status_code == 200
    finally:
        runner.resume()


# --- pulling


def test_present_model_is_reported_layer_by_layer_and_whole(shared: Server, model: str) -> None:
    lines = pulled(shared, model)
    layers = [line for line in lines if "digest" in line]
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1] == {"status": "success"}
    assert all(line["completed"] == line["total"] for line in layers)
    assert len({line["digest"] for line in layers}) == len(layers) == 2


def test_pull_that_fails_is_a_200_whose_last_line_is_an_error(empty: Server, registry: Registry) -> None:
    assert "file does not exist" in pulled(empty, registry.name("none:1"))[-1]["error"]
    assert "connection refused" in pulled(empty, "127.0.0.1:9/library/none:1")[-1]["error"]


def test_wrong_bytes_are_an_error_after_the_last_byte_and_leave_no_model(empty: Server, registry: Registry) -> None:
    lines = pulled(empty, registry.offer("wrong:1", os.urandom(300_000), wrong=True))
    assert "digest mismatch" in lines[-1]["error"]
    assert empty.get("/api/tags").json() == {"models": []}


def test_name_that_is_none_is_400(empty: Server) -> None:
    answer = empty.post("/api/pull", {"model": "a b"})
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid model name"})


def test_pull_whose_client_left_goes_on_where_it_stopped(empty: Server, registry: Registry) -> None:
    name = registry.offer("slow:1", os.urandom(8_000_000))
    registry.bytes_per_second = 4_000_000
    try:
        stopped = 0
        for line in empty.events("/api/pull", {"model": name, "insecure": True}):
            stopped = json.loads(line).get("completed", 0)
            if stopped > 2_000_000:
                break
    finally:
        registry.bytes_per_second = None
    registry.ranges.clear()
    assert pulled(empty, name)[-1] == {"status": "success"}
    begins = [int(wanted.removeprefix("bytes=").partition("-")[0]) for wanted in registry.ranges]
    assert max(begins) >= stopped - 1_000_000
    assert empty.get("/api/tags").json()["models"][0]["name"] == name
