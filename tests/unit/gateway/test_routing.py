"""The router: which candidates, in which order, and why. Property tests hold for every snapshot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_daemon.gateway.models_view import model_list
from aigw_daemon.gateway.routing import Conditions, Decision, Readiness, RoutingTable, resolve
from aigw_daemon.link.messages import BackendView, RouteView, Snapshot, TargetView
from aigw_daemon.words import EngineKind, State
from tests.support.gateway import backend, route, snapshot


def table(
    *backends: BackendView, routes: tuple[RouteView, ...] = (), fallback: tuple[TargetView, ...] = ()
) -> RoutingTable:
    shown = snapshot(*backends, routes=routes)
    return RoutingTable(Snapshot(shown.revision, shown.profile, shown.gateway, shown.backends, shown.routes, fallback))


def tried(decision: Decision) -> list[tuple[str, str]]:
    return [(candidate.backend, candidate.model) for candidate in decision.kept]


A, B = backend("a", 1, models=["x", "y"]), backend("b", 2, models=["x", "z"])


def test_a_route_gives_its_targets_in_order() -> None:
    decision = resolve(table(A, B, routes=(route("r", ("b", "z"), ("a", "y")),)), "r")
    assert (decision.matched, decision.route, tried(decision)) == ("route", "r", [("b", "z"), ("a", "y")])


def test_an_alias_says_that_it_is_one() -> None:
    alias = RouteView("code", (TargetView("a", "x"),), alias_of="r")
    assert resolve(table(A, routes=(alias,)), "code").matched == "alias"


def test_a_route_comes_before_a_listed_model_of_the_same_name() -> None:
    assert tried(resolve(table(A, B, routes=(route("x", ("b", "x")),)), "x")) == [("b", "x")]


def test_a_backend_can_be_addressed_directly() -> None:
    decision = resolve(table(A, B), "b/x")
    assert (decision.matched, tried(decision)) == ("direct", [("b", "x")])


def test_a_listed_model_is_asked_of_every_backend_that_lists_it() -> None:
    decision = resolve(table(A, B), "x")
    assert (decision.matched, tried(decision)) == ("listed", [("a", "x"), ("b", "x")])


def test_a_listed_model_is_never_swallowed_by_a_pattern() -> None:
    listed = backend("a", 1, models=["gpt-oss:20b"])
    routes = (route("gpt-*", ("b", "z"), pattern=True),)
    assert resolve(table(listed, B, routes=routes), "gpt-oss:20b").matched == "listed"
    assert tried(resolve(table(listed, B, routes=routes), "gpt-4o")) == [("b", "z")]


def test_a_target_without_a_model_takes_the_name_that_was_asked_for() -> None:
    ollama = backend("a", 1, models=[], engine=EngineKind.OLLAMA)
    assert tried(resolve(table(ollama, routes=(route("q*", ("a", ""), pattern=True),)), "qwen")) == [("a", "qwen")]


def test_a_pattern_with_a_tilde_is_a_regular_expression_for_the_whole_name() -> None:
    routes = (route("~gpt-[0-9]+", ("a", "x"), pattern=True),)
    assert resolve(table(A, routes=routes), "gpt-4").matched == "pattern"
    assert resolve(table(A, routes=routes), "gpt-4o").matched is None


def test_patterns_are_tried_in_the_order_of_the_profile() -> None:
    routes = (route("gpt-*", ("a", "x"), pattern=True), route("*", ("b", "z"), pattern=True))
    assert tried(resolve(table(A, B, routes=routes), "gpt-4")) == [("a", "x")]
    assert tried(resolve(table(A, B, routes=routes), "other")) == [("b", "z")]


def test_ollamas_name_without_a_tag_means_latest() -> None:
    ollama = backend("a", 1, models=["llama:latest"], engine=EngineKind.OLLAMA)
    assert tried(resolve(table(ollama, routes=(route("r", ("a", "llama")),)), "r")) == [("a", "llama:latest")]
    assert tried(resolve(table(ollama), "llama")) == [("a", "llama:latest")]


def test_the_fallback_comes_after_the_targets_and_each_target_once() -> None:
    with_fallback = RouteView("r", (TargetView("a", "x"),), fallback=(TargetView("a", "x"), TargetView("b", "x")))
    decision = resolve(table(A, B, routes=(with_fallback,)), "r")
    assert tried(decision) == [("a", "x"), ("b", "x")]
    assert [candidate.fallback for candidate in decision.candidates] == [False, True]


def test_an_unknown_model_never_falls_back() -> None:
    decision = resolve(table(A, fallback=(TargetView("a", "x"),)), "nope")
    assert (decision.matched, decision.candidates) == (None, ())


def test_a_listed_model_falls_back_as_the_profile_says() -> None:
    assert tried(resolve(table(A, B, fallback=(TargetView("b", "z"),)), "y")) == [("a", "y"), ("b", "z")]


def test_a_model_that_the_backend_does_not_list_is_skipped_with_that_reason() -> None:
    (candidate,) = resolve(table(A, routes=(route("r", ("a", "q")),)), "r").candidates
    assert (candidate.readiness, candidate.reason) == (Readiness.SKIPPED, "does not serve 'q', it serves x, y")


def test_a_backend_that_lists_nothing_yet_is_believed() -> None:
    assert tried(resolve(table(backend("a", 1, models=[]), routes=(route("r", ("a", "q")),)), "r")) == [("a", "q")]


def test_what_is_assumed_down_is_skipped() -> None:
    found = resolve(table(A, B, routes=(route("r", ("a", "x"), ("b", "x")),)), "r", Conditions(frozenset({"a"})))
    assert tried(found) == [("b", "x")]
    assert found.candidates[0].reason == "assumed down"


@pytest.mark.parametrize(
    ("state", "wanted", "readiness"),
    [
        (State.READY, True, Readiness.READY),
        (State.DEGRADED, True, Readiness.READY),
        (State.STARTING, True, Readiness.COLD),
        (State.SLEEPING, True, Readiness.COLD),
        (State.STOPPED, True, Readiness.COLD),
        (State.STOPPED, False, Readiness.SKIPPED),
        (State.DRAINING, True, Readiness.SKIPPED),
        (State.STOPPING, True, Readiness.SKIPPED),
        (State.BACKOFF, True, Readiness.SKIPPED),
        (State.FAILED, True, Readiness.SKIPPED),
        (State.UNREACHABLE, True, Readiness.SKIPPED),
    ],
)
def test_the_state_decides_whether_a_candidate_is_kept(state: State, wanted: bool, readiness: Readiness) -> None:
    (candidate,) = resolve(table(backend("a", 1, models=["x"], state=state, wanted=wanted)), "x").candidates
    assert candidate.readiness is readiness
    assert candidate.kept == (readiness is not Readiness.SKIPPED)


def test_nearest_names_are_offered() -> None:
    assert resolve(table(backend("a", 1, models=["llama3.1:latest"])), "llama3.2:latest").nearest == (
        "llama3.1:latest",
    )


NAMES = st.sampled_from(["a", "b", "c", "x", "y", "a/x", "r", "q:latest", "q"])
BACKENDS = st.lists(
    st.builds(
        lambda name, models, state, wanted: backend(
            name, 1, models=models, state=state, wanted=wanted, engine=EngineKind.OLLAMA
        ),
        st.sampled_from(["a", "b", "c"]),
        st.lists(NAMES, max_size=3, unique=True),
        st.sampled_from(list(State)),
        st.booleans(),
    ),
    max_size=3,
    unique_by=lambda view: view.name,
)
TARGETS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "nowhere"]), NAMES), min_size=1, max_size=3)
ROUTES = st.lists(
    st.builds(lambda name, targets: route(name, *targets), NAMES, TARGETS), max_size=4, unique_by=lambda r: r.name
)


@given(BACKENDS, ROUTES, NAMES, st.frozensets(st.sampled_from(["a", "b", "c"])))
def test_only_able_backends_are_kept_and_the_order_is_the_routes(
    backends: list[BackendView], routes: list[RouteView], name: str, down: frozenset[str]
) -> None:
    compiled = table(*backends, routes=tuple(routes))
    decision = resolve(compiled, name, Conditions(down))
    for candidate in decision.kept:
        view = compiled.backends[candidate.backend]
        assert candidate.backend not in down
        assert view.state in {State.READY, State.DEGRADED, State.STARTING, State.SLEEPING, State.STOPPED}
        assert not view.models or candidate.model in {model.id for model in view.models}
    chosen = next((found for found in routes if found.name == name), None)
    if chosen is not None:
        order = [target.backend for target in dict.fromkeys(chosen.targets)]
        assert [candidate.backend for candidate in decision.candidates] == order


@given(BACKENDS, ROUTES)
def test_every_listed_model_leads_somewhere(backends: list[BackendView], routes: list[RouteView]) -> None:
    compiled = table(*backends, routes=tuple(routes))
    for entry in model_list(compiled, "p")["data"]:
        assert resolve(compiled, entry["id"]).candidates
