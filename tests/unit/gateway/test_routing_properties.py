"""What holds for the router over every snapshot, every ask and every condition that Hypothesis thinks of."""

import json

from hypothesis import event, given
from hypothesis import strategies as st

from aigw_daemon.control.snapshots import snapshot as snapshot_of
from aigw_daemon.gateway.ability import unspoken
from aigw_daemon.gateway.balance import ordered
from aigw_daemon.gateway.decision import Ask, Candidate, Conditions, Readiness
from aigw_daemon.gateway.models_view import model_list
from aigw_daemon.gateway.routing import CALM, RoutingTable, resolve
from aigw_daemon.link.messages import CHAT, ENDPOINTS, Snapshot
from aigw_daemon.profile.chains import is_pattern
from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.load import parse
from aigw_daemon.words import State
from tests.support.gateway import backend
from tests.support.routing import BACKEND_NAMES, CASES, CONDITIONS, NAMES, SNAPSHOTS

Case = tuple[Snapshot, Ask]
ABLE_STATES = {State.READY, State.DEGRADED, State.STARTING, State.SLEEPING, State.STOPPED}
RANK = {"route": 0, "alias": 0, "direct": 1, "listed": 2, "cloud": 3, "pattern": 4, "capability": 5, None: 6}


@given(CASES, CONDITIONS)
def test_only_what_can_answer_is_kept(case: Case, conditions: Conditions) -> None:
    snapshot, ask = case
    table = RoutingTable(snapshot)
    decision = resolve(table, ask, conditions)
    for candidate in (*decision.kept, *(each for each in decision.on_context_overflow if each.kept)):
        view = table.backends[candidate.backend]
        served = {model.id: model for model in view.models}
        model = served.get(candidate.model)
        assert candidate.backend not in conditions.assume_down
        assert view.state in ABLE_STATES
        assert view.wanted or view.state is not State.STOPPED
        assert not served or model is not None
        assert unspoken(view, model, ask.endpoint) is None
        assert model is None or model.context is None or model.context >= ask.tokens
        assert model is None or not model.capabilities or ask.needs <= set(model.capabilities)


@given(CASES, CONDITIONS)
def test_an_open_circuit_is_skipped_unless_it_is_the_last(case: Case, conditions: Conditions) -> None:
    snapshot, ask = case
    table = RoutingTable(snapshot)
    kept = resolve(table, ask, conditions).kept
    without = Conditions(conditions.assume_down, {}, conditions.in_flight, conditions.waiting)
    if any(candidate.backend in conditions.broken for candidate in kept):
        assert len(kept) == 1
    assert bool(kept) == bool(resolve(table, ask, without).kept)


@given(CASES, CONDITIONS)
def test_the_order_is_the_routes_and_the_fallback_comes_after(case: Case, conditions: Conditions) -> None:
    snapshot, ask = case
    decision = resolve(RoutingTable(snapshot), ask, conditions)
    flags = [candidate.fallback for candidate in decision.candidates]
    assert flags == sorted(flags)
    keys = [(candidate.backend, candidate.model) for candidate in decision.candidates if not candidate.fallback]
    route = next((route for route in snapshot.routes if route.name == decision.route), None)
    if route is not None:
        assert [backend for backend, _ in keys] == [
            backend
            for backend, _ in dict.fromkeys((target.backend, target.model or ask.model) for target in route.targets)
        ]


@given(CASES, CONDITIONS)
def test_the_condition_of_the_moment_never_changes_who_is_considered(case: Case, conditions: Conditions) -> None:
    snapshot, ask = case
    table = RoutingTable(snapshot)
    calm, now = resolve(table, ask), resolve(table, ask, conditions)
    assert sorted((c.backend, c.model) for c in calm.candidates) == sorted((c.backend, c.model) for c in now.candidates)
    assert calm == resolve(table, ask, CALM), "a second look must find the same, kept or not"


@given(SNAPSHOTS, NAMES)
def test_exact_beats_listed_beats_pattern_beats_capability(snapshot: Snapshot, name: str) -> None:
    matched = resolve(RoutingTable(snapshot), name).matched
    if any(route.name == name and not route.pattern for route in snapshot.routes):
        assert RANK[matched] == 0
    elif any(model.id == name for backend in snapshot.backends for model in backend.models):
        assert RANK[matched] <= RANK["listed"]
    elif any(capability.name == name for capability in snapshot.capabilities):
        assert RANK[matched] <= RANK["capability"]
    if matched == "capability":
        assert not any(route.pattern and route.name == name for route in snapshot.routes)


