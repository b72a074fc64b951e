"""Two mistakes in one profile: neither hides the other, and neither brings about a third."""

import copy
import itertools
import json
from typing import Any

import pytest

from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.load import parse

SOUND: dict[str, Any] = {
    "version": 1,
    "gateway": {"host": "localhost", "port": 4000},
    "cache": {"mode": "on"},
    "models": {"m": {"source": "file:/m.gguf"}, "n": {"source": "file:/n.gguf"}},
    "backends": {
        "a": {"engine": "llamacpp", "model": "m", "port": 8001, "group": "g"},
        "b": {"engine": "ollama", "port": 8002},
        "c": {"engine": "command", "command": ["serve"], "port": 8003},
        "d": {"engine": "openai", "url": "http://127.0.0.1:9/v1"},
        "e": {"engine": "vllm", "model": "x/y", "group": "g", "start": "on_demand"},
    },
    "routes": {"r": {"targets": ["a", "b"]}, "s": {"alias": "r"}},
    "fallback": ["b"],
}
MISSING = object()

MISTAKES: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "typo in a backend": (("backends", "a", "descriptoin"), "x", "backends.a.descriptoin: unknown key"),
    "typo in a command's backend": (("backends", "c", "prob"), "/x", "backends.c.prob: unknown key"),
    "key named like an engine": (("backends", "b", "ollama"), 1, "backends.b.ollama: unknown key"),
    "typo in the gateway": (("gateway", "max_bdy"), 1, "gateway.max_bdy: unknown key"),
    "typo at the top": (("gatewya",), {}, "gatewya: unknown key"),
    "typo in a route": (("routes", "r", "cld"), "wait", "routes.r.cld: unknown key"),
    "bad host": (("gateway", "host"), "bad host", "gateway.host: must be a host name"),
    "bad host in a URL": (("backends", "d", "url"), "http://bad host:99999/v1", "its host can't be one"),
    "two backends on a port": (("backends", "b", "port"), 8001, "backends.b.port: port 8001 is already used by"),
    "a backend on the gateway's port": (("gateway", "port"), 8003, "backends.c.port: port 8003 is already used by"),
    "two of a group always on": (("backends", "e", "start"), "always", "backends.e.group: one backend of an"),
    "bad probe": (("backends", "c", "probe"), "x", "backends.c.probe: must match"),
    "no command": (("backends", "c", "command"), MISSING, "backends.c.command: is required"),
    "unknown engine": (("backends", "b", "engine"), "olama", "backends.b.engine: must be an engine"),
    "bad GPUs": (("backends", "a", "gpus"), ["x"], "backends.a.gpus: must be a GPU's index"),
    "key of another life": (("backends", "a", "api_key"), "k", "backends.a.api_key: api_key is for attached"),
    "unknown target": (("routes", "r", "targets", 1), "nosuch", "routes.r.targets[1]: must name a backend"),
    "unknown alias": (("routes", "s", "alias"), "nosuch", "routes.s.alias: an alias stands for"),
    "alias with keys": (("routes", "s", "cold"), "wait", "routes.s.cold: an alias is only another name"),
    "one file twice": (("models", "n", "file"), "m/m.gguf", "models.n.file: each model has its own file"),
    "bad checksum": (("models", "m", "sha256"), "xx", "models.m.sha256: must be 64 hexadecimal digits"),
    "memory of no Redis": (("cache", "redis_memory"), "512MB", "cache.redis_memory: is for a Redis"),
    "bad mode": (("cache", "mode"), "onn", "cache.mode: must be one of the choices"),
    "unknown fallback": (("fallback", 0), "nosuch", "fallback[0]: must name a backend"),
    "bad limit": (("restart",), {"crash_exits": 0}, "restart.crash_exits: must be 1 or more"),
    "bad name": (("backends", "gateway"), {"engine": "ollama"}, "none of gateway, daemon and redis"),
    "bad version": (("version",), 2, "version: must be 1"),
}
PAIRS = [pair for pair in itertools.combinations(MISTAKES, 2) if MISTAKES[pair[0]][0] != MISTAKES[pair[1]][0]]


