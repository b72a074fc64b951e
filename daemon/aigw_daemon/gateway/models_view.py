"""The models that can be asked for, as ``/v1/models`` shows them. Pure.

A route is shown under its own name with the engine that would answer it; a model that a backend lists needs no route.
Patterns are no names, so they are not listed.
"""

from typing import Any

from aigw_daemon.gateway.routing import Candidate, Decision, RoutingTable, resolve
from aigw_daemon.link.messages import ModelView


def model_list(table: RoutingTable, provider: str) -> dict[str, Any]:
    """The answer to ``GET /v1/models``."""
    entries = (model_entry(table, resolve(table, name), provider) for name in table.names())
    return {"object": "list", "data": [entry for entry in entries if entry is not None]}


def model_entry(table: RoutingTable, decision: Decision, provider: str) -> dict[str, Any] | None:
    """One model; None for a name that leads nowhere."""
    if not decision.candidates:
        return None
    # What would be asked first; where nothing can be asked, what the profile would like best.
    chosen = (decision.kept or decision.candidates)[0]
    backend = table.backends.get(chosen.backend)
    if backend is None:
        return None
    view = _view(table, chosen)
    return {
        "id": decision.model,
        "object": "model",
        "created": view.created if view else 0,
        "owned_by": backend.engine.value,
        "provider": provider,
        "state": backend.state.value,
        "backend": backend.name,
        "context_length": view.context if view else None,
        "capabilities": list(view.capabilities) if view else [],
    }


def _view(table: RoutingTable, candidate: Candidate) -> ModelView | None:
    return next((view for view in table.backends[candidate.backend].models if view.id == candidate.model), None)
