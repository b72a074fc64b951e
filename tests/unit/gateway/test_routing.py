"""The router: which candidates, in which order, and why."""

import msgspec
import pytest

from aigw_daemon.gateway.ability import WAITED_FOR
from aigw_daemon.gateway.models_view import model_list
from aigw_daemon.gateway.routing import Ask, Conditions, Readiness, resolve
from aigw_daemon.link.messages import CHAT, EMBEDDINGS, RERANK, ModelView, ParamsView, RouteView, TargetView
from aigw_daemon.words import EngineKind, State
from tests.support.gateway import backend, route
from tests.support.routing import cloud, having, model, reasons, table, tried

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


@pytest.mark.parametrize("state", [State.STOPPING, State.BACKOFF])
def test_one_that_comes_back_is_skipped_but_may_be_waited_for(state: State) -> None:
    back = msgspec.structs.replace(backend("a", 1, models=["x"], state=state), returning=True)
    found = resolve(table(back, B, routes=(route("r", ("a", "x"), ("b", "x")),)), "r")
    assert tried(found) == [("b", "x")]
    assert [(each.backend, each.reason.endswith(WAITED_FOR)) for each in found.returning] == [("a", True)]
    assumed = resolve(table(back, routes=(route("r", ("a", "x")),)), "r", Conditions(frozenset({"a"})))
    assert assumed.returning == ()
    impatient = msgspec.structs.replace(route("r", ("a", "x")), cold="reject")
    (candidate,) = resolve(table(back, routes=(impatient,)), "r").candidates
    assert (candidate.returning, WAITED_FOR in candidate.reason) == (True, False)


def test_nearest_names_are_offered() -> None:
    assert resolve(table(backend("a", 1, models=["llama3.1:latest"])), "llama3.2:latest").nearest == (
        "llama3.1:latest",
    )


TEXT = model("x", "chat", "completions")
VECTORS = model("v", "embeddings")
SEEING = model("x", "chat", "vision", "tools", context=512)


def test_the_cloud_names_of_ollama_reach_a_cloud_that_lists_the_plain_ones() -> None:
    routed = table(A, cloud("c", "gpt-oss:120b", "glm-4.6"))
    for name, plain in (("gpt-oss:120b-cloud", "gpt-oss:120b"), ("glm-4.6:cloud", "glm-4.6")):
        decision = resolve(routed, name)
        assert (decision.matched, tried(decision)) == ("cloud", [("c", plain)])
    assert resolve(routed, "gpt-oss:20b-cloud").matched is None
    assert resolve(routed, "gpt-oss-cloud").matched is None


def test_a_cloud_is_addressed_by_either_name() -> None:
    routed = table(cloud("c", "m:1b"), routes=(route("r", ("c", "m:1b-cloud")),))
    assert tried(resolve(routed, "c/m:1b-cloud")) == tried(resolve(routed, "r")) == [("c", "m:1b")]


def test_a_cloud_that_does_not_answer_is_skipped_rather_than_unknown() -> None:
    decision = resolve(table(cloud("c", state=State.UNREACHABLE)), "m:1b-cloud")
    assert (decision.matched, [each.model for each in decision.candidates], tried(decision)) == ("cloud", ["m:1b"], [])


def test_what_a_local_ollama_lists_comes_before_the_cloud() -> None:
    ollama = backend("o", 1, models=["m:1b-cloud"], engine=EngineKind.OLLAMA)
    assert tried(resolve(table(ollama, cloud("c", "m:1b")), "m:1b-cloud")) == [("o", "m:1b-cloud")]


def test_only_ollama_leaves_latest_out() -> None:
    assert resolve(table(backend("a", 1, models=["m:latest"])), "m").matched is None


def test_a_pattern_that_is_no_regular_expression_matches_nothing() -> None:
    assert resolve(table(A, routes=(route("~(", ("a", "x"), pattern=True),)), "(").matched is None


