"""What a backend answers with, in one word: it changes with the model, and with nothing that only says how it runs."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aigw_daemon.home import Home
from aigw_daemon.models.resolve import ModelFile
from aigw_daemon.supervisor import managed
from aigw_daemon.supervisor.failures import Exit
from aigw_daemon.supervisor.revision import revision
from aigw_daemon.supervisor.supervisor import Supervisor
from aigw_daemon.words import State
from tests.support.fake_clock import settle
from tests.support.fake_engines import FakeWorld, running
from tests.support.supervision import fresh_home

URL = "{engine: openai, url: 'http://127.0.0.1:1/v1'}"


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


def of(home: Home, backend: str = "", **said: str) -> str:
    """The revision of a backend that the profile describes so."""
    world = FakeWorld(home, backend=backend, settings=", ".join(f"{name}: {value}" for name, value in said.items()))
    os.utime(world.model, ns=(1, 1))
    return revision(world.plan, world.edges)


@pytest.mark.parametrize("said", [{"context": "2048"}, {"args": "[--flash-attn]"}, {"embeddings": "true"}])
def test_what_decides_an_answer_changes_it(home: Home, said: dict[str, str]) -> None:
    assert of(home) == of(home)
    assert of(home, **said) != of(home)


@pytest.mark.parametrize(
    "said", [{"port": "9999"}, {"gpus": "[0]"}, {"start": "on_demand"}, {"idle_stop": "30m"}, {"max_concurrency": "2"}]
)
def test_how_it_runs_does_not(home: Home, said: dict[str, str]) -> None:
    assert of(home, **said) == of(home)


def test_the_model_in_a_folder_counts_by_its_time(home: Home, tmp_path: Path) -> None:
    vllm = f"{{engine: vllm, model: {tmp_path}}}"
    before = of(home, vllm)
    assert of(home, vllm) == before
    (tmp_path / "model.safetensors").touch()
    os.utime(tmp_path, ns=(5, 5))
    assert of(home, vllm) != before


def test_variables_count_by_their_values(home: Home) -> None:
    def of_host(host: str) -> str:
        backend = "{engine: openai, url: 'http://${HOST}:8080/v1'}"
        world = FakeWorld(home, backend=backend)
        return revision(world.plan, replace(world.edges, environ={"HOST": host} if host else {}))

    assert len({of_host("one"), of_host("two"), of_host("")}) == 3
    assert of(home, env="{LLAMA_ARG_CTX_SIZE: '512'}") != of(home)


def test_a_disk_that_fails_is_no_error(home: Home) -> None:
    def fails(*_: object) -> ModelFile:
        raise OSError(errno.EIO, "Input/output error")

    world = FakeWorld(home)
    assert revision(world.plan, replace(world.edges, resolve=fails))


def test_a_home_that_nobody_has_is_no_error(home: Home) -> None:
    assert of(home, "{engine: vllm, model: '~nobody-has-this-name/m'}")


async def test_a_look_that_fails_leaves_the_backends_be(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object) -> str:
        raise KeyError("a bug")

    world = FakeWorld(home)
    backend = world.managed()
    monkeypatch.setattr(managed, "revision", breaks)
    supervisor = Supervisor(
        home, world.state, launcher=world.launcher, traffic=world.watch, on_change=world.changed, clock=world.clock
    )
    await supervisor._look_at_model(backend)
    assert "cannot look at the model of a" in caplog.text


async def test_a_file_that_is_replaced_while_nothing_runs_is_noticed(home: Home) -> None:
    world = FakeWorld(home)
    backend = world.managed()
    before, changes = backend.report().revision, world.changes
    await backend.look_at_model()
    assert (backend.report().revision, world.changes) == (before, changes)
    world.model.write_bytes(b"GGUF of another")
    await backend.look_at_model()
    assert backend.report().revision != before
    assert world.changes == changes + 1


def test_the_address_of_what_somebody_else_runs_counts(home: Home) -> None:
    assert of(home, URL) == of(home, URL) != of(home, URL.replace(":1/", ":2/"))


def test_a_model_that_is_not_there_is_no_error(home: Home) -> None:
    world = FakeWorld(home)
    before = revision(world.plan, world.edges)
    world.model.unlink()
    assert revision(world.plan, world.edges) != before


async def test_a_file_that_was_replaced_counts_from_the_next_start_on(home: Home) -> None:
    world = FakeWorld(home)
    backend = world.managed()
    async with running(world, backend):
        stopped = backend.report().revision
        await backend.start()
        await settle()
        assert (backend.state, backend.report().revision) == (State.READY, stopped)
        world.model.write_bytes(b"GGUF of another")
        assert backend.report().revision == stopped
        world.launcher.running()[0].end(Exit(code=1))
        await world.clock.advance(1.0)
        assert backend.state is State.READY
        assert backend.report().revision != stopped
