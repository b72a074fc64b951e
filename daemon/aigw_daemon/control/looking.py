"""Questions that need no change: the router's decision and the health, from what the worker routes on (pure)."""

from aigw_daemon.control.schema import CandidateInfo, HealthReport, RouteAnswer, RouteRequest
from aigw_daemon.gateway.health import health_of
from aigw_daemon.gateway.routing import Conditions, RoutingTable, resolve
from aigw_daemon.link.messages import Snapshot


def route_answer(snapshot: Snapshot, request: RouteRequest) -> RouteAnswer:
    """What the worker would decide for this name; the very same function decides there."""
    decision = resolve(RoutingTable(snapshot), request.model, Conditions(frozenset(request.assume_down)))
    return RouteAnswer(
        model=request.model,
        matched=decision.matched,
        candidates=[
            CandidateInfo(
                backend=candidate.backend, model=candidate.model, kept=candidate.kept, reason=candidate.reason
            )
            for candidate in decision.candidates
        ],
        nearest=list(decision.nearest),
    )


def health_report(snapshot: Snapshot | None) -> HealthReport:
    """What ``GET /health`` answers."""
    _status, facts = health_of(snapshot)
    return HealthReport.model_validate(facts)
