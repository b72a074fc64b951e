"""The models that can be asked for, as ``/v1/models`` shows them. Pure.

A route or a capability is shown under its own name with the engine that would answer it; a model that a backend lists
needs no route; a cloud's model is shown by its own name and by the one that a local Ollama gives it. Patterns are no
names, so they are not listed.
"""

from typing import Any

from aigw_daemon.gateway.routing import Decision, RoutingTable, resolve
from aigw_daemon.link.messages import BackendView, ModelView


def model_list(table: RoutingTable, provider: str) -> dict[str, Any]:
    """The answer to ``GET /v1/models``."""
    entries = (model_entry(table, resolve(table, name), provider) for name in table.names())
    return {"object": "list", "data": [entry for entry in entries if entry is not None]}


def model_entry(table: RoutingTable, decision: Decision, provider: str) -> dict[str, Any] | None:
    """One model; None for a name that leads nowhere."""
    found = _chosen(table, decision)
    if found is None:
        return None
    backend, view = found
    return {
        "id": decision.model,
        "object": "model",
        # Where no engine has told when the model was made: when its backend came to where it is. Never nothing.
        "created": (view.created if view is not None else 0) or int(backend.since),
        "owned_by": backend.engine.value,
        "provider": provider,
        "state": backend.state.value,
        "backend": backend.name,
        "context_length": view.context if view else None,
        "capabilities": list(view.capabilities) if view else [],
        "listed": view is not None and view.listed,
        "last_listed": int(view.listed_at) if view is not None and view.listed_at is not None else None,
    }


def _chosen(table: RoutingTable, decision: Decision) -> tuple[BackendView, ModelView | None] | None:
    """What would be asked first; where nothing can be asked, what the profile would like best."""
    for candidate in (*decision.kept, *decision.candidates):
        backend = table.backends.get(candidate.backend)
        if backend is not None:
            return backend, table.view(candidate)
    return None
