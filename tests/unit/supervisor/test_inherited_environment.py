"""What of the daemon's environment engines get unasked: everything but the keys of others."""

import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor.engines.inheriting import inherited
from aigw_daemon.words import EngineKind
from tests.support.launching import Builder, install
from tests.support.supervision import fresh_home, profile

SECRETS = {
    "OLLAMA_API_KEY": "sk-1",
    "OPENAI_API_KEY": "sk-2",
    "GITHUB_TOKEN": "sk-3",
    "AWS_SECRET_ACCESS_KEY": "sk-4",
    "HOUSE_PASS": "sk-5",
    "CACHE_PASS": "sk-6",
}
PLAIN = {"PATH": "/usr/bin", "HOME": "/home/op", "OLLAMA_MODELS": "/m", "TOKENIZERS_PARALLELISM": "false"}
HUB = {"HF_TOKEN": "hf-1", "HUGGING_FACE_HUB_TOKEN": "hf-2"}
TEXT = """\
cache: {redis: "redis://:${CACHE_PASS}@h"}
backends:
  cloud: {engine: openai, url: "https://x/v1", api_key: "${HOUSE_PASS}"}
  ollama: {engine: ollama, env: {KEPT: "${HOME}/x"}}
  vllm: {engine: vllm, model: m}
  llamacpp: {engine: llamacpp, model: m}
  other: {engine: command, command: [serve]}
"""


@pytest.mark.parametrize(
    ("backend", "gets"), [("ollama", PLAIN), ("other", PLAIN), ("vllm", PLAIN | HUB), ("llamacpp", PLAIN | HUB)]
)
def test_keys_of_others_stay_with_the_daemon_and_the_hubs_token_reaches_who_downloads(
    backend: str, gets: dict[str, str]
) -> None:
    made = profile(TEXT)
    assert inherited(SECRETS | PLAIN | HUB, made, made.backends[backend]) == gets


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (EngineKind.COMMAND, "command: [{program}]"),
        (EngineKind.OLLAMA, "binary: {program}"),
        (EngineKind.VLLM, "model: m, command: [{program}]"),
        (EngineKind.LLAMACPP, "model: {model}, binary: {program}"),
    ],
)
def test_engine_gets_the_key_that_its_own_env_names_and_no_other(kind: EngineKind, said: str) -> None:
    with fresh_home() as home:
        env = launched(home, kind, said)
    assert env["OPENAI_API_KEY"] == "sk-2"
    assert env["HOME"] == "/home/op"
    assert set(SECRETS) & set(env) == {"OPENAI_API_KEY", "HOUSE_PASS", "CACHE_PASS"}


def launched(home: Home, kind: EngineKind, said: str) -> dict[str, str]:
    """The environment that its command line comes with; the profile has no other backend whose keys there are."""
    program, model = install(home.state, "program"), home.models / "m.gguf"
    model.write_bytes(b"GGUF")
    own = ', env: {OPENAI_API_KEY: "${OPENAI_API_KEY}"}'
    build = Builder(home, kind, said.format(program=program, model=model), environ=SECRETS | PLAIN)
    return dict(build(own).env)
