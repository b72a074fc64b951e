"""What the worker is told to route on: the profile's words, and what holds where it leaves things open."""

import msgspec
import pytest

from aigw_daemon.control.snapshots import snapshot
from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, RERANK, BackendView, RouteView, Snapshot
from aigw_daemon.profile.load import parse
from aigw_daemon.words import EngineKind, State
from tests.support.gateway import backend

GENERATE, POOLING = (CHAT, COMPLETIONS), (EMBEDDINGS, RERANK)
URL = "b: {engine: openai, url: http://127.0.0.1:1/v1"


def shown(
    backends: str, rest: str = "", *, host: str = "127.0.0.1", engine: EngineKind = EngineKind.OPENAI
) -> Snapshot:
    """The snapshot of a profile whose backend ``b`` is up at ``host``."""
    view = msgspec.structs.replace(backend("b", 1, models=[], engine=engine), host=host)
    return snapshot(parse(f"version: 1\nbackends:\n  {backends}\n{rest}", "p.yaml"), [view], 1)


def seen(backends: str, rest: str = "", *, host: str = "127.0.0.1") -> BackendView:
    """The backend ``b`` in it."""
    (view,) = shown(backends, rest, host=host).backends
    return view


def routed(settings: str, rest: str = "") -> RouteView:
    """A route ``r`` over two URLs."""
    backends = f"{URL}}}\n  c: {{engine: openai, url: http://127.0.0.1:2/v1}}"
    return next(route for route in shown(backends, f"routes:\n  r: {settings}\n{rest}").routes if route.name == "r")


@pytest.mark.parametrize(
    ("section", "endpoints"),
    [
        ("b: {engine: ollama}", (*GENERATE, EMBEDDINGS)),
        ("b: {engine: ollama, attach: http://127.0.0.1:1}", (*GENERATE, EMBEDDINGS)),
        ("b: {engine: llamacpp, model: m}", GENERATE),
        ("b: {engine: llamacpp, model: m, embeddings: true}", (EMBEDDINGS,)),
        ("b: {engine: llamacpp, model: m, rerank: true, embeddings: true}", (RERANK,)),
        ("b: {engine: llamacpp, model: m, args: [--reranking]}", (RERANK,)),
        ("b: {engine: llamacpp, model: m, args: [--embedding]}", (EMBEDDINGS,)),
        ("b: {engine: llamacpp, attach: http://127.0.0.1:1}", ENDPOINTS),
        ("b: {engine: vllm, model: m}", ENDPOINTS),
        ("b: {engine: vllm, model: m, args: [--runner, auto]}", ENDPOINTS),
        ("b: {engine: vllm, model: m, args: [--task, embed]}", POOLING),
        ("b: {engine: vllm, model: m, args: [--runner=pooling]}", POOLING),
        ("b: {engine: vllm, model: m, args: [--runner=pooling, --runner, generate]}", GENERATE),
        (f"{URL}}}", ENDPOINTS),
        ("b: {engine: command, command: [x]}", ENDPOINTS),
    ],
)
def test_an_engine_speaks_what_it_was_started_for(section: str, endpoints: tuple[str, ...]) -> None:
    assert seen(section).endpoints == endpoints


@pytest.mark.parametrize(
    ("section", "rest", "host", "first_token", "gap"),
    [
        ("b: {engine: llamacpp, model: m}", "", "127.0.0.1", None, None),
        ("b: {engine: command, command: [x]}", "", "127.0.0.1", None, None),
        ("b: {engine: ollama, attach: http://127.0.0.1:1}", "", "127.0.0.1", 300.0, 60.0),
        (f"{URL}}}", "", "127.0.0.1", 300.0, 60.0),
        (f"{URL}, cloud: true}}", "", "127.0.0.1", 60.0, 60.0),
        (f"{URL}}}", "", "ollama.com", 60.0, 60.0),
        (f"{URL}, cloud: false}}", "", "ollama.com", 300.0, 60.0),
        (f"{URL}}}", "gateway: {first_token_timeout: 7s, gap_timeout: 8s}", "ollama.com", 7.0, 8.0),
        (
            "b: {engine: llamacpp, model: m, first_token_timeout: 2m, gap_timeout: 3s}",
            "gateway: {first_token_timeout: 7s, gap_timeout: 8s}",
            "127.0.0.1",
            120.0,
            3.0,
        ),
    ],
)
def test_a_backend_may_be_silent_as_long_as_nobody_can_see_it_work(
    section: str, rest: str, host: str, first_token: float | None, gap: float | None
) -> None:
    view = seen(section, rest, host=host)
    assert (view.first_token_timeout, view.gap_timeout) == (first_token, gap)


@pytest.mark.parametrize(
    ("host", "cloud"), [("ollama.com", True), ("api.ollama.com", True), ("notollama.com", False), ("", False)]
)
def test_ollamas_own_host_is_a_cloud(host: str, cloud: bool) -> None:
    assert seen(f"{URL}}}", host=host).cloud is cloud


