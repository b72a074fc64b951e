"""What a profile says of routing: patterns, balance, fields of requests, capabilities, chains for long prompts."""

import pytest

from aigw_daemon.profile.chains import context_chain, is_pattern
from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.load import parse

CLOSED = "version: 1\nbackends: {a: {engine: llamacpp, model: m, served_name: small}}\n"
OPEN = "version: 1\nbackends: {a: {engine: llamacpp, model: m, served_name: small}, o: {engine: ollama}}\n"


def problems_of(text: str) -> list[str]:
    try:
        parse(text, "p")
    except ProfileError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_a_name_with_a_tilde_is_a_pattern_whatever_else_is_in_it() -> None:
    assert [is_pattern(name) for name in ("~gpt-.+", "~x", "gpt-?", "gpt-4", "a~b")] == [True, True, True, False, False]


@pytest.mark.parametrize("name", ["~gpt-[0-9]+", "~", "~(a|b)*", "~[[a]", "~(?i)llama.*"])
def test_a_regular_expression_is_fine(name: str) -> None:
    assert problems_of(f'{CLOSED}routes:\n  "{name}": {{alias: small}}') == []


@pytest.mark.parametrize(
    ("name", "trouble"), [("~gpt-(", "missing )"), ("~*", "nothing to repeat"), ("~[a", "unterminated")]
)
def test_one_that_is_none_is_told_with_its_place(name: str, trouble: str) -> None:
    (problem,) = problems_of(f'{CLOSED}routes:\n  "{name}": {{alias: small}}')
    assert problem.startswith(f"p:4:{len(name) + 7}: routes.{name}: a name that starts with ~ is a regular expression")
    assert trouble in problem


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("balance: even", 'balance: must be one of the choices, not "even"'),
        ("overflow: drop", 'overflow: must be one of the choices, not "drop"'),
        ("targets: [{backend: a, weight: 0}]", "targets[0].weight: must be 1 or more"),
        ("targets: [{backend: a, weight: 1.5}]", "targets[0].weight: must be a whole number"),
        ("on_context_overflow: [nope]", "on_context_overflow[0]: must name a backend, a route, or BACKEND/MODEL"),
        ("on_context_overflow: [{backend: b}]", "on_context_overflow[0].backend: must be a backend of this profile"),
        ("on_context_overflow: [{backnd: a}]", 'on_context_overflow[0].backnd: unknown key; did you mean "backend"?'),
        ("defaults: {model: x}", "defaults.model: a route can't change documents, input, messages, model, n,"),
        ("override: {stream: true}", "override.stream: a route can't change"),
        ("drop: [messages]", "drop[0]: a route can't change"),
        ('drop: ["a b"]', "drop[0]: must be the name of a request's field"),
        ("defaults: {x: .inf}", "defaults.x: must be a number that JSON has"),
        ("defaults: {x: [1, {y: .nan}]}", "defaults.x: must be a number that JSON has"),
        ("request_timeout: soon", "request_timeout: must be a duration"),
    ],
)
def test_a_setting_that_makes_no_sense_is_told(settings: str, says: str) -> None:
    targets = "" if "targets" in settings else "targets: [a], "
    problems = problems_of(f"{CLOSED}routes:\n  r: {{{targets}{settings}}}")
    assert any(says in problem for problem in problems), problems


@pytest.mark.parametrize(
    "key", ["balance: weighted", "overflow: spill", "defaults: {seed: 1}", "override: {seed: 1}", "drop: [seed]",
            "on_context_overflow: [a]", "request_timeout: 1s", "first_token_timeout: 1s"],
)  # fmt: skip
def test_an_alias_has_no_settings_of_its_own(key: str) -> None:
    (problem,) = problems_of(f"{CLOSED}routes:\n  r: {{alias: small, {key}}}")
    assert "an alias is only another name: this belongs to the route that it stands for" in problem


@pytest.mark.parametrize("models", ["[small]", "[a/other]", "[r]", "[r, small]"])
def test_a_capability_lists_models_that_can_be_asked_for(models: str) -> None:
    assert problems_of(f"{CLOSED}routes: {{r: {{targets: [a]}}}}\ncapabilities:\n  code: {models}") == []


def test_with_an_engine_that_is_asked_for_its_models_any_name_may_be_one() -> None:
    assert problems_of(f'{OPEN}capabilities:\n  code: ["qwen2.5-coder:7b"]') == []


@pytest.mark.parametrize(
    ("capabilities", "says"),
    [
        ("code: [smal]", 'code[0]: must be a route, a model that a backend serves, or BACKEND/MODEL, not "smal"'),
        ("code: [a]", "that is a backend: write a/MODEL"),
        ("code: [chat]\n  chat: [small]", "code[0]: a capability lists models, and no other capability"),
        ("r: [small]", "capabilities.r: a route has this name already, and routes come first"),
        ('"c*": [small]', "a capability has one name, no pattern"),
        ("code: []", "capabilities.code: must not be empty"),
        ("code: small", "capabilities.code: must be a list"),
    ],
)  # fmt: skip
def test_a_capability_that_leads_nowhere_is_told(capabilities: str, says: str) -> None:
    (problem,) = problems_of(f"{CLOSED}routes: {{r: {{targets: [a]}}}}\ncapabilities:\n  {capabilities}")
    assert says in problem


def test_the_chain_for_long_prompts_follows_routes_and_leaves_the_targets_out() -> None:
    profile = parse(
        f"{OPEN}routes:\n"
        "  r: {targets: [small], on_context_overflow: [s, {backend: o}]}\n"
        "  s: {targets: [small, o/long], on_context_overflow: [r]}\n"
        "  t: {alias: r}\n",
        "p",
    )
    expected = [("o", "long"), ("o", "r")]
    assert [(target.backend, target.model) for target in context_chain(profile, "r")] == expected
    assert context_chain(profile, "s") == ()
    assert [(target.backend, target.model) for target in context_chain(profile, "t")] == expected


@pytest.mark.parametrize(
    ("gateway", "says"),
    [
        ("max_attempts: 0", "gateway.max_attempts: must be 1 or more"),
        ("max_queue: -1", "gateway.max_queue: must be 0 or more"),
        ("queue_timeout: long", "gateway.queue_timeout: must be a duration"),
        ("gap_timout: 1s", 'did you mean "gap_timeout"?'),
    ],
)
def test_a_limit_that_makes_no_sense_is_told(gateway: str, says: str) -> None:
    (problem,) = problems_of(f"{CLOSED}gateway:\n  {gateway}")
    assert says in problem


def test_an_attached_backend_has_limits_too() -> None:
    assert problems_of(
        "version: 1\nbackends:\n  a: {engine: vllm, attach: http://127.0.0.1:1, max_queue: 3, gap_timeout: 5s}\n"
        "  b: {engine: openai, url: https://example.org/v1, cloud: true, max_queue: 0}"
    ) == []  # fmt: skip
