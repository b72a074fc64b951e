"""Ollama's command line and environment, as the profile's words make them, and what is read off its answers."""

from collections.abc import Callable, Iterator

import pytest

from aigw_daemon.home import Home
from aigw_daemon.link.messages import ModelView, Secret
from aigw_daemon.models.resolve import resolve
from aigw_daemon.profile.backends import OllamaBackend
from aigw_daemon.supervisor.engines.base import Launch, LaunchContext, Library, LoadedModel
from aigw_daemon.supervisor.engines.llamacpp import LlamacppEngine
from aigw_daemon.supervisor.engines.ollama import OllamaEngine
from aigw_daemon.supervisor.failures import FailureKind, Unrunnable, classify
from tests.support import ollama_standin
from tests.support.supervision import fresh_home, profile

Command = Callable[..., Launch]
DIGEST = "1d61a88424c51bed0d0c947140638dec5d3eb769c43210d6397ffc0914dce9e4"
TAGS = {
    "models": [
        {
            "name": "smollm2:135m",
            "model": "smollm2:135m",
            "modified_at": "2026-11-22T13:59:58.749688122Z",
            "size": 98362857,
            "digest": DIGEST,
            "details": {"family": "llama", "context_length": 8192, "embedding_length": 576},
            "capabilities": ["completion", "tools", "thinking"],
        },
        {"name": "keep:latest", "digest": DIGEST, "capabilities": ["embedding"]},
        {"name": "big:cloud", "remote_model": "big", "details": {"context_length": 131072}},
    ]
}
PS = {
    "models": [
        {
            "name": "smollm2:135m",
            "size": 210690374,
            "digest": DIGEST,
            "expires_at": "2026-11-22T14:09:59.365461102Z",
            "size_vram": 1000,
            "context_length": 4096,
        }
    ]
}


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@pytest.fixture
def command(home: Home) -> Command:
    folder = ollama_standin.install(home.state / "bin").parent

    def build(more: str = "", **environ: str) -> Launch:
        made = profile(f"backends: {{a: {{engine: ollama{more}}}}}")
        env = {"PATH": str(folder), **environ}
        return OllamaEngine().launch(
            LaunchContext("a", made.backends["a"], made, home, 4321, Secret("the-key"), env, resolve)
        )

    return build


def section(more: str = "") -> OllamaBackend:
    found = profile(f"backends: {{a: {{engine: ollama{more}}}}}").backends["a"]
    assert isinstance(found, OllamaBackend)
    return found


def test_it_serves_on_the_loopback_whatever_the_daemons_environment_says(command: Command, home: Home) -> None:
    launch = command(OLLAMA_HOST="0.0.0.0:1", OLLAMA_DEBUG="1")
    assert launch.argv == (str(home.state / "bin" / "ollama"), "serve")
    assert launch.env["OLLAMA_HOST"] == "127.0.0.1:4321"
    assert launch.env["OLLAMA_DEBUG"] == "1"
    assert "the-key" not in launch.env.values()


def test_settings_become_variables_and_absent_ones_are_left_to_ollama(command: Command) -> None:
    said = ", max_concurrency: 3, max_loaded_models: 2, keep_alive: 10m, context: 2048, models_dir: /m, env: {A: b}"
    wanted = {
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_MAX_LOADED_MODELS": "2",
        "OLLAMA_KEEP_ALIVE": "600.000s",
        "OLLAMA_CONTEXT_LENGTH": "2048",
        "OLLAMA_MODELS": "/m",
        "A": "b",
    }
    assert wanted.items() <= command(said).env.items()
    assert set(command().env) == {"PATH", "OLLAMA_HOST"}
    assert command(", keep_alive: forever").env["OLLAMA_KEEP_ALIVE"] == "-1"
    assert command(", keep_alive: 0").env["OLLAMA_KEEP_ALIVE"] == "0.000s"


def test_env_of_the_profile_wins_over_its_keys_but_not_over_the_address(command: Command) -> None:
    assert command(", context: 1, env: {OLLAMA_CONTEXT_LENGTH: 7}").env["OLLAMA_CONTEXT_LENGTH"] == "7"
    with pytest.raises(Unrunnable, match="sets OLLAMA_HOST, which aigw sets: give it port instead"):
        command(", env: {OLLAMA_HOST: '0.0.0.0:11434'}")


def test_program_that_is_not_there_is_told_with_the_ways_out(command: Command) -> None:
    with pytest.raises(Unrunnable, match="install Ollama, set binary to it, or attach") as refused:
        command(", binary: /no/ollama")
    assert refused.value.failure.kind is FailureKind.MISSING_BINARY


def test_models_are_read_with_time_digest_and_what_they_can_do() -> None:
    first, second, cloud = OllamaEngine().models(section(), TAGS, {"models": []})
    assert first == ModelView("smollm2:135m", 1795355998, None, ("chat", "completions", "tools"), DIGEST)
    assert (second.id, second.capabilities, second.created) == ("keep:latest", ("embeddings",), 0)
    assert (cloud.context, cloud.digest) == (131072, None)


@pytest.mark.parametrize(
    ("more", "ps", "context"),
    [
        ("", PS, 4096),
        (", context: 2048", {}, 2048),
        (", context: 99999", {}, 8192),
        ("", {}, None),
    ],
)
def test_context_is_what_is_loaded_else_what_the_profile_sets_else_unknown(
    more: str, ps: object, context: int | None
) -> None:
    assert OllamaEngine().models(section(more), TAGS, ps)[0].context == context


def test_list_in_the_profile_offers_what_of_it_is_there() -> None:
    found = OllamaEngine().models(section(", models: [keep, 'absent:1']"), TAGS, None)
    assert [model.id for model in found] == ["keep:latest"]


def test_loaded_models_are_read_with_their_memory() -> None:
    assert OllamaEngine().loaded(PS) == (LoadedModel("smollm2:135m", 210690374, 1000, 4096),)


@pytest.mark.parametrize(
    "junk", [None, [], "text", {"models": None}, {"models": [1, {"name": 5}, {"no": "name"}]}, {"data": []}]
)
def test_junk_for_a_list_is_no_model(junk: object) -> None:
    assert OllamaEngine().models(section(), junk, junk) == ()
    assert OllamaEngine().loaded(junk) == ()


def test_fields_of_another_type_are_unknown() -> None:
    entry = {"name": "m", "modified_at": 5, "digest": 7, "details": "x", "capabilities": [1, "completion"]}
    (model,) = OllamaEngine().models(section(), {"models": [entry]}, None)
    assert model == ModelView("m", 0, None, ("chat", "completions"), None)


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        (
            "Error: listen tcp 127.0.0.1:11434: bind: address already in use",
            FailureKind.PORT_TAKEN,
            "attach: http://127.0.0.1:11434",
        ),
        (
            "error starting llama-server: llama-server binary not found (checked: lib/ollama/llama-server)",
            FailureKind.MISSING_BINARY,
            "install Ollama anew",
        ),
    ],
)
def test_failure_is_read_off_its_log(line: str, kind: FailureKind, says: str) -> None:
    failure = classify(OllamaEngine.signs, ["something", line], "exited with code 1")
    assert failure.kind is kind
    assert says in failure.sentence


def test_its_models_come_and_go_unlike_those_of_llama_cpp() -> None:
    assert isinstance(OllamaEngine(), Library)
    assert not isinstance(LlamacppEngine(), Library)