def test_a_capability_prefers_what_is_ready_then_the_order_of_the_list() -> None:
    cold = backend("cold", 3, models=["big"], state=State.STOPPED)
    routed = table(cold, A, B, capabilities={"code": ("big", "z", "y")}, fallback=(TargetView("a", "x"),))
    decision = resolve(routed, "code")
    assert decision.matched == "capability"
    assert tried(decision) == [("b", "z"), ("a", "y"), ("cold", "big"), ("a", "x")]


def test_a_capability_takes_names_as_clients_do_but_no_other_capability() -> None:
    routed = table(A, B, routes=(route("r", ("b", "z")),), capabilities={"code": ("r", "a/y", "chat"), "chat": ("x",)})
    decision = resolve(routed, "code")
    assert tried(decision) == [("b", "z"), ("a", "y")]
    assert reasons(decision.candidates)["-"] == "no backend lists it"


def test_a_capabilitys_model_may_be_of_an_ollama_that_does_not_run_yet() -> None:
    ollama = backend("o", 1, models=[], engine=EngineKind.OLLAMA, state=State.STOPPED)
    assert tried(resolve(table(ollama, capabilities={"code": ("q:7b",)}), "code")) == [("o", "q:7b")]


def test_routes_models_and_patterns_come_before_a_capability() -> None:
    capabilities = {"code": ("x",), "x": ("y",), "gpt-9": ("y",)}
    routes = (route("code", ("b", "z")), route("gpt-*", ("b", "z"), pattern=True))
    routed = table(A, B, routes=routes, capabilities=capabilities)
    assert [resolve(routed, name).matched for name in ("code", "x", "gpt-9")] == ["route", "listed", "pattern"]


def test_an_engine_that_does_not_speak_the_endpoint_is_skipped_with_that_reason() -> None:
    mute = having(A, *A.models, endpoints=("embeddings",))
    decision = resolve(table(mute, B, routes=(route("r", ("a", "x"), ("b", "x")),)), "r")
    assert tried(decision) == [("b", "x")]
    assert decision.candidates[0].reason == "llamacpp does not speak chat/completions here, only embeddings"
    assert decision.instead is None


def test_models_that_do_the_endpoint_are_named_when_no_candidate_does() -> None:
    routed = table(having(A, TEXT), having(B, VECTORS), routes=(route("r", ("a", "x")),))
    decision = resolve(routed, Ask("r", EMBEDDINGS))
    assert (tried(decision), decision.instead) == ([], ("v",))
    assert decision.candidates[0].reason == "'x' does not do embeddings, only chat, completions"
    assert resolve(routed, Ask("r", RERANK)).instead == ()
    assert resolve(routed, Ask("v", EMBEDDINGS)).instead is None
    assert resolve(routed, Ask("nope", EMBEDDINGS)).instead is None


def test_a_target_that_is_down_still_speaks_the_endpoint() -> None:
    down = having(B, VECTORS, state=State.FAILED)
    assert resolve(table(having(A, TEXT), down, routes=(route("r", ("b", "v")),)), Ask("r", EMBEDDINGS)).instead is None


def test_what_the_request_needs_and_the_model_lacks_is_a_reason() -> None:
    routed = table(having(A, TEXT), having(B, SEEING), routes=(route("r", ("a", "x"), ("b", "x")),))
    decision = resolve(routed, Ask("r", needs=frozenset({"tools", "vision"})))
    assert tried(decision) == [("b", "x")]
    assert decision.candidates[0].reason == "'x' lacks tools, vision, it has chat, completions"
    assert tried(resolve(routed, "r")) == [("a", "x"), ("b", "x")]


def test_a_model_that_says_nothing_of_itself_is_believed() -> None:
    assert tried(resolve(table(A), Ask("y", needs=frozenset({"tools"}), tokens=10_000_000))) == []
    unknown = having(A, model("y"))
    assert tried(resolve(table(unknown), Ask("y", needs=frozenset({"tools"}), tokens=10_000_000))) == [("a", "y")]


