"""Commands that a profile gives, and the memory that it grants: what is taken, and what is told."""

import re

import pytest

from aigw_daemon.profile.backends import VllmBackend
from aigw_daemon.profile.commands import filled_in
from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.load import parse
from tests.support.engines import CHECKOUT


def problems_of(backend: str) -> list[str]:
    try:
        parse(f"version: 1\nbackends: {{a: {{{backend}}}}}", "p")
    except ProfileError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "command",
    [
        '[serve, "{host}:{port}"]',
        '[serve, --json, \'{"a": {"b": {}}}\']',
        '[serve, "{{name}}"]',
        "[docker-server, --port, 80]",
        "[serve, --image, docker]",
        "[run, serve]",
    ],
)
def test_command_of_ones_own_process_is_fine(command: str) -> None:
    assert problems_of(f"engine: command, command: {command}") == []


def test_unknown_placeholder_is_told_with_the_choices_and_the_way_to_a_literal_one() -> None:
    (problem,) = problems_of('engine: command, command: [serve, "--port={prot}"]')
    assert problem.startswith("p:2:")
    assert "{prot} is no placeholder; there are {host}, {port}, {model}" in problem
    assert "write {{prot}} for a literal {prot}" in problem


def test_placeholder_of_a_model_needs_a_model() -> None:
    (problem,) = problems_of('engine: command, command: [serve, "{model}"]')
    assert "backends.a.model: is required: the command uses {model}" in problem
    assert problems_of('engine: command, command: [serve, "{model}"], model: m') == []


@pytest.mark.parametrize(
    "command",
    [
        "[docker, run, --rm, image]",
        "[/usr/bin/podman, --log-level, info, run, image]",
        "[sudo, docker, compose, up]",
        "[sh, -c, 'exec docker run --gpus all image']",
        "[nerdctl, start, -a, name]",
        "[env, HOME=/tmp, podman, container, run, image]",
        "[/usr/bin/env, bash, -lc, 'cd /srv && /usr/bin/docker container run image']",
        "[docker-compose, up]",
        "[sh, -c, 'podman-compose up']",
    ],
)
@pytest.mark.parametrize("engine", ["command", "vllm, model: m"])
def test_container_is_refused_with_the_reason_and_the_way_out(engine: str, command: str) -> None:
    (problem,) = problems_of(f"engine: {engine}, command: {command}")
    assert "must not start a container: its processes belong to the container's daemon" in problem
    assert "engine: openai with url" in problem


def test_placeholders_are_filled_in_once() -> None:
    command = ("{model}", "{{port}}", "a{host}b{port}", "{}", "{ port }")
    values = {"model": "{port}", "host": "H", "port": "1"}
    assert filled_in(command, values) == ("{port}", "{port}", "aHb1", "{}", "{ port }")


@pytest.mark.parametrize(
    ("memory", "expected"), [("0.45", 0.45), ("1", 1.0), ("20GiB", 20 * 2**30), ("512MB", 512_000_000)]
)
def test_memory_is_a_fraction_or_a_size(memory: str, expected: float) -> None:
    section = parse(f"version: 1\nbackends: {{a: {{engine: vllm, model: m, memory: {memory}}}}}", "p").backends["a"]
    assert isinstance(section, VllmBackend)
    assert section.memory == expected
    assert type(section.memory) is type(expected)


@pytest.mark.parametrize("memory", ["0", "1.5", "-0.1", "much", "true", "17179869184"])
def test_memory_that_is_neither_is_told(memory: str) -> None:
    (problem,) = problems_of(f"engine: vllm, model: m, memory: {memory}")
    assert "memory: must be " in problem


def test_examples_of_the_documentation_are_profiles() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (CHECKOUT / "docs/engines.md").read_text(), re.DOTALL)
    backends = [set(parse(f"version: 1\n{example}", "p").backends) for example in examples]
    assert backends == [{"coder"}, {"sglang", "whisper"}, {"coder", "writer"}]
