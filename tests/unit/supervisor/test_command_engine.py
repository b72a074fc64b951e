"""Any server that a command starts: its command line, its probe, its models, its failures."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor.failures import FailureKind, Unrunnable
from aigw_daemon.words import EngineKind, State
from tests.support import stub_engine
from tests.support.launching import KEY, PORT, Builder, explained, install
from tests.support.recorded_gpus import RecordedGpus, gpu
from tests.support.supervision import fresh_home, profile, supervised

STUB = (
    f'[{sys.executable}, -S, {Path(stub_engine.__file__)}, --host, "{{host}}", "--port={{port}}", --alias, "{{model}}"'
)


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@pytest.fixture
def command(home: Home) -> Builder:
    folder = install(home.state / "bin", "serve").parent
    said = 'command: [serve, "--at={host}:{port}", "{model}", "{{port}}", \'{"a": {"b": 1}}\'], model: org/m'
    return Builder(home, EngineKind.COMMAND, said, {"PATH": str(folder), "A": "daemon"})


def test_placeholders_are_filled_in_and_doubled_braces_are_literal(command: Builder, home: Home) -> None:
    assert command(", args: [--more, 4]").argv == (
        *(str(home.state / "bin/serve"), f"--at=127.0.0.1:{PORT}", "org/m", "{port}", '{"a": {"b": 1}}'),
        *("--more", "4"),
    )


def test_environment_is_the_daemons_with_the_profiles_over_it_and_holds_no_key_of_ours(command: Builder) -> None:
    env = command(", env: {B: '${A}-own'}").env
    assert (env["A"], env["B"]) == ("daemon", "daemon-own")
    assert KEY not in env.values()


def test_program_that_is_not_there_is_told(home: Home) -> None:
    with pytest.raises(Unrunnable, match="the program /no/server is not there or not executable") as refused:
        Builder(home, EngineKind.COMMAND, "command: [/no/server]")()
    assert refused.value.failure.kind is FailureKind.MISSING_BINARY


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory.", FailureKind.OUT_OF_MEMORY),
        ("ERROR: [Errno 98] error while attempting to bind: address already in use", FailureKind.PORT_TAKEN),
        ("ModuleNotFoundError: No module named 'sglang'", FailureKind.MISSING_BINARY),
        ("something else", FailureKind.EXITED),
    ],
)
def test_what_many_servers_say_is_understood(log: str, kind: FailureKind) -> None:
    assert explained(EngineKind.COMMAND, log).kind is kind


async def test_server_is_ready_with_the_models_that_it_lists(home: Home) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {{engine: command, command: {STUB}], model: m}}}}"))
        report = await made.reaches("a", State.READY)
    assert [model.id for model in report.models] == ["m"]
    assert report.api_key is None


async def test_named_models_are_taken_at_their_word_and_the_probe_may_be_any_path(home: Home) -> None:
    said = f"engine: command, command: {STUB}], model: m, probe: /props, models: [whisper, tts]"
    async with supervised(home) as made:
        await made.supervisor.apply(profile(f"backends: {{a: {{{said}}}}}"))
        report = await made.reaches("a", State.READY)
    assert [model.id for model in report.models] == ["whisper", "tts"]


async def test_probe_that_finds_nothing_is_what_a_start_that_takes_too_long_ends_with(home: Home) -> None:
    said = f"engine: command, command: {STUB}], model: m, probe: /ready, start_timeout: 500ms"
    text = f"restart: {{failed_starts: 1}}\nbackends: {{a: {{{said}}}}}"
    async with supervised(home) as made:
        await made.supervisor.apply(profile(text))
        report = await made.reaches("a", State.FAILED)
        assert "it was not ready within 0.5 s: /ready answers 404" in (report.why or "")
        assert made.processes() == set()


async def test_server_is_pinned_to_its_gpu_by_the_environment(home: Home) -> None:
    async with supervised(home, inventory=RecordedGpus([gpu(0), gpu(1)])) as made:
        said = f"engine: command, command: {STUB}], model: m, gpus: [1]"
        await made.supervisor.apply(profile(f"backends: {{a: {{{said}}}}}"))
        report = await made.reaches("a", State.READY)
        environment = Path(f"/proc/{report.pid}/environ").read_bytes().split(b"\0")
    assert report.gpus == (1,)
    assert f"CUDA_VISIBLE_DEVICES={gpu(1).uuid}".encode() in environment
    assert b"CUDA_DEVICE_ORDER=PCI_BUS_ID" in environment