def test_a_prompt_longer_than_the_context_is_skipped_and_the_longer_one_kept() -> None:
    routed = table(having(A, SEEING), B, routes=(route("r", ("a", "x"), ("b", "x")),))
    decision = resolve(routed, Ask("r", tokens=513))
    assert tried(decision) == [("b", "x")]
    assert decision.candidates[0].reason == "its context of 512 tokens is less than the prompt's 513 or more"
    assert tried(resolve(routed, Ask("r", tokens=512))) == [("a", "x"), ("b", "x")]


@pytest.mark.parametrize("endpoint", [EMBEDDINGS, RERANK])
def test_vectors_never_fall_back_to_another_model(endpoint: str) -> None:
    with_fallback = RouteView(
        "r", (TargetView("a", "x"), TargetView("b", "z"), TargetView("b", "x")), fallback=(TargetView("b", "w"),)
    )
    down = backend("a", 1, models=["x"], state=State.FAILED)
    decision = resolve(
        table(down, backend("b", 2, models=["x", "z", "w"]), routes=(with_fallback,)), Ask("r", endpoint)
    )
    assert tried(decision) == [("b", "x")]
    assert decision.candidates[1].reason == f"another model than 'x', and {endpoint} of two models don't mix"
    assert tried(resolve(table(down, B, routes=(with_fallback,)), "r")) == [("b", "z"), ("b", "x")]


def test_the_same_content_under_another_name_is_the_same_model() -> None:
    one, other = having(A, model("v", digest="d")), having(B, model("w:latest", digest="d"), model("u", digest="e"))
    routed = table(one, other, routes=(route("r", ("a", "v"), ("b", "u"), ("b", "w:latest")),))
    assert tried(resolve(routed, Ask("r", EMBEDDINGS))) == [("a", "v"), ("b", "w:latest")]


def test_an_open_circuit_is_skipped_but_never_the_last_one() -> None:
    routed = table(A, B, routes=(route("r", ("a", "x"), ("b", "x")),))
    one = resolve(routed, "r", Conditions(broken={"a": "5 failures in a row"}))
    assert tried(one) == [("b", "x")]
    assert one.candidates[0].reason == "its circuit is open: 5 failures in a row"
    both = resolve(routed, "r", Conditions(broken={"a": "5 failures in a row", "b": "refused"}))
    assert tried(both) == [("a", "x")]
    assert both.candidates[0].reason == ("ready; its circuit is open (5 failures in a row), but nobody else is left")


def test_taken_places_are_told_and_a_full_queue_is_skipped() -> None:
    narrow = msgspec.structs.replace(A, max_concurrency=2, max_queue=1)
    routed = table(narrow, B, routes=(route("r", ("a", "x"), ("b", "x")),))
    busy = resolve(routed, "r", Conditions(in_flight={"a": 2}))
    assert tried(busy) == [("a", "x"), ("b", "x")]
    assert busy.candidates[0].reason == "ready; 2 of 2 slots in use, 0 waiting"
    full = resolve(routed, "r", Conditions(in_flight={"a": 2}, waiting={"a": 1}))
    assert tried(full) == [("b", "x")]
    assert full.candidates[0].reason == "full: 2 of 2 slots in use, 1 of 1 waiting"


def test_a_route_brings_its_policies_along() -> None:
    params = ParamsView(defaults={"temperature": b"0.2"})
    settings = RouteView(
        "r", (TargetView("a", "x"),), cold="bridge", overflow="spill", balance="least_busy", params=params,
        on_context_overflow=(TargetView("a", "x"), TargetView("b", "z"), TargetView("b", "nope")),
        first_token_timeout=5.0, request_timeout=30.0,
    )  # fmt: skip
    decision = resolve(table(A, B, routes=(settings,)), "r")
    assert (decision.cold, decision.overflow, decision.balance) == ("bridge", "spill", "least_busy")
    assert (decision.params, decision.first_token_timeout, decision.request_timeout) == (params, 5.0, 30.0)
    assert [(each.model, each.kept, each.fallback) for each in decision.on_context_overflow] == [
        ("z", True, False), ("nope", False, False),
    ]  # fmt: skip
    assert decision.endpoint == CHAT


