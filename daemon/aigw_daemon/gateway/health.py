"""How well the gateway can serve, out of a snapshot alone: no engine is asked, no model called. Pure.

``aigw health`` shows the same facts, so the daemon calls this function as well.
"""

from typing import Any

from aigw_daemon.link.messages import BackendView, Snapshot
from aigw_daemon.words import SERVING, State, in_words

_WAITING_IS_WELL = frozenset({State.STOPPED, State.SLEEPING})
"""States of a backend that comes when it is asked for."""


def health_of(snapshot: Snapshot | None) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the answer to ``GET /health``: 200 when some backend can serve, else 503 with the reasons.

    A backend that a request would start counts as able to serve.
    """
    if snapshot is None:
        reasons = ["the gateway has not heard from its daemon yet"]
        return 503, {"status": "unavailable", "profile": None, "providers": {}, "reasons": reasons}
    able = any(_able(backend) for backend in snapshot.backends)
    # What the operator stopped is no trouble, unless nothing else is left.
    reasons = [_reason(backend) for backend in snapshot.backends if not (able and _well(backend))]
    if not snapshot.backends:
        reasons = [f"the profile {snapshot.profile!r} has no backends"]
    status = "unavailable" if not able else "degraded" if reasons else "ok"
    return (
        200 if able else 503,
        {
            "status": status,
            "profile": snapshot.profile,
            "providers": {backend.name: _provider(backend) for backend in snapshot.backends},
            "reasons": reasons,
        },
    )


def _able(backend: BackendView) -> bool:
    return backend.state in SERVING or (backend.wanted and backend.state in _WAITING_IS_WELL)


def _well(backend: BackendView) -> bool:
    return backend.state is State.READY or backend.state in _WAITING_IS_WELL


def _reason(backend: BackendView) -> str:
    return f"{backend.name} {in_words(backend.state)}" + (f": {backend.why}" if backend.why else "")


def _provider(backend: BackendView) -> dict[str, Any]:
    return {
        "engine": backend.engine.value,
        "state": backend.state.value,
        "models": [view.id for view in backend.models],
        "since": backend.since,
        "why": backend.why,
    }
