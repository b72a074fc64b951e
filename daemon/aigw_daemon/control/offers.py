"""Which models a cloud no longer offers although the profile routes to them (pure)."""

from collections.abc import Iterator
from dataclasses import dataclass

from aigw_daemon.gateway.matching import served_name
from aigw_daemon.link.messages import BackendView, Snapshot
from aigw_daemon.words import SERVING


@dataclass(frozen=True)
class Gone:
    """A model that a route asks its cloud for in vain."""

    backend: str
    model: str
    route: str
    """The first one that names it."""

    @property
    def sentence(self) -> str:
        """For the operator."""
        return f"{self.backend} no longer offers {self.model}, which the route {self.route!r} asks it for"


def no_longer_offered(snapshot: Snapshot) -> list[Gone]:
    """Clouds retire models on a schedule. One that doesn't answer now, or lists nothing, may still offer them."""
    clouds = {
        backend.name: backend
        for backend in snapshot.backends
        if backend.cloud and backend.has_list and backend.state in SERVING
    }
    return [each for each in _routed(snapshot) if each.backend in clouds and _lacks(clouds[each.backend], each.model)]


def _lacks(cloud: BackendView, model: str) -> bool:
    """Also one that the profile's own ``models`` names: it is asked for all the same, since lists may be incomplete."""
    served = {view.id: view for view in cloud.models}
    name = served_name(cloud, served, model)
    return name is None or (name in served and not served[name].listed)


def _routed(snapshot: Snapshot) -> Iterator[Gone]:
    """Each backend and model that a route names, once; aliases name none, and the names of a pattern are open."""
    seen: set[tuple[str, str]] = set()
    models = {backend.name: backend.models for backend in snapshot.backends}
    for route in snapshot.routes:
        if route.alias_of is not None or route.pattern:
            continue
        for target in (*route.targets, *route.on_context_overflow):
            if target.sole and len(models.get(target.backend, ())) == 1:
                continue
            key = target.backend, target.model or route.name
            if key not in seen:
                seen.add(key)
                yield Gone(*key, route.name)
