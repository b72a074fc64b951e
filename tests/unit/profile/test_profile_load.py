"""A profile's text becomes a profile, or everything that is wrong with it with its place, rule, value and choices."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from aigw_daemon.profile.backends import LlamacppBackend, OllamaBackend, OpenaiBackend, VllmBackend
from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.load import load, parse
from aigw_daemon.profile.model import Profile
from aigw_daemon.profile.scalars import Secret

DESIGN_EXAMPLE = """\
version: 1
description: Ollama first, llama.cpp as the safety net, vLLM on GPU 0 for code
gateway: {host: 127.0.0.1, port: 4000, request_timeout: 10m, provider: workspace-backend}
cache:   {ttl: 1h, redis: redis://127.0.0.1:6379/0}      # or `redis: managed`; absent: in this process only
backends:
  ollama:       {engine: ollama, port: 11434, max_concurrency: 4, models: auto}
  coder:        {engine: vllm, model: Qwen/Qwen2.5-Coder-7B-Instruct-AWQ, served_name: qwen-coder-vllm, port: 8001,
                 gpus: [0], args: [--max-model-len, "4096"], start: on_demand, idle_stop: 30m, group: gpu0}
  dolphin:      {engine: vllm, model: ..., served_name: dolphin-uncensored-vllm, port: 8002, gpus: [0], start: on_demand, group: gpu0}
  llamacpp:     {engine: llamacpp, model: ~/models/llama-3.1-8b.Q4_K_M.gguf, served_name: llama-3.1-8b, port: 8080}
  ollama-cloud: {engine: openai, url: https://ollama.com/v1, api_key: "${OLLAMA_API_KEY}"}
  house-ollama: {engine: ollama, attach: http://127.0.0.1:11500}   # someone else runs it: routed and probed, never stopped
routes:
  "llama3.1:latest":         {targets: [ollama, {backend: llamacpp, model: llama-3.1-8b}]}
  qwen-coder-vllm:           {targets: [coder, {backend: ollama, model: "qwen2.5-coder:7b"}], cold: bridge}   # wait (default) | bridge | reject
  "deepseek-v3.1:671b-cloud": {targets: [{backend: ollama-cloud, model: "deepseek-v3.1:671b"}, "llama3.1:latest"]}
  code:                      {alias: qwen-coder-vllm}
  "gpt-*":                   {alias: "llama3.1:latest"}
fallback: ["llama3.1:latest"]          # after a route's own targets, unless it says `fallback: off`
"""  # noqa: E501  # the lines of the architecture's own example


def problems_of(text: str) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        parse(text, "p.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_the_designs_example_is_a_valid_profile() -> None:
    profile = parse(DESIGN_EXAMPLE, "workstation.yaml")
    coder, cloud, house = (profile.backends[name] for name in ("coder", "ollama-cloud", "house-ollama"))
    assert isinstance(coder, VllmBackend)
    assert (coder.gpus, coder.args, coder.idle_stop) == ((0,), ("--max-model-len", "4096"), 1800.0)
    assert isinstance(cloud, OpenaiBackend)
    assert cloud.api_key == Secret("${OLLAMA_API_KEY}")
    assert isinstance(house, OllamaBackend)
    assert (house.managed, house.base_url) == (False, "http://127.0.0.1:11500")
    assert isinstance(profile.backends["llamacpp"], LlamacppBackend)
    assert profile.routes["qwen-coder-vllm"].cold == "bridge"
    assert (profile.name, profile.fallback) == ("workstation", ("llama3.1:latest",))
    assert profile.fixed_ports == {"ollama": 11434, "coder": 8001, "dolphin": 8002, "llamacpp": 8080}


def test_a_profile_has_the_promised_defaults() -> None:
    profile = parse("version: 1", "p.yaml")
    gateway, restart = profile.gateway, profile.restart
    assert (gateway.host, gateway.port, gateway.max_body) == ("localhost", 4000, 64 * 1024**2)
    assert (gateway.header_timeout, gateway.body_timeout, gateway.cold_timeout) == (10, 60, 600)
    limits = (restart.crash_exits, restart.crash_window, restart.failed_starts, restart.retry_after)
    assert limits == (5, 60, 3, 300)
    assert profile.cache.ttl == 3600


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "p.yaml:1:1: version: is required"),
        ("", "p.yaml:1:1: a profile is a mapping of keys such as version, backends and routes, not null"),
        ("version: 2", "p.yaml:1:10: version: must be 1, not 2"),
        (
            "version: 1\nroutez: {}",
            ('p.yaml:2:1: routez: unknown key; did you mean "routes"? (choices: version, description, gateway, cache, '
            "restart, models, backends, routes, capabilities, fallback)"),
        ),
        ('version: 1\ngateway: {port: "40"}', 'p.yaml:2:17: gateway.port: must be a whole number, not "40"'),
        ("version: 1\ngateway: {port: 70000}", "p.yaml:2:17: gateway.port: must be 65535 or less, not 70000"),
        ("version: 1\ngateway: []", "p.yaml:2:10: gateway: must be a mapping, not a list"),
        ("version: 1\nfallback: x", 'p.yaml:2:11: fallback: must be a list, not "x"'),
        (
            "version: 1\nbackends:\n  a: {engine: vlm}",
            ('p.yaml:3:15: backends.a.engine: must be an engine that aigw runs, not "vlm"; did you mean "vllm"? '
            "(choices: ollama, vllm, llamacpp, openai, command)"),
        ),
        (
            "version: 1\nbackends:\n  a: {port: 1}",
            "p.yaml:3:3: backends.a.engine: is required (choices: ollama, vllm, llamacpp, openai, command)",
        ),
        (
            "version: 1\nbackends:\n  a: {engine: llamacpp, model: m, start: on}",
            'p.yaml:3:42: backends.a.start: must be one of the choices, not "on" (choices: always, on_demand)',
        ),
        (
            "version: 1\nbackends:\n  a: {engine: vllm, model: m, served_name: 3.5}",
            "p.yaml:3:44: backends.a.served_name: must be a string, not 3.5; quote it",
        ),
        (
            "version: 1\nbackends:\n  a: {engine: ollama, idle_stop: 5 minutes}",
            ("p.yaml:3:34: backends.a.idle_stop: must be a duration such as 30s, 10m, 1h30m or a number of seconds, "
            'not "5 minutes"'),
        ),
        (
            "version: 1\nbackends:\n  a: {engine: ollama, hang_timeout: 0}",
            ("p.yaml:3:37: backends.a.hang_timeout: must be off, or a duration above 0 such as 30s, 10m, 1h30m or a "
            "number of seconds, not 0"),
        ),
        (
            "version: 1\nbackends:\n  a: {engine: openai, url: ftp://x}",
            ("p.yaml:3:28: backends.a.url: must be an http or https URL such as http://127.0.0.1:11500, "
            'not "ftp://x"'),
        ),
        (
            "version: 1\nroutes:\n  r: {targets: [{backnd: a}]}\nbackends: {a: {engine: ollama}}",
            ('p.yaml:3:18: routes.r.targets[0].backnd: unknown key; did you mean "backend"? '
            "(choices: backend, model, weight)"),
        ),
        (
            "version: 1\nmodels:\n  m: {source: 'pypi:x'}",
            'p.yaml:3:15: models.m.source: must name one exact version: pypi:NAME==VERSION#MEMBER, not "pypi:x"',
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_place_rule_value_and_choices(text: str, problem: str) -> None:
    assert problem in problems_of(text)


def test_a_key_of_another_engine_says_whose_it_is() -> None:
    (problem,) = problems_of("version: 1\nbackends:\n  a: {engine: ollama, parallel: 5}")
    assert problem.startswith("p.yaml:3:23: backends.a.parallel: unknown key; only llamacpp knows it")


def test_all_mistakes_come_at_once_in_the_order_of_the_file() -> None:
    text = """\
version: 1
gateway: {prot: 1}
gateway: {}
backends:
  a: {engine: ollama, port: x}
  b: {engine: ollama, port: 8000}
  c: {engine: ollama, port: 8000}
routes:
  r: {alias: nothing}
"""
    assert [problem.split(": ")[0] for problem in problems_of(text)] == [
        "p.yaml:2:11", "p.yaml:3:1", "p.yaml:5:29", "p.yaml:7:29", "p.yaml:9:14",
    ]  # fmt: skip


def test_a_broken_backend_is_no_dangling_name_as_well() -> None:
    text = "version: 1\nbackends:\n  a: {engine: vllm, model: m, served_name: s, port: x}\nroutes:\n"
    text += "  r: {targets: [a, {backend: a}]}\n  q: {alias: s}"
    assert len(problems_of(text)) == 1


def test_a_hundred_problems_are_shown_and_the_rest_counted() -> None:
    text = "version: 1\n" + "".join(f"key{number}: 1\n" for number in range(5000))
    with pytest.raises(ProfileError) as caught:
        parse(text, "p.yaml")
    assert len(caught.value.problems) == 100
    assert str(caught.value).endswith("more problems")


@pytest.mark.parametrize(
    "line",
    [
        "{engine: openai, url: http://x, api_key: [sk-secret]}",
        '{engine: ollama, env: {KEY: "${sk-secret"}}',
        "{engine: openai, url: 'https://user:sk-secret@host/'}",
        "{engine: openai, url: 'https://user:sk-secret@${HOST}/v1'}",
        "{engine: openai, url: 'ftp://user:sk-secret@host/v1'}",
        "{engine: openai, url: 'https://host/v1?key=sk-secret'}",
        "{engine: ollama, attach: 'http://127.0.0.1:11434/#sk-secret'}",
        '{engine: openai, url: http://x, api_key: "sk-secret\\nx-other: 1"}',
        "{engine: openai, url: http://x, api_key: 'sk-secret-ä'}",
        '{engine: vllm, attach: "http://127.0.0.1:1", api_key: "sk-secret "}',
    ],
)
def test_a_secret_is_in_no_error(line: str) -> None:
    (problem,) = problems_of(f"version: 1\nbackends:\n  a: {line}")
    assert "sk-secret" not in problem


def test_key_that_no_header_can_hold_is_told_by_its_path() -> None:
    (problem,) = problems_of('version: 1\nbackends:\n  a: {engine: openai, url: http://x, api_key: "sk\\nsecret"}')
    assert "backends.a.api_key: must be one line of printable ASCII" in problem


def test_a_secret_is_in_no_repr_and_no_dump() -> None:
    text = "version: 1\ncache: {redis: 'redis://:sk-secret@h'}\nbackends:\n"
    text += "  a: {engine: openai, url: http://x, api_key: sk-secret}\n  b: {engine: ollama, env: {K: sk-secret}}\n"
    profile = parse(text, "p.yaml")
    assert "sk-secret" not in repr(profile) + str(profile.model_dump()) + profile.model_dump_json()


def test_a_profile_cannot_be_changed() -> None:
    profile = parse(DESIGN_EXAMPLE, "p.yaml")
    with pytest.raises(ValidationError):
        profile.version = 1
    with pytest.raises(TypeError):
        profile.backends["x"] = profile.backends["coder"]  # type: ignore[index]


def test_the_digest_follows_the_content_and_not_the_layout() -> None:
    first = parse("version: 1\ngateway: {port: 4001, host: localhost}\n", "a.yaml")
    same = parse("# moved\ngateway:\n  host: 'localhost'\n  port: 4001\nversion: 1\n", "b.yaml")
    other = parse("version: 1\ngateway: {port: 4002, host: localhost}\n", "a.yaml")
    assert first.digest == same.digest
    assert first.digest != other.digest


def test_a_file_that_cannot_be_read_is_a_problem_too(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read: No such file"):
        load(tmp_path / "missing.yaml")
    with pytest.raises(ProfileError, match="is not a regular file"):
        load(tmp_path)


def test_whole_numbers_may_stand_unquoted_among_arguments() -> None:
    text = "version: 1\nbackends:\n  a: {engine: ollama, args: [--n, 4096], env: {N: 4}}"
    backend = parse(text, "p.yaml").backends["a"]
    assert isinstance(backend, OllamaBackend)
    assert backend.args == ("--n", "4096")
    assert backend.env["N"].expand({}) == "4"


def test_the_profile_type_is_what_load_returns(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("version: 1\n")
    profile = load(path)
    assert isinstance(profile, Profile)
    assert (profile.name, profile.file) == ("mine", str(path))
