"""Which names clients may ask for, and who would answer (pure)."""

from collections.abc import Iterator, Sequence

from aigw_daemon.control.schema import NameInfo
from aigw_daemon.gateway.matching import Names
from aigw_daemon.link.messages import BackendView, Snapshot, TargetView
from aigw_daemon.words import SERVING


def name_infos(snapshot: Snapshot) -> list[NameInfo]:
    """Routes and aliases, patterns, models that backends list, capabilities; in the order in which they are looked up.

    Left out are ``backend/model``, which holds for every backend, and the second names of cloud models.
    """
    return list(_names(snapshot))


def route_names(snapshot: Snapshot) -> list[str]:
    """The routes and aliases that can be asked for by name, patterns aside."""
    return [route.name for route in snapshot.routes if not route.pattern]


def _names(snapshot: Snapshot) -> Iterator[NameInfo]:
    known = Names(snapshot)
    for route in snapshot.routes:
        kind = "pattern" if route.pattern else "alias" if route.alias_of else "route"
        yield _info(known, route.name, kind, route.targets, alias_of=route.alias_of)
    for model, targets in known.listed.items():
        if model not in known.routes:
            yield _info(known, model, "model", targets)
    for capability in known.capabilities:
        match = known.match(capability)
        if match is not None and match.word == "capability":
            yield _info(known, capability, "capability", match.targets)


def _info(
    known: Names, name: str, kind: str, targets: Sequence[TargetView], *, alias_of: str | None = None
) -> NameInfo:
    backends = list(dict.fromkeys(target.backend for target in targets))
    found = [known.backends[backend] for backend in backends if backend in known.backends]
    return NameInfo(name=name, kind=kind, backends=backends, state=_state(found), alias_of=alias_of)


def _state(backends: Sequence[BackendView]) -> str | None:
    """Of the first that takes requests, else of the first."""
    serving = next((backend.state for backend in backends if backend.state in SERVING), None)
    return serving or next((backend.state for backend in backends), None)