def test_places_and_queues_are_the_profiles_or_the_engines() -> None:
    assert seen("b: {engine: vllm, model: m, args: [--max-num-seqs, 8]}").max_concurrency == 8
    assert seen("b: {engine: vllm, model: m, args: [--max_num_seqs=9], max_concurrency: 3}").max_queue == 100
    assert seen("b: {engine: vllm, model: m, args: [--max-num-seqs, many]}").max_concurrency is None
    assert seen("b: {engine: ollama}").max_concurrency is None
    assert seen("b: {engine: ollama}", "gateway: {max_queue: 7}").max_queue == 7
    assert seen("b: {engine: ollama, max_queue: 0}", "gateway: {max_queue: 7}").max_queue == 0


def test_what_the_engine_reports_comes_before_its_arguments() -> None:
    profile = parse("version: 1\nbackends: {b: {engine: vllm, model: m, args: [--max-num-seqs, 8]}}", "p.yaml")
    told = msgspec.structs.replace(backend("b", 1, engine=EngineKind.VLLM), max_concurrency=4)
    assert snapshot(profile, [told], 1).backends[0].max_concurrency == 4


def test_a_cold_start_has_its_own_time() -> None:
    assert seen("b: {engine: ollama}").cold_timeout == 600.0
    assert seen("b: {engine: ollama, cold_timeout: 5s}", "gateway: {cold_timeout: 1m}").cold_timeout == 5.0
    assert seen("b: {engine: ollama}", "gateway: {cold_timeout: 1m}").cold_timeout == 60.0


def test_the_gateways_limits_are_told() -> None:
    gateway = shown(f"{URL}}}", "gateway: {max_attempts: 5, queue_timeout: 3s}").gateway
    assert (gateway.max_attempts, gateway.queue_timeout) == (5, 3.0)
    assert (shown(f"{URL}}}").gateway.max_attempts, shown(f"{URL}}}").gateway.queue_timeout) == (3, 60.0)


def test_a_model_of_the_profile_is_known_while_its_backend_is_down() -> None:
    profile = parse("version: 1\nbackends: {b: {engine: llamacpp, model: m, served_name: s}}", "p.yaml")
    down = backend("b", 1, models=[], state=State.FAILED)
    assert [view.id for view in snapshot(profile, [down], 1).backends[0].models] == ["s"]


def test_a_routes_settings_are_told_in_ready_json() -> None:
    route = routed(
        "{targets: [{backend: b, model: m, weight: 3}, c], balance: weighted, overflow: spill, request_timeout: 9s,"
        ' first_token_timeout: 2s, defaults: {temperature: 0.2, stop: ["a", "ü"], seed: 123456789012345678901},'
        " override: {top_k: 40, extra: {deep: [1, null, true]}}, drop: [logit_bias], on_context_overflow: [c/long]}"
    )
    assert [(target.backend, target.weight) for target in route.targets] == [("b", 3), ("c", 1)]
    assert (route.balance, route.overflow, route.request_timeout, route.first_token_timeout) == (
        "weighted", "spill", 9.0, 2.0,
    )  # fmt: skip
    assert route.params is not None
    assert route.params.defaults == {
        "temperature": b"0.2", "stop": b'["a", "\\u00fc"]', "seed": b"123456789012345678901",
    }  # fmt: skip
    assert route.params.override == {"top_k": b"40", "extra": b'{"deep": [1, null, true]}'}
    assert route.params.drop == ("logit_bias",)
    assert [(target.backend, target.model) for target in route.on_context_overflow] == [("c", "long")]


def test_an_alias_has_the_settings_of_its_route() -> None:
    rest = "  s: {targets: [b/m], cold: bridge, balance: least_busy, drop: [user], on_context_overflow: [c/long]}\n"
    alias = routed("{alias: s}", rest)
    assert (alias.alias_of, alias.cold, alias.balance) == ("s", "bridge", "least_busy")
    assert alias.params is not None
    assert [target.model for target in alias.on_context_overflow] == ["long"]


def test_a_plain_route_has_no_parameters() -> None:
    assert routed("{targets: [b/m]}").params is None


def test_too_long_a_prompt_goes_to_no_target_that_it_was_too_long_for() -> None:
    rest = "  s: {targets: [c/long, b/m]}\n"
    assert [(target.backend, target.model) for target in routed(
        "{targets: [b/m], on_context_overflow: [s]}", rest
    ).on_context_overflow] == [("c", "long")]  # fmt: skip


def test_a_pattern_is_a_glob_or_a_regular_expression() -> None:
    routes = shown(
        f"{URL}}}", 'routes: {"~gpt-.+": {targets: [b]}, "o?": {targets: [b]}, plain: {targets: [b]}}'
    ).routes
    assert {route.name: route.pattern for route in routes} == {"~gpt-.+": True, "o?": True, "plain": False}
    assert {route.name: route.targets[0].model for route in routes} == {"~gpt-.+": "", "o?": "", "plain": "plain"}


def test_capabilities_are_told_as_they_are() -> None:
    told = shown(f"{URL}}}", "capabilities: {code: [b/x, y], chat: [y]}").capabilities
    assert [(each.name, each.models) for each in told] == [("code", ("b/x", "y")), ("chat", ("y",))]
