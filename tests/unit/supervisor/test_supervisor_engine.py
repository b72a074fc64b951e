"""llama.cpp's command line, as the profile's words make it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aigw_daemon.home import Home
from aigw_daemon.link.messages import Secret
from aigw_daemon.models.resolve import resolve
from aigw_daemon.profile.backends import LlamacppBackend
from aigw_daemon.supervisor.engines import llamacpp
from aigw_daemon.supervisor.engines.base import Launch, LaunchContext
from aigw_daemon.supervisor.engines.llamacpp import LlamacppEngine
from aigw_daemon.supervisor.failures import FailureKind, Unrunnable
from aigw_daemon.words import EngineKind
from tests.support import stub_engine
from tests.support.supervision import fresh_home, profile

Command = Callable[..., Launch]


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        (made.models / "m.gguf").write_bytes(b"GGUF")
        yield made


@pytest.fixture
def command(home: Home) -> Command:
    def build(more: str = "", path: str = "", **environ: str) -> Launch:
        made = profile(f"backends: {{a: {{engine: llamacpp, model: {home.models}/m.gguf{more}}}}}")
        section = made.backends["a"]
        env = {"PATH": path, **environ}
        return LlamacppEngine().launch(LaunchContext("a", section, made, home, 4321, Secret("the-key"), env, resolve))

    return build


def value(launch: Launch, flag: str) -> str:
    return launch.argv[launch.argv.index(flag) + 1]


def test_address_is_explicit_and_on_the_loopback(command: Command) -> None:
    launch = command()
    assert (value(launch, "--host"), value(launch, "--port")) == ("127.0.0.1", "4321")
    assert {"--metrics", "--slots", "--no-webui"} <= set(launch.argv)


def test_no_argument_of_the_profile_moves_it_off_the_loopback(command: Command, home: Home) -> None:
    program = stub_engine.install(home.state / "bin")
    launch = command(f", binary: {program}, args: [--host, 0.0.0.0, --port, '1']")
    last = {flag: launch.argv[len(launch.argv) - launch.argv[::-1].index(flag)] for flag in ("--host", "--port")}
    assert last == {"--host": "127.0.0.1", "--port": "4321"}


def test_key_is_in_the_environment_only_and_never_printed(command: Command) -> None:
    launch = command()
    assert launch.env["LLAMA_API_KEY"] == "the-key"
    assert "the-key" not in repr(launch)
    assert "the-key" not in " ".join(launch.argv)


def test_settings_become_flags_and_absent_ones_are_left_to_llama_cpp(command: Command) -> None:
    launch = command(", served_name: n, context: 64, parallel: 3, gpu_layers: 0, embeddings: true")
    flags = ("--alias", "--ctx-size", "--parallel", "--gpu-layers")
    assert [value(launch, flag) for flag in flags] == ["n", "64", "3", "0"]
    assert "--embeddings" in launch.argv
    assert not set(flags[1:]) & set(command().argv)
    assert value(command(), "--alias") == "m"


def test_auto_takes_the_binary_on_the_path_else_the_embedded_one(command: Command, home: Home) -> None:
    assert command().argv[:4] == (sys.executable, "-P", "-m", llamacpp.EMBEDDED_MODULE)
    program = stub_engine.install(home.state / "bin")
    assert command(path=str(program.parent)).argv[0] == str(program)
    assert command(", runner: embedded", path=str(program.parent)).argv[0] == sys.executable
    assert command(f", binary: {program}, runner: binary").argv[0] == str(program)


@pytest.mark.parametrize(
    ("more", "kind", "sentence"),
    [
        (", runner: binary", FailureKind.MISSING_BINARY, "the program llama-server is not there"),
        (", binary: /no/such/server", FailureKind.MISSING_BINARY, "the program /no/such/server is not there"),
        (", runner: embedded, args: [--x]", FailureKind.BAD_SETTING, "args are for the llama-server binary"),
        (", env: {A: '${NO_SUCH}'}", FailureKind.BAD_SETTING, "NO_SUCH is not set"),
    ],
)
def test_what_cannot_run_is_told_before_it_is_started(
    command: Command, more: str, kind: FailureKind, sentence: str
) -> None:
    with pytest.raises(Unrunnable) as refused:
        command(more)
    assert refused.value.failure.kind is kind
    assert sentence in refused.value.failure.sentence


def test_missing_package_is_told_with_both_ways_out(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "EMBEDDED_PACKAGE", "no_such_package")
    with pytest.raises(Unrunnable, match=r"install llama\.cpp, or aigw with its extra 'embedded'"):
        command()


def test_environment_of_the_profile_wins_over_the_daemons(command: Command) -> None:
    launch = command(", env: {A: '${B}-own'}", A="daemon", B="b")
    assert launch.env["A"] == "b-own"


def test_fingerprint_changes_with_the_model_file(command: Command, home: Home) -> None:
    before = command().fingerprint()
    assert command().fingerprint() == before
    (home.models / "m.gguf").write_bytes(b"GGUF, another")
    assert command().fingerprint() != before


@pytest.mark.parametrize("junk", [None, [], "text", {"data": None}, {"data": [1, {"id": 5}, {"no": "id"}]}])
def test_junk_for_a_list_of_models_is_no_model(junk: object) -> None:
    section = LlamacppBackend.model_validate({"engine": EngineKind.LLAMACPP})
    assert LlamacppEngine().models(section, junk, junk) == ()
    assert LlamacppEngine().concurrency(junk) is None


def test_embedded_program_imports_nothing_of_the_daemon() -> None:
    text = Path(llamacpp.__file__).with_name("llamacpp_embedded.py").read_text()
    assert not [line for line in text.splitlines() if line.startswith(("import aigw", "from aigw"))]
