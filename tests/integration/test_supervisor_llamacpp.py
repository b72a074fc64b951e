"""The real llama.cpp, both ways it comes, under the supervisor: brought up, lost, killed with its daemon, adopted."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor import proctable
from aigw_daemon.supervisor.backend import BackendReport
from aigw_daemon.supervisor.failures import FailureKind
from aigw_daemon.words import State
from tests.support.engines import CHECKOUT, llama_server, smollm2
from tests.support.supervision import Supervised, bearing, fresh_home, kill, profile, supervised
from tests.support.wait import eventually

RUNNERS = {"embedded": "runner: embedded", "binary": f"binary: {llama_server()}"}
READY_SECONDS = 60.0


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


def backend(runner: str, more: str = "", model: Path | None = None) -> str:
    return (
        f"{{engine: llamacpp, {RUNNERS[runner]}, model: {model or smollm2()}, served_name: smol, context: 512{more}}}"
    )


async def ready(made: Supervised, name: str = "a") -> BackendReport:
    return await made.reaches(name, State.READY, seconds=READY_SECONDS)


async def ask(report: BackendReport, *, key: bool = True) -> httpx.Response:
    assert report.address is not None
    assert report.api_key is not None
    headers = {"authorization": f"Bearer {report.api_key.value}"} if key else {}
    body = {"model": "smol", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return await client.post(f"{report.address.url}/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize("runner", RUNNERS)
async def test_ready_engine_answers_with_its_key_only_and_stops_without_a_trace(home: Home, runner: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend(runner, ', parallel: 2')}}}"))
        report = await ready(made)
        assert [model.id for model in report.models] == ["smol"]
        assert report.max_concurrency == 2
        assert report.models[0].context == 256
        answer = await ask(report)
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"]
        assert (await ask(report, key=False)).status_code == 401
        await made.supervisor.stop()
        assert made.processes() == set()
        assert report.address is not None
        assert made.launcher.port_owner(report.address.port) is None


@pytest.mark.parametrize("runner", RUNNERS)
async def test_metrics_and_slots_are_on(home: Home, runner: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend(runner)}}}"))
        report = await ready(made)
        assert report.address is not None
        assert report.api_key is not None
        headers = {"authorization": f"Bearer {report.api_key.value}"}
        async with httpx.AsyncClient(trust_env=False, base_url=report.address.url, headers=headers) as client:
            assert "llamacpp:n_decode_total" in (await client.get("/metrics")).text
            assert len((await client.get("/slots")).json()) >= 1


@pytest.mark.parametrize("runner", RUNNERS)
async def test_file_that_is_no_model_is_told_with_the_lines_that_show_it(home: Home, runner: str) -> None:
    bad = home.models / "bad.gguf"
    bad.write_bytes(b"not a model at all" * 100)
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend(runner, model=bad)}}}"))
        failed = await made.reaches("a", State.FAILED, seconds=READY_SECONDS)
        assert failed.failure is FailureKind.MODEL_UNREADABLE
        assert str(bad) in (failed.why or "")
        assert [line for line in failed.log_tail if "bad.gguf" in line]
        assert made.processes() == set()


async def test_model_path_that_leads_nowhere_is_told_before_anything_starts(home: Home) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend('embedded', model=Path('/no/model.gguf'))}}}"))
        failed = await made.reaches("a", State.FAILED)
        assert failed.failure is FailureKind.MISSING_MODEL
        assert "/no/model.gguf" in (failed.why or "")
        assert not made.supervisor.log_path("a").exists()


async def test_flag_that_llama_server_does_not_know_is_told(home: Home) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend('binary', ', args: [--no-such-flag]')}}}"))
        failed = await made.reaches("a", State.FAILED, seconds=READY_SECONDS)
        assert failed.failure is FailureKind.BAD_FLAG
        assert "--no-such-flag" in (failed.why or "")


@pytest.mark.parametrize("runner", RUNNERS)
async def test_port_taken_between_the_look_and_the_start_is_read_off_the_log(
    home: Home, runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        async with supervised(home) as made:
            monkeypatch.setattr(made.launcher, "port_owner", lambda _: None)
            await made.supervisor.apply(profile(f"backends: {{a: {backend(runner, f', port: {port}')}}}"))
            failed = await made.reaches("a", State.FAILED, seconds=READY_SECONDS)
            assert failed.failure is FailureKind.PORT_TAKEN
            assert f"port {port} is taken" in (failed.why or "")


@pytest.mark.parametrize("runner", RUNNERS)
async def test_killed_engine_is_started_again(home: Home, runner: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend(runner)}}}"))
        first = await ready(made)
        assert first.pid is not None
        kill(first.pid)
        await eventually(lambda: made.report("a").restarts == 1)
        second = await ready(made)
        assert second.pid != first.pid
        assert (await ask(second)).status_code == 200
        assert made.processes() == {second.pid}


@pytest.mark.parametrize("runner", RUNNERS)
async def test_sigterm_while_loading_leaves_nothing(home: Home, runner: str) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend(runner)}}}"))
        await eventually(lambda: made.report("a").pid)
        await made.supervisor.stop(["a"])
        assert made.report("a").state is State.STOPPED
        assert made.processes() == set()


DAEMON = """
import asyncio, sys
from aigw_daemon.home import Home
from tests.support.supervision import profile, supervised

async def main(home, text):
    home = Home.from_environment({"AIGW_HOME": home, "XDG_RUNTIME_DIR": home})
    async with supervised(home) as made:
        await made.supervisor.apply(profile(text))
        await made.supervisor.settled()
        print("settled", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("runner", RUNNERS)
async def test_engine_outlives_its_killed_daemon_and_is_adopted_by_the_next(home: Home, runner: str) -> None:
    text = f"backends: {{a: {backend(runner)}}}"
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DAEMON, str(home.config.parent), text),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert daemon.stdout is not None
    assert await daemon.stdout.readline() == b"settled\n"
    daemon.send_signal(signal.SIGKILL)
    await daemon.wait()
    async with supervised(home) as made:
        orphaned = made.processes()
        assert len(orphaned) == 1
        await made.supervisor.apply(profile(text))
        report = await ready(made)
        assert {report.pid} == orphaned
        assert report.restarts == 0
        assert (await ask(report)).status_code == 200
        assert report.pid is not None
        kill(report.pid)
        await eventually(lambda: made.report("a").restarts == 1)
        await ready(made)
        assert len(made.processes()) == 1
    assert bearing(made.state.document.instance) == set()


async def test_frozen_engine_stops_all_the_same(home: Home) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {backend('binary')}}}"))
        report = await ready(made)
        assert report.pid is not None
        os.kill(report.pid, signal.SIGSTOP)
        await made.supervisor.stop(["a"])
        entry = proctable.read(report.pid)
        assert entry is None or entry.zombie
