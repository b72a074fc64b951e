"""The supervisor over a stub engine that shows faults: every row ends in the state and the sentence that it should."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor import proctable
from aigw_daemon.supervisor.failures import FailureKind
from aigw_daemon.supervisor.supervisor import UnknownBackend
from aigw_daemon.words import State
from tests.support import stub_engine
from tests.support.supervision import Supervised, fresh_home, kill, profile, supervised
from tests.support.wait import eventually

NEWLINE = "\n"


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@pytest.fixture
def backend(home: Home) -> str:
    """The beginning of a backend's settings; close it with a brace."""
    return stub_engine.settings(home.state / "bin", home.models)


def args(*words: str) -> str:
    return f", args: {json.dumps(words)}}}"


async def test_ready_means_probed_with_its_models_slots_and_context(home: Home, backend: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}{args('--load', '0.3')}}}"))
        starting = await made.reaches("a", State.STARTING)
        assert starting.models == ()
        ready = await made.reaches("a", State.READY)
    assert [(model.id, model.context) for model in ready.models] == [("m", 512)]
    assert ready.max_concurrency == 2
    assert ready.address is not None
    assert ready.address.url.startswith("http://127.0.0.1:")
    assert ready.memory_bytes is not None
    assert ready.memory_bytes > 1_000_000


async def test_key_is_in_the_environment_and_never_in_arguments_or_state_file(home: Home, backend: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}}}}}"))
        report = await made.reaches("a", State.READY)
        assert report.api_key is not None
        key = report.api_key.value
        assert report.pid is not None
        assert f"LLAMA_API_KEY={key}".encode() in Path(f"/proc/{report.pid}/environ").read_bytes()
        assert key not in " ".join(proctable.argv(report.pid))
        made.state.save()
        assert key not in home.state_file.read_text()
    assert key not in repr(report)


async def test_stop_ends_leader_children_and_children_in_sessions_of_their_own(home: Home, backend: str) -> None:
    text = "backends:\n" + "\n".join(
        f"  {kind}: {backend}{args('--child', kind)}" for kind in ("group", "session", "erased")
    )
    async with supervised(home) as made:
        await made.supervisor.apply(profile(text))
        await made.supervisor.settled()
        tree = proctable.descendants(proctable.table(), {made.pid(kind) for kind in ("group", "session", "erased")})
        assert len(tree) == 3
        await made.supervisor.stop()
        assert {report.state for report in made.supervisor.reports()} == {State.STOPPED}
        assert not [pid for pid in tree if (entry := proctable.read(pid)) is not None and not entry.zombie]
        assert made.processes() == set()


async def test_what_a_killed_leader_leaves_is_swept_before_it_starts_again(home: Home, backend: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}{args('--child', 'session')}}}"))
        await made.reaches("a", State.READY)
        first = made.processes()
        assert len(first) == 2
        kill(made.pid("a"))
        await eventually(lambda: not first & made.processes(), seconds=10, what="the end of all that it left")
        await eventually(lambda: made.report("a").restarts == 1)
        await made.reaches("a", State.READY)
        assert made.report("a").restarts == 1
        assert len(made.processes()) == 2


async def test_engine_that_ignores_sigterm_is_killed_after_the_grace(home: Home, backend: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}{args('--ignore-term')}}}"))
        await made.reaches("a", State.READY)
        handle = await made.launcher.adopt(made.state.backend("a").identity or pytest.fail("no identity"))
        stopped = await made.launcher.stop(handle, grace=0.2)
        assert stopped.killed
        assert stopped.exit is not None
        assert stopped.exit.signal == signal.SIGKILL


async def test_stopped_process_is_continued_so_that_it_can_end(home: Home, backend: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}}}}}"))
        pid = (await made.reaches("a", State.READY)).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(5):
            await made.supervisor.stop(["a"])
        assert made.report("a").state is State.STOPPED
        assert proctable.read(pid) is None