@given(CASES, st.sampled_from(["embeddings", "rerank"]), CONDITIONS)
def test_vectors_of_two_models_never_mix(case: Case, endpoint: str, conditions: Conditions) -> None:
    snapshot, name = case[0], case[1].model
    table = RoutingTable(snapshot)
    decision, calm = resolve(table, Ask(name, endpoint), conditions), resolve(table, Ask(name, endpoint))
    digests = {(backend.name, model.id): model.digest for backend in snapshot.backends for model in backend.models}

    def same(one: Candidate, other: Candidate) -> bool:
        digest = digests.get((one.backend, one.model))
        alike = digest is not None and digest == digests.get((other.backend, other.model))
        return alike or one.model.removesuffix(":latest") == other.model.removesuffix(":latest")

    kept = (*decision.kept, *calm.kept, *(each for each in decision.on_context_overflow if each.kept))
    assert not kept or any(all(same(first, each) for each in kept) for first in calm.candidates)


@given(SNAPSHOTS)
def test_every_listed_model_routes_somewhere_and_is_told_once(snapshot: Snapshot) -> None:
    table = RoutingTable(snapshot)
    entries = model_list(table, "p")["data"]
    assert len({entry["id"] for entry in entries}) == len(entries)
    for entry in entries:
        assert entry["backend"] in {candidate.backend for candidate in resolve(table, entry["id"]).candidates}
        assert entry["created"] > 0


@given(SNAPSHOTS, NAMES, st.sampled_from(ENDPOINTS))
def test_what_is_offered_instead_does_the_endpoint(snapshot: Snapshot, name: str, endpoint: str) -> None:
    table = RoutingTable(snapshot)
    decision = resolve(table, Ask(name, endpoint))
    if decision.instead is not None:
        assert decision.candidates
        assert not decision.kept
        for other in decision.instead:
            assert resolve(table, Ask(other, endpoint)).instead is None


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.sampled_from(BACKEND_NAMES),
        NAMES,
        st.sampled_from([Readiness.READY, Readiness.COLD]),
        st.just("ready"),
        st.booleans(),
        st.integers(1, 1000),
    ),
    max_size=5,
).map(lambda found: sorted(found, key=lambda candidate: candidate.fallback))


@given(
    CANDIDATES,
    st.sampled_from(["order", "least_busy", "weighted"]),
    st.dictionaries(st.sampled_from(BACKEND_NAMES), st.integers(0, 9)),
    st.floats(0, 1, exclude_max=True),
)
def test_balancing_only_ever_changes_the_order_of_equals(
    candidates: list[Candidate], policy: str, in_flight: dict[str, int], die: float
) -> None:
    turns = list(ordered(candidates, policy, in_flight, lambda: die))
    assert sorted(turns) == list(range(len(candidates)))
    later = [turn for turn in turns if candidates[turn].fallback or candidates[turn].readiness is Readiness.COLD]
    assert later == sorted(later)
    if policy != "order":
        assert turns[len(turns) - len(later) :] == later


@given(SNAPSHOTS, NAMES)
def test_a_name_alone_asks_for_a_chat(snapshot: Snapshot, name: str) -> None:
    table = RoutingTable(snapshot)
    assert resolve(table, name) == resolve(table, Ask(name, CHAT))


LINKS = st.sampled_from(["p", "q", "r", "s", "a", "small", "a/x", "~p.*"])
PROFILES = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "backends": st.just({"a": {"engine": "llamacpp", "model": "m", "served_name": "small"}}),
        "routes": st.dictionaries(
            LINKS,
            st.builds(lambda alias: {"alias": alias}, LINKS)
            | st.builds(
                lambda targets, longer: {"targets": targets, "on_context_overflow": longer},
                st.lists(LINKS, min_size=1, max_size=2),
                st.lists(LINKS, max_size=2),
            ),
            max_size=4,
        ),
        "capabilities": st.dictionaries(LINKS, st.lists(LINKS, min_size=1, max_size=2), max_size=1),
        "fallback": st.lists(LINKS, max_size=2),
    }
)


@given(PROFILES)
def test_a_profile_goes_in_circles_and_is_refused_or_every_name_of_it_ends(data: dict[str, object]) -> None:
    try:
        profile = parse(json.dumps(data), "p.yaml")
    except ProfileError:
        event("refused")
        return
    event("routed")
    shown = snapshot_of(profile, [backend("a", 1, models=["small"])], 1)
    table = RoutingTable(shown)
    # A pattern is no name: one that it matches stands for it.
    for name in ("pp" if is_pattern(name) else name for name in (*profile.routes, *profile.capabilities, "a/small")):
        decision = resolve(table, name)
        keys = [(candidate.backend, candidate.model) for candidate in decision.candidates]
        assert decision.matched
        assert len(set(keys)) == len(keys)
        assert {name for name, _ in keys} <= {"a"}
