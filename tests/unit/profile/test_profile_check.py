"""The rules between sections: dangling names, circles, ports, groups, attachments, model files."""

import pytest

from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.load import parse

ONE = "version: 1\nbackends: {a: {engine: llamacpp, model: m, served_name: small}}\nroutes:\n"


def problems_of(text: str) -> list[str]:
    try:
        parse(text, "p")
    except ProfileError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "route",
    ["{targets: [a]}", "{targets: [small]}", "{targets: [a/small]}", "{alias: small}", "{alias: a/other}",
     "{targets: [{backend: a}]}"],
)  # fmt: skip
def test_names_that_lead_somewhere_are_fine(route: str) -> None:
    assert problems_of(f"{ONE}  r: {route}") == []


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ("{targets: [smal]}", 'targets[0]: must name a backend, a route, or BACKEND/MODEL, not "smal"'),
        ("{targets: [{backend: b}]}", 'targets[0].backend: must be a backend of this profile, not "b"'),
        ("{targets: [b/small]}", 'targets[0]: must name a backend, a route, or BACKEND/MODEL, not "b/small"'),
        ("{alias: smal}", 'did you mean "small"?'),
        ("{alias: a}", "that is a backend: write targets: [a]"),
        ('{alias: "gpt-*"}', "an alias stands for a route"),
        ("{}", "a route needs targets or an alias"),
        ("{alias: small, targets: [a]}", "either an alias or targets"),
        ("{alias: small, cold: reject}", "an alias is only another name"),
        ("{targets: []}", "targets: must not be empty"),
    ],
)
def test_a_route_that_leads_nowhere_is_told(route: str, says: str) -> None:
    (problem,) = problems_of(f'{ONE}  r: {route}\n  "gpt-*": {{alias: small}}')
    assert problem.startswith("p:4:")
    assert says in problem


@pytest.mark.parametrize(
    ("routes", "circle"),
    [
        ("  r: {alias: r}", '"r" → "r"'),
        ("  r: {alias: s}\n  s: {targets: [a, r]}", '"r" → "s" → "r"'),
        ("  q: {alias: r}\n  r: {alias: s}\n  s: {alias: t}\n  t: {alias: r}", '"r" → "s" → "t" → "r"'),
    ],
)
def test_a_circle_of_routes_is_told_once_with_its_steps(routes: str, circle: str) -> None:
    (problem,) = problems_of(ONE + routes)
    assert circle in problem


def test_a_route_named_like_its_backend_is_no_circle() -> None:
    assert problems_of(f"{ONE}  a: {{targets: [a]}}") == []


def test_two_ways_to_one_route_are_no_circle() -> None:
    assert problems_of(f"{ONE}  r: {{alias: small}}\n  s: {{alias: r}}\n  t: {{targets: [s, r]}}") == []


def test_a_chain_of_thousands_of_aliases_is_followed() -> None:
    links = "".join(f"  r{number}: {{alias: r{number + 1}}}\n" for number in range(3000))
    assert problems_of(f"{ONE}{links}  r3000: {{alias: small}}") == []


def test_an_unknown_fallback_is_told() -> None:
    (problem,) = problems_of(f"{ONE}  r: {{alias: small}}\nfallback: [r, s]")
    assert problem.startswith("p:5:15: fallback[1]: must name a backend, a route, or BACKEND/MODEL")


def _backends(*lines: str) -> str:
    return "version: 1\nbackends:\n" + "".join(f"  b{number}: {{{line}}}\n" for number, line in enumerate(lines))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            _backends("engine: ollama, port: 9", "engine: ollama, port: 9"),
            'port 9 is already used by the backend "b0"',
        ),
        (_backends("engine: ollama, port: 4000"), "port 4000 is already used by the gateway"),
        (_backends(*["engine: ollama, group: g"] * 2), 'runs at a time, and "b0" of this one is always on'),
        (_backends("engine: vllm"), "b0.model: is required"),
        (_backends("engine: ollama, api_key: x"), "api_key is for attached backends"),
        (_backends("engine: ollama, attach: 'http://h:1', start: always"), "has no effect with attach"),
        (_backends("engine: llamacpp, model: m, runner: embedded, binary: x"), "the embedded runner uses no binary"),
        ("version: 1\ngateway: {host: 0.0.0.0}", "needs an API key"),
        ("version: 1\nmodels: {m: {source: 'https://h/f.gguf'}}", "needs its checksum"),
        ("version: 1\nmodels: {m: {source: 'file:/f', file: x}, n: {source: 'file:/g', file: x}}", "has its own file"),
    ],
)
def test_a_broken_rule_between_sections_is_told(text: str, says: str) -> None:
    (problem,) = problems_of(text)
    assert says in problem


@pytest.mark.parametrize(
    "text",
    [
        _backends("engine: ollama", "engine: ollama"),
        _backends("engine: ollama, group: g", "engine: ollama, group: g, start: on_demand"),
        _backends("engine: ollama, port: 9", "engine: ollama, attach: 'http://127.0.0.1:9'"),
        _backends(*["engine: llamacpp, model: m, served_name: same"] * 2),
        "version: 1\ngateway: {host: '::1', port: 0}",
    ],
)
def test_what_only_looks_like_a_clash_is_fine(text: str) -> None:
    assert problems_of(text) == []


@pytest.mark.parametrize("name", ["gateway", "daemon", "redis"])
def test_a_backend_cannot_take_the_name_of_a_process_of_aigws_own(name: str) -> None:
    (problem,) = problems_of(f"version: 1\nbackends: {{{name}: {{engine: llamacpp, model: m}}}}")
    assert problem.startswith("p:2:")
    assert "none of gateway, daemon and redis" in problem


def test_a_name_that_only_begins_like_one_is_fine() -> None:
    assert problems_of("version: 1\nbackends: {gateway2: {engine: llamacpp, model: m}}") == []