async def test_engine_that_exits_at_once_is_a_crash_loop_after_three_starts(home: Home, backend: str) -> None:
    said = [f"line {number}" for number in range(30)]
    text = f"backends: {{a: {backend}{args('--say', NEWLINE.join(said), '--exit', '0')}}}"
    async with supervised(home) as made:
        await made.supervisor.apply(profile(text))
        failed = await made.reaches("a", State.FAILED)
    assert failed.failure is FailureKind.CRASH_LOOP
    assert failed.log_tail == tuple(said[-20:])
    assert failed.why is not None
    assert "3 failed starts in a row" in failed.why
    assert "exited with code 0" in failed.why
    assert failed.restarts == 2


async def test_five_unexpected_exits_in_the_window_are_a_crash_loop(home: Home, backend: str) -> None:
    limits = "restart: {crash_exits: 2}\n"
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"{limits}backends: {{a: {backend}}}}}"))
        await made.reaches("a", State.READY)
        kill(made.pid("a"))
        await eventually(lambda: made.report("a").restarts == 1)
        await made.reaches("a", State.READY)
        kill(made.pid("a"))
        failed = await made.reaches("a", State.FAILED)
        assert failed.why is not None
        assert failed.why.startswith("crash loop: 2 unexpected exits in 60 s")


async def test_port_of_a_stranger_is_told_and_the_stranger_left_alone(home: Home, backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        async with supervised(home) as made:
            await made.supervisor.apply(profile(f"backends: {{a: {backend}, port: {port}}}}}"))
            failed = await made.reaches("a", State.FAILED)
            assert made.processes() == set()
    assert failed.failure is FailureKind.PORT_TAKEN
    assert failed.why is not None
    assert f"port {port} is taken" in failed.why
    assert f"(PID {os.getpid()}, user" in failed.why


async def test_remembered_port_that_was_taken_meanwhile_is_given_up(home: Home, backend: str) -> None:
    text = profile(f"backends: {{a: {backend}}}}}")
    async with supervised(home) as made:
        await made.supervisor.apply(text)
        first = (await made.reaches("a", State.READY)).address
        await made.supervisor.restart(["a"])
        await eventually(lambda: made.report("a").state is not State.READY)
        assert (await made.reaches("a", State.READY)).address == first
        await made.supervisor.stop()
        assert first is not None
        with socket.create_server(("127.0.0.1", first.port)):
            await made.supervisor.start()
            assert (await made.reaches("a", State.READY)).address != first


async def test_engine_with_another_model_is_not_ready(home: Home, backend: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}{args('--serve-name', 'other')}}}"))
        failed = await made.reaches("a", State.FAILED)
        assert made.processes() == set()
    assert failed.failure is FailureKind.WRONG_MODEL
    assert failed.why == "the engine is up, but it serves other, not m: check served_name"


async def test_missing_model_is_tried_again_when_the_file_comes(
    home: Home, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigw_daemon.supervisor.managed.RECHECK_SECONDS", 0.1)
    model = home.models / "model.gguf"
    model.rename(home.models / "elsewhere")
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}}}}}"))
        failed = await made.reaches("a", State.FAILED)
        assert failed.failure is FailureKind.MISSING_MODEL
        (home.models / "elsewhere").rename(model)
        await made.reaches("a", State.READY)


async def test_program_that_is_not_there_is_told(home: Home, backend: str) -> None:
    (home.state / "bin" / "llama-server").unlink()
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}}}}}"))
        failed = await made.reaches("a", State.FAILED)
    assert failed.failure is FailureKind.MISSING_BINARY


async def test_engine_that_is_not_installed_is_refused_with_the_way_out(home: Home) -> None:
    nowhere = "env: {PATH: /no/such/folder}"
    text = f"backends: {{o: {{engine: ollama, {nowhere}}}, v: {{engine: vllm, model: m, {nowhere}}}}}"
    async with supervised(home) as made:
        await made.supervisor.apply(profile(text))
        for name in ("o", "v"):
            failed = await made.reaches(name, State.FAILED)
            assert failed.failure is FailureKind.MISSING_BINARY
            assert "attach:" in (failed.why or "")


