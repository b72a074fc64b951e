"""Snapshots for tests of the router, by hand and by Hypothesis."""

from collections.abc import Iterable, Mapping

import msgspec
from hypothesis import strategies as st

from aigw_daemon.gateway.decision import Ask, Candidate, Conditions, Decision
from aigw_daemon.gateway.routing import RoutingTable
from aigw_daemon.link.messages import (
    ENDPOINTS,
    BackendView,
    CapabilityView,
    ModelView,
    RouteView,
    Snapshot,
    TargetView,
)
from aigw_daemon.words import EngineKind, State
from tests.support.gateway import backend, snapshot


def showing(
    *backends: BackendView,
    routes: Iterable[RouteView] = (),
    fallback: Iterable[TargetView] = (),
    capabilities: Mapping[str, tuple[str, ...]] | None = None,
) -> Snapshot:
    """A snapshot with all that the router looks at."""
    return msgspec.structs.replace(
        snapshot(*backends, routes=routes),
        fallback=tuple(fallback),
        capabilities=tuple(CapabilityView(name, models) for name, models in (capabilities or {}).items()),
    )


def table(
    *backends: BackendView,
    routes: Iterable[RouteView] = (),
    fallback: Iterable[TargetView] = (),
    capabilities: Mapping[str, tuple[str, ...]] | None = None,
) -> RoutingTable:
    """The same, compiled."""
    return RoutingTable(showing(*backends, routes=routes, fallback=fallback, capabilities=capabilities))


def tried(decision: Decision) -> list[tuple[str, str]]:
    """What would be tried, in order."""
    return [(candidate.backend, candidate.model) for candidate in decision.kept]


def reasons(candidates: Iterable[Candidate]) -> dict[str, str]:
    """Why each backend was kept or skipped."""
    return {candidate.backend: candidate.reason for candidate in candidates}


def having(view: BackendView, *models: ModelView, **changes: object) -> BackendView:
    """A backend that lists these models, with other changes."""
    return msgspec.structs.replace(view, models=models, **changes)


BACKEND_NAMES = ("a", "b", "c")
COMMON = st.sampled_from(["x", "y", "code", "gpt-4"])
NAMES = (
    COMMON
    | COMMON
    | st.sampled_from(["q", "q:latest", "q:cloud", "y:1b", "y:1b-cloud", "a/x", "x/y", "~[", "", "*", "gpt-*", "\x00"])
    | st.text(max_size=6)
)
"""Names that meet each other often, and others."""

MODELS = st.builds(
    ModelView,
    NAMES,
    st.integers(0, 2_000_000_000),
    st.sampled_from([None, 512, 8_192]),
    st.just(())
    | st.lists(
        st.sampled_from(["chat", "completions", "embeddings", "rerank", "vision", "tools"]), max_size=3, unique=True
    ).map(tuple),
    st.none() | st.sampled_from(["one", "two"]),
)
BACKENDS = st.lists(
    st.builds(
        BackendView,
        name=st.sampled_from(BACKEND_NAMES),
        engine=st.sampled_from(list(EngineKind)),
        state=st.just(State.READY) | st.sampled_from(list(State)),
        since=st.just(1_700_000_000.0),
        host=st.just("127.0.0.1"),
        port=st.just(1),
        models=st.lists(MODELS, max_size=4, unique_by=lambda model: model.id).map(tuple),
        wanted=st.booleans(),
        max_concurrency=st.none() | st.integers(1, 3),
        max_queue=st.integers(0, 2),
        endpoints=st.just(ENDPOINTS) | st.lists(st.sampled_from(ENDPOINTS), unique=True, min_size=1).map(tuple),
        cloud=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda view: view.name,
)
TARGETS = st.lists(
    st.builds(TargetView, st.sampled_from([*BACKEND_NAMES, "nowhere"]), NAMES, st.integers(1, 5)),
    min_size=1,
    max_size=3,
).map(tuple)
ROUTES = st.lists(
    st.builds(
        RouteView,
        name=NAMES,
        targets=TARGETS,
        alias_of=st.none() | NAMES,
        pattern=st.booleans(),
        fallback=TARGETS | st.just(()),
        balance=st.sampled_from(["order", "least_busy", "weighted"]),
        on_context_overflow=TARGETS | st.just(()),
    ),
    max_size=4,
    unique_by=lambda route: route.name,
)
SNAPSHOTS = st.builds(
    lambda backends, routes, fallback, capabilities: showing(
        *backends, routes=routes, fallback=fallback, capabilities=capabilities
    ),
    BACKENDS,
    ROUTES,
    TARGETS | st.just(()),
    st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=3).map(tuple), max_size=2),
)


def _names(shown: Snapshot) -> list[str]:
    routes = [route.name for route in shown.routes]
    listed = [listed.id for view in shown.backends for listed in view.models]
    return [*routes, *listed, *(capability.name for capability in shown.capabilities)]


def _cases(shown: Snapshot) -> st.SearchStrategy[tuple[Snapshot, Ask]]:
    known = _names(shown)
    asks = st.builds(
        Ask,
        st.sampled_from(known) | NAMES if known else NAMES,
        st.sampled_from(ENDPOINTS),
        st.just(frozenset[str]()) | st.frozensets(st.sampled_from(["vision", "tools"])),
        st.sampled_from([0, 0, 1_000]),
    )
    return st.tuples(st.just(shown), asks)


CASES = SNAPSHOTS.flatmap(_cases)
"""A snapshot, and something that is asked of it."""

LOADS = st.dictionaries(st.sampled_from(BACKEND_NAMES), st.integers(0, 4))
CONDITIONS = st.builds(
    Conditions,
    st.frozensets(st.sampled_from(BACKEND_NAMES)),
    st.dictionaries(st.sampled_from(BACKEND_NAMES), st.just("5 failures in a row")),
    LOADS,
    LOADS,
)


def model(name: str, *capabilities: str, context: int | None = None, digest: str | None = None) -> ModelView:
    """A model as an engine lists it."""
    return ModelView(name, 1_700_000_000, context, capabilities, digest)


def cloud(name: str, *models: str, state: State = State.READY) -> BackendView:
    """A cloud that lists these models."""
    return msgspec.structs.replace(backend(name, 443, models=models, engine=EngineKind.OPENAI, state=state), cloud=True)
