"""What `aigw test-routing` is told, and which routed models a cloud no longer offers."""

import msgspec

from aigw_daemon.control.codec import converted, plain
from aigw_daemon.control.looking import route_answer
from aigw_daemon.control.offers import no_longer_offered
from aigw_daemon.control.schema import RouteAnswer, RouteRequest
from aigw_daemon.gateway.ability import WAITED_FOR
from aigw_daemon.link.messages import Load, ParamsView, RouteView, Snapshot, TargetView
from aigw_daemon.words import EngineKind, State
from tests.support.gateway import backend, route
from tests.support.routing import cloud, having, model, showing

COLD = msgspec.structs.replace(
    backend("coder", 1, models=["q"], engine=EngineKind.VLLM, state=State.STOPPED),
    last_start_s=72.0, max_concurrency=30, max_queue=5, first_token_timeout=9.0, gap_timeout=8.0, cold_timeout=7.0,
)  # fmt: skip
WARM = backend("ollama", 2, models=["q", "v"], engine=EngineKind.OLLAMA)


def answer(snapshot: Snapshot, name: str, load: Load | None = None, **asked: object) -> RouteAnswer:
    """What the operator is shown."""
    return route_answer(snapshot, converted({"model": name, **asked}, RouteRequest), load or Load({}))


def test_each_hop_has_what_holds_for_it() -> None:
    told = answer(
        showing(COLD, WARM, routes=[route("r", ("coder", "q"), ("ollama", "q"), cold="bridge")]),
        "r",
        Load({"coder": 2}, waiting={"coder": 1}, broken={"coder": "3 refused connections"}),
    )
    first, second = told.candidates
    assert (first.kept, first.cold) == (False, False)
    assert first.reason == f"its circuit is open: 3 refused connections{WAITED_FOR}"
    assert first.limits is not None
    assert plain(first.limits) == {
        "in_flight": 2, "max_concurrency": 30, "waiting": 1, "max_queue": 5, "first_token_timeout": 9.0,
        "gap_timeout": 8.0, "cold_timeout": 7.0, "circuit": "3 refused connections", "last_start_s": 72.0,
    }  # fmt: skip
    assert (second.kept, second.cold, told.cold, told.route) == (True, False, "bridge", "r")
    assert (told.request_timeout, told.max_attempts, told.queue_timeout) == (600.0, 3, 60.0)


def test_the_routes_own_times_come_before_the_others() -> None:
    settings = RouteView("r", (TargetView("coder", "q"),), first_token_timeout=1.5, request_timeout=4.0)
    told = answer(showing(COLD, routes=[settings]), "r")
    assert told.request_timeout == 4.0
    assert told.candidates[0].limits is not None
    assert told.candidates[0].limits.first_token_timeout == 1.5
    assert told.candidates[0].cold


def test_fields_and_the_chain_for_long_prompts_are_told() -> None:
    params = ParamsView({"temperature": b"0.2"}, {"top_k": b"[1]"}, ("user",))
    settings = RouteView(
        "r", (TargetView("coder", "q"),), params=params, on_context_overflow=(TargetView("ollama", "v"),)
    )
    told = answer(showing(COLD, WARM, routes=[settings]), "r")
    assert told.parameters is not None
    assert plain(told.parameters) == {
        "defaults": {"temperature": 0.2},
        "override": {"top_k": [1]},
        "drop": ["user"],
    }
    assert [(each.backend, each.model) for each in told.on_context_overflow] == [("ollama", "v")]


def test_the_least_busy_is_shown_first_and_a_die_is_not_thrown() -> None:
    routes = [
        RouteView("busy", (TargetView("a", "m"), TargetView("b", "m")), balance="least_busy"),
        RouteView("dice", (TargetView("a", "m", 1), TargetView("b", "m", 9)), balance="weighted"),
    ]
    snapshot = showing(backend("a", 1), backend("b", 2), routes=routes)
    assert [each.backend for each in answer(snapshot, "busy", Load({"a": 1})).candidates] == ["b", "a"]
    assert [(each.backend, each.weight) for each in answer(snapshot, "dice").candidates] == [("a", 1), ("b", 9)]


def test_an_endpoint_that_nobody_speaks_is_told_with_the_models_that_do() -> None:
    snapshot = showing(having(COLD, model("q", "chat")), having(WARM, model("v", "embeddings")))
    told = answer(snapshot, "coder/q", endpoint="embeddings")
    assert (told.endpoint, told.instead) == ("embeddings", ["v"])
    assert answer(snapshot, "coder/q").instead is None


def test_a_need_that_a_model_lacks_is_a_reason() -> None:
    told = answer(showing(having(WARM, model("v", "chat"))), "v", needs=["tools"])
    assert told.candidates[0].reason == "'v' lacks tools, it has chat"


ROUTES = [
    route("deep", ("cloud", "deep:1t"), ("ollama", "q")),
    route("gone", ("cloud", "old:1b-cloud"), ("ollama", "q")),
    route("again", ("cloud", "old:1b-cloud")),
    route("p*", ("cloud", ""), pattern=True),
]


def test_a_routed_model_that_its_cloud_no_longer_offers_is_told_once() -> None:
    snapshot = showing(cloud("cloud", "deep:1t"), WARM, routes=ROUTES)
    (found,) = no_longer_offered(snapshot)
    assert found.sentence == "cloud no longer offers old:1b-cloud, which the route 'gone' asks it for"
    assert answer(snapshot, "gone").warnings == [found.sentence]
    assert answer(snapshot, "deep").warnings == []


def test_a_model_that_only_the_profile_says_a_cloud_has_is_warned_of_and_still_asked_for() -> None:
    named = having(cloud("cloud"), msgspec.structs.replace(model("deep:1t"), listed=False), model("old:1b"))
    told = answer(showing(named, WARM, routes=ROUTES), "deep")
    assert told.warnings == ["cloud no longer offers deep:1t, which the route 'deep' asks it for"]
    assert told.candidates[0].kept


def test_a_cloud_that_says_nothing_is_not_accused() -> None:
    assert no_longer_offered(showing(cloud("cloud"), routes=ROUTES)) == []
    assert no_longer_offered(showing(cloud("cloud", "x", state=State.UNREACHABLE), routes=ROUTES)) == []
    assert no_longer_offered(showing(backend("cloud", 1, models=["x"]), routes=ROUTES)) == []


def test_a_model_that_only_longer_prompts_need_is_watched_as_well() -> None:
    settings = RouteView("r", (TargetView("ollama", "q"),), on_context_overflow=(TargetView("cloud", "long"),))
    assert answer(showing(cloud("cloud", "x"), WARM, routes=[settings]), "r").warnings == [
        "cloud no longer offers long, which the route 'r' asks it for"
    ]