async def test_bug_in_one_backend_fails_that_one_only(
    home: Home, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}}}, b: {backend}}}}}"))
        await made.supervisor.settled()
        monkeypatch.setattr(made.supervisor._backends["a"], "_on_restart", lambda now: 1 / now)
        await made.supervisor.restart(["a"])
        failed = await made.reaches("a", State.FAILED)
        assert failed.failure is FailureKind.INTERNAL
        assert (failed.why or "").startswith("internal error of aigw")
        await eventually(lambda: made.report("a").pid is None)
        assert made.report("b").state is State.READY
        await made.supervisor.start(["a"])
        await made.reaches("a", State.READY)


async def test_storm_of_requests_leaves_one_leader_and_answers_everybody(home: Home, backend: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}}}}}"))
        verbs = (made.supervisor.start, made.supervisor.stop, made.supervisor.restart)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for number in range(200):
                tasks.create_task(verbs[number % 3](["a"]))
        await made.supervisor.start(["a"])
        await made.reaches("a", State.READY)
        assert made.processes() == {made.pid("a")}


async def test_unknown_backend_is_refused_with_the_choices(home: Home, backend: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}, start: on_demand}}}}"))
        for verb in (made.supervisor.start, made.supervisor.stop, made.supervisor.restart):
            with pytest.raises(UnknownBackend) as refused:
                await verb(["a", "b"])
            assert (refused.value.name, refused.value.choices) == ("b", ("a",))
        assert made.supervisor.log_path("a") == home.logs / "a.log"
        with pytest.raises(UnknownBackend):
            made.supervisor.log_path("../b")


async def test_on_demand_starts_by_a_request_and_not_after_the_operator_has_stopped_it(
    home: Home, backend: str
) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}, start: on_demand}}}}"))
        assert made.report("a").state is State.STOPPED
        made.supervisor.demand("a")
        made.supervisor.demand("unheard of")
        await made.reaches("a", State.READY)
        await made.supervisor.stop(["a"])
        made.supervisor.demand("a")
        await made.supervisor.settled()
        assert made.report("a").state is State.STOPPED
        await made.supervisor.start(["a"])
        await made.reaches("a", State.READY)


async def test_attached_url_is_probed_and_never_stopped(home: Home, backend: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend}}}}}", "one.yaml"))
        address = (await made.reaches("a", State.READY)).address
        assert address is not None
        await _attach_and_detach(made, address.url)


async def _attach_and_detach(made: Supervised, url: str) -> None:
    with fresh_home() as other:
        async with supervised(other) as looking:
            text = f"backends: {{o: {{engine: openai, url: {url}/v1}}, l: {{engine: llamacpp, attach: {url}}}}}"
            await looking.supervisor.apply(profile(text))
            for name in ("o", "l"):
                report = await looking.reaches(name, State.READY)
                assert [model.id for model in report.models] == ["m"]
                assert report.address is not None
                assert (report.address.url, report.address.base_path) == (url, "/v1")
            await looking.supervisor.stop()
            assert {report.state for report in looking.supervisor.reports()} == {State.STOPPED}
        assert made.report("a").state is State.READY


async def test_attached_url_that_nobody_serves_is_unreachable_and_says_why(home: Home) -> None:
    text = "backends: {a: {engine: openai, url: http://127.0.0.1:9/v1}, b: {engine: openai, url: '${NO_SUCH_AIGW}/v1'}}"
    async with supervised(home) as made:
        await made.supervisor.apply(profile(text))
        await eventually(lambda: made.report("a").why == "it refuses connections")
        assert made.report("a").state is State.UNREACHABLE
        failed = await made.reaches("b", State.FAILED)
    assert "NO_SUCH_AIGW is not set" in (failed.why or "")
