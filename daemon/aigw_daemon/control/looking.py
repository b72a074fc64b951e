"""Questions that need no change: the router's decision and the health, from what the worker routes on (pure)."""

import json
from collections.abc import Iterable, Mapping

from aigw_daemon.control.codec import converted
from aigw_daemon.control.offers import no_longer_offered
from aigw_daemon.control.schema import (
    CandidateInfo,
    HealthReport,
    HopLimits,
    RouteAnswer,
    RouteParameters,
    RouteRequest,
)
from aigw_daemon.gateway.balance import ordered
from aigw_daemon.gateway.decision import Ask, Candidate, Conditions, Decision, Readiness
from aigw_daemon.gateway.health import health_of
from aigw_daemon.gateway.routing import RoutingTable, resolve
from aigw_daemon.link.messages import BackendView, Load, ParamsView, Snapshot


def route_answer(snapshot: Snapshot, request: RouteRequest, load: Load) -> RouteAnswer:
    """What the worker would decide now; the very same function decides there. ``load``: what it last reported."""
    table = RoutingTable(snapshot)
    ask = Ask(request.model, request.endpoint, frozenset(request.needs))
    conditions = Conditions(frozenset(request.assume_down), load.broken, load.in_flight, load.waiting)
    decision = resolve(table, ask, conditions)
    gateway = snapshot.gateway
    return RouteAnswer(
        model=request.model,
        matched=decision.matched,
        candidates=_infos(table.backends, _in_turn(decision, load), decision, load),
        nearest=list(decision.nearest),
        endpoint=decision.endpoint,
        route=decision.route,
        cold=decision.cold,
        overflow=decision.overflow,
        balance=decision.balance,
        parameters=_parameters(decision.params),
        on_context_overflow=_infos(table.backends, decision.on_context_overflow, decision, load),
        instead=None if decision.instead is None else list(decision.instead),
        request_timeout=gateway.request_timeout if decision.request_timeout is None else decision.request_timeout,
        max_attempts=gateway.max_attempts,
        queue_timeout=gateway.queue_timeout,
        warnings=_warnings(snapshot, decision),
    )


def health_report(snapshot: Snapshot | None) -> HealthReport:
    """What ``GET /health`` answers."""
    _status, facts = health_of(snapshot)
    return converted(facts, HealthReport)


def _in_turn(decision: Decision, load: Load) -> Iterable[Candidate]:
    """Where a die decides, each request has an order of its own: then they are shown as the route has them."""
    policy = "order" if decision.balance == "weighted" else decision.balance
    turns = ordered(decision.candidates, policy, load.in_flight, lambda: 0.5)
    return [decision.candidates[turn] for turn in turns]


def _infos(
    backends: Mapping[str, BackendView], found: Iterable[Candidate], decision: Decision, load: Load
) -> list[CandidateInfo]:
    return [
        CandidateInfo(
            backend=candidate.backend,
            model=candidate.model,
            kept=candidate.kept,
            reason=candidate.reason,
            cold=candidate.readiness is Readiness.COLD,
            fallback=candidate.fallback,
            weight=candidate.weight,
            limits=_limits(backends.get(candidate.backend), decision, load),
        )
        for candidate in found
    ]


def _limits(backend: BackendView | None, decision: Decision, load: Load) -> HopLimits | None:
    if backend is None:
        return None
    first_token = decision.first_token_timeout
    return HopLimits(
        in_flight=load.in_flight.get(backend.name, 0),
        max_concurrency=backend.max_concurrency,
        waiting=load.waiting.get(backend.name, 0),
        max_queue=backend.max_queue,
        first_token_timeout=backend.first_token_timeout if first_token is None else first_token,
        gap_timeout=backend.gap_timeout,
        cold_timeout=backend.cold_timeout,
        circuit=load.broken.get(backend.name),
        last_start_s=backend.last_start_s,
    )


def _parameters(params: ParamsView | None) -> RouteParameters | None:
    if params is None:
        return None
    defaults = {name: json.loads(value) for name, value in params.defaults.items()}
    override = {name: json.loads(value) for name, value in params.override.items()}
    return RouteParameters(defaults=defaults, override=override, drop=list(params.drop))


def _warnings(snapshot: Snapshot, decision: Decision) -> list[str]:
    """Of the clouds that this name may reach, those models that they no longer offer to it."""
    asked = {(candidate.backend, candidate.model) for candidate in decision.candidates}
    asked |= {(candidate.backend, candidate.model) for candidate in decision.on_context_overflow}
    gone = no_longer_offered(snapshot)
    return [found.sentence for found in gone if (found.backend, found.model) in asked]
