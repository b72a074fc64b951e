"""What every engine that aigw runs must do, held against the real ones: the same tests for each way that one runs.

The supervisor and the gateway rely on each of these; an engine that did otherwise would be supervised wrongly.
"""

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aigw_daemon.gateway.refusals import upstream_error
from aigw_daemon.supervisor.failures import Failure, FailureKind, Unrunnable, classify
from tests.contract.runners import KEY, MODEL, RUNNERS, Command, Runner, client, command, health, process, tree
from tests.support.wait import eventually_now

READY_SECONDS = 90.0


@pytest.fixture(scope="module", params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> Runner:
    """Each way in which an engine runs."""
    return RUNNERS[request.param]


@pytest.fixture(scope="module")
def made(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running engine, ready; ended when the module's tests have asked it."""
    folder = tmp_path_factory.mktemp("engine")
    made = command(runner, folder)
    with process(made, folder / "log"), client(made) as asked:
        eventually_now(lambda: health(asked, made) == 200, seconds=READY_SECONDS, what="ready")
        yield made


@pytest.fixture(scope="module")
def asked(made: Command) -> Iterator[httpx.Client]:
    """A client with the engine's key."""
    with client(made) as open_client:
        yield open_client


def chat(**options: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, **options}


def test_nothing_secret_is_in_its_command_line(made: Command) -> None:
    assert KEY not in " ".join(made.launch.argv)


def test_it_listens_on_the_loopback_alone(made: Command) -> None:
    port = int(made.url.rsplit(":", 1)[1])
    for host in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)} - {"127.0.0.1"}:
        with pytest.raises(ConnectionRefusedError), contextlib.closing(socket.create_connection((str(host), port), 5)):
            pass


def test_while_it_loads_it_refuses_or_says_503_and_then_serves_its_model(runner: Runner, tmp_path: Path) -> None:
    made = command(runner, tmp_path)
    seen = set()
    with process(made, tmp_path / "log") as started, client(made) as asked:
        deadline = time.monotonic() + READY_SECONDS
        while (status := health(asked, made)) != 200:
            seen.add(status)
            assert started.poll() is None
            assert time.monotonic() < deadline
        assert seen <= {None, 503}
        assert asked.post("/v1/chat/completions", json=chat()).status_code == 200


def test_its_health_needs_no_key(made: Command) -> None:
    with client(made, key=None) as stranger:
        assert stranger.get(made.kind.health_path).status_code == 200


def test_it_answers_nobody_without_the_key(made: Command) -> None:
    assert made.kind.has_key
    for key in (None, "another"):
        with client(made, key=key) as stranger:
            assert stranger.post("/v1/chat/completions", json=chat()).status_code == 401


def test_it_lists_its_model_under_the_name_that_it_was_given(made: Command, asked: httpx.Client) -> None:
    listing = asked.get(made.kind.models_path).json()
    props = asked.get(made.kind.props_path).json() if made.kind.props_path else None
    (model,) = made.kind.models(made.section, listing, props)
    assert model.id == MODEL
    assert model.context == 512
    assert model.created > 0
    assert "chat" in model.capabilities
    assert (made.kind.concurrency(props) or 1) >= 1


def test_it_answers_with_usage_and_a_finish(asked: httpx.Client) -> None:
    answer = asked.post("/v1/chat/completions", json=chat()).json()
    assert answer["choices"][0]["finish_reason"] in {"stop", "length"}
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["model"] == MODEL


def test_its_stream_ends_with_finish_usage_and_done(asked: httpx.Client) -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    answer = asked.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events]
    assert done == "[DONE]"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]][-1] in {"stop", "length"}
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_a_request_for_another_model_is_answered_as_the_runner_says(runner: Runner, asked: httpx.Client) -> None:
    answer = asked.post("/v1/chat/completions", json=chat(model="another"))
    assert answer.status_code == (200 if runner.answers_any_name else 404)


@pytest.mark.parametrize("wrong", [{"temperature": "hot"}, {"messages": "hello"}, {"response_format": {"type": "x"}}])
def test_its_errors_are_4xx_with_a_message_that_aigw_reads(asked: httpx.Client, wrong: dict[str, Any]) -> None:
    answer = asked.post("/v1/chat/completions", json=chat(**wrong))
    assert answer.status_code == 400
    assert upstream_error(answer.content)[0]


def test_a_prompt_that_is_too_long_is_an_error(asked: httpx.Client) -> None:
    answer = asked.post("/v1/chat/completions", json=chat(messages=[{"role": "user", "content": "word " * 2_000}]))
    assert answer.status_code == 400
    assert "context" in (upstream_error(answer.content)[0] or "")


def test_sigterm_ends_its_whole_tree_in_time_once_its_clients_are_gone(runner: Runner, tmp_path: Path) -> None:
    made = command(runner, tmp_path)
    with process(made, tmp_path / "log") as started, client(made) as asked:
        eventually_now(lambda: health(asked, made) == 200, seconds=READY_SECONDS, what="ready")
        with asked.stream("POST", "/v1/chat/completions", json=chat(stream=True, max_tokens=400)) as answer:
            received = answer.iter_raw()  # held: httpx closes the connection with its iterator
            next(received)
            whole = tree(started.pid)
            os.kill(started.pid, signal.SIGTERM)
        # Only now: llama-server finishes the streams that it has, which is why the gateway drains first.
        started.wait(runner.stops_within)
        assert [member for member in whole if member.is_running()] == []


def test_a_broken_model_is_read_off_its_log(runner: Runner, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"this is no model" * 64)
    failure = failure_of(runner, tmp_path, model=broken)
    assert failure.kind is FailureKind.MODEL_UNREADABLE
    assert f" the model {broken}:" in failure.sentence


def test_a_taken_port_is_read_off_its_log(runner: Runner, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        failure = failure_of(runner, tmp_path, port=port)
    assert failure.kind is FailureKind.PORT_TAKEN
    assert f"port {port} is taken" in failure.sentence


def test_a_missing_model_is_told_before_anything_starts(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(Unrunnable, match=re.escape(str(tmp_path / "gone.gguf"))) as caught:
        command(runner, tmp_path, model=tmp_path / "gone.gguf")
    assert caught.value.failure.kind is FailureKind.MISSING_MODEL


def failure_of(runner: Runner, folder: Path, **options: Any) -> Failure:
    """How aigw would classify a start that fails."""
    made = command(runner, folder, **options)
    with process(made, folder / "log") as started:
        code = started.wait(READY_SECONDS)
    assert code != 0
    lines = (folder / "log").read_text(errors="replace").splitlines()
    return classify(made.kind.signs, lines, f"exited with code {code}")