def test_a_decision_for_a_route_is_made_once_and_one_for_a_pattern_each_time() -> None:
    routed = table(A, routes=(route("r", ("a", "x")), route("p*", ("a", "x"), pattern=True)))
    assert resolve(routed, "r") is resolve(routed, Ask("r"))
    assert resolve(routed, "r") is not resolve(routed, Ask("r", EMBEDDINGS))
    resolve(routed, "pq")
    assert set(routed.made) == {(CHAT, "r"), (EMBEDDINGS, "r")}


def test_the_list_of_models_has_routes_models_clouds_and_capabilities() -> None:
    listed = model_list(
        table(
            A, cloud("c", "m:1b"), routes=(route("r", ("a", "x")),), capabilities={"code": ("nope", "x"), "no": ("n",)}
        ),
        "p",
    )["data"]
    assert [entry["id"] for entry in listed] == ["r", "x", "y", "m:1b", "m:1b-cloud", "code"]
    assert [entry["backend"] for entry in listed] == ["a", "a", "a", "c", "c", "a"]


def test_a_model_whose_age_nobody_knows_is_as_old_as_the_state_of_its_backend() -> None:
    young = having(A, ModelView("x", 0), since=1_750_000_000.9)
    (entry,) = model_list(table(young), "p")["data"]
    assert entry["created"] == 1_750_000_000


SOLE = RouteView("r", (TargetView("a", "r", sole=True),))
OPEN = RouteView("gpt-*", (TargetView("a", "", sole=True),), pattern=True)


@pytest.mark.parametrize("asked", ["r", "gpt-4o"])
@pytest.mark.parametrize(
    ("models", "expected"), [(["one"], "one"), (["one", "two"], None), ([], None)], ids=["one", "several", "unknown"]
)
def test_a_target_without_a_model_asks_for_the_only_one_that_the_backend_lists(
    models: list[str], expected: str | None, asked: str
) -> None:
    cloud = backend("a", 1, models=models, engine=EngineKind.OPENAI)
    decision = resolve(table(cloud, routes=(SOLE, OPEN)), asked)
    assert decision.candidates[0].model == (expected or asked)
    assert decision.candidates[0].kept is (len(models) < 2)


def test_the_only_model_counts_for_fallbacks_capabilities_and_the_list_of_models_alike() -> None:
    cloud = having(backend("a", 1, engine=EngineKind.OPENAI), model("one", "embeddings"))
    known = table(cloud, routes=(SOLE,), capabilities={"fast": ("r",)})
    chatty = table(backend("a", 1, models=["one"]), B, fallback=(TargetView("a", "", sole=True),))
    assert tried(resolve(chatty, "z")) == [("b", "z"), ("a", "one")]
    assert tried(resolve(known, Ask("fast", endpoint=EMBEDDINGS))) == [("a", "one")]
    shown = {entry["id"]: entry for entry in model_list(known, "p")["data"]}
    assert shown["r"]["capabilities"] == ["embeddings"]


def test_a_model_that_was_listed_before_is_found_and_its_backend_is_skipped() -> None:
    gone = having(
        backend("a", 1, state=State.UNREACHABLE, why="it refuses connections"),
        ModelView("one", 0, listed=False, listed_at=1_700_000_000.5),
    )
    decision = resolve(table(gone), "one")
    assert (decision.matched, tried(decision)) == ("listed", [])
    (entry,) = model_list(table(gone), "p")["data"]
    assert (entry["state"], entry["listed"], entry["last_listed"]) == ("unreachable", False, 1_700_000_000)