def problems(data: dict[str, Any]) -> list[str]:
    try:
        parse(json.dumps(data, indent=1), "p")
    except ProfileError as error:
        return [str(problem) for problem in error.problems]
    return []


def with_mistakes(*names: str) -> dict[str, Any]:
    data = copy.deepcopy(SOUND)
    for name in names:
        path, value, _ = MISTAKES[name]
        place: Any = data
        for part in path[:-1]:
            place = place[part]
        if value is MISSING:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    return data


def test_profile_without_them_is_sound() -> None:
    assert problems(SOUND) == []


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_told_alone_and_once(name: str) -> None:
    (problem,) = problems(with_mistakes(name))
    assert MISTAKES[name][2] in problem


def test_no_mistake_hides_another_or_brings_about_a_third() -> None:
    wrong = {}
    for pair in PAIRS:
        told = problems(with_mistakes(*pair))
        if len(told) != 2 or not all(any(MISTAKES[name][2] in problem for problem in told) for name in pair):
            wrong[pair] = told
    assert wrong == {}


def test_unknown_engine_hides_nothing_that_would_be_wrong_with_any() -> None:
    backends = {"f": {"engine": "olama", "port": 99999, "prot": 1, "model": 3, "binary": "x"}}
    told = [problem.partition(": ")[2] for problem in problems({"version": 1, "backends": backends})]
    assert [problem.partition(":")[0] for problem in told] == [
        "backends.f.engine",
        "backends.f.port",
        "backends.f.prot",
    ]


def test_all_of_them_are_told_together() -> None:
    told = problems(with_mistakes(*MISTAKES))
    assert [name for name, (_, _, text) in MISTAKES.items() if not any(text in problem for problem in told)] == []


def places(*lines: str) -> list[tuple[int, str]]:
    """Line and path of each problem of a backend with ``engine: command``, whose keys begin in line 5."""
    head = ("version: 1", "backends:", "  a:", "    engine: command")
    with pytest.raises(ProfileError) as refused:
        parse("\n".join([*head, *(f"    {line}" for line in lines)]), "p")
    return [(problem.line, problem.where) for problem in refused.value.problems]


def test_mistake_is_placed_at_its_own_line_and_not_at_a_key_named_like_the_engine() -> None:
    assert places("command: [x]", "prob: /x", "probe: x", "port: 0") == [
        (6, "backends.a.prob"),
        (7, "backends.a.probe"),
        (8, "backends.a.port"),
    ]
    assert [where for _, where in places("port: 9")] == ["backends.a.command"]


def test_each_word_of_a_command_is_placed_and_names_all_its_unknown_placeholders() -> None:
    assert places("command:", "- x", "- '{foo}{bar}'", "- '{qux}'") == [
        (7, "backends.a.command[1]"),
        (8, "backends.a.command[2]"),
    ]
    (problem,) = problems({"version": 1, "backends": {"a": {"engine": "command", "command": ["{foo}{bar}"]}}})
    assert "{foo}, {bar} are no placeholders" in problem


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://bad host:99999", ["its host can't be one", "its port isn't a number from 1 to 65535"]),
        ("ftp://:0", ["it doesn't begin with http:// or https://", "it has no host", "its port isn't a number"]),
        ("http://[::1:x", ["its host can't be one"]),
        ("http://h:99999/a b", ["its port isn't a number", "its path has blanks"]),
        ("http://u:p@bad host:1?x", ["no user or password", "no query and no fragment", "its host can't be one"]),
    ],
)
def test_everything_that_is_wrong_with_a_url_is_told(url: str, told: list[str]) -> None:
    (problem,) = problems({"version": 1, "backends": {"a": {"engine": "openai", "url": url}}})
    assert [words for words in told if words not in problem] == []
    assert "u:p" not in problem


@pytest.mark.parametrize(
    "url", ["http://h", "https://h:1/v1/", "http://[::1]:65535", "http://[fe80::1%eth0]/x", "http://h_1:", "HTTP://h"]
)
def test_usual_urls_are_fine(url: str) -> None:
    assert problems({"version": 1, "backends": {"a": {"engine": "openai", "url": url}}}) == []
