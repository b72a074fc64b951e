"""From the profile and the state of its backends to what a worker routes on (pure)."""

from collections.abc import Sequence

import msgspec

from aigw_daemon.link.messages import BackendView, GatewayView, ModelView, RouteView, Snapshot, TargetView
from aigw_daemon.profile.chains import chain, fallbacks, is_pattern
from aigw_daemon.profile.model import Gateway, Profile, Target

DEFAULT_PROVIDER = "workspace-backend"


def snapshot(profile: Profile, backends: Sequence[BackendView], revision: int) -> Snapshot:
    """All that the worker needs to know."""
    return Snapshot(
        revision=revision,
        profile=profile.name,
        gateway=_gateway(profile.gateway),
        backends=tuple(_named(profile, backend) for backend in backends),
        routes=tuple(_route(profile, name) for name in profile.routes),
        fallback=_targets(fallbacks(profile, "")),
    )


def _named(profile: Profile, backend: BackendView) -> BackendView:
    """A model that the profile names stays known while its backend is down: it can't be reached, but it exists.

    Else a request for it would be a 404 instead of waiting, falling back or a 503.
    """
    section = profile.backends.get(backend.name)
    declared = section.served_models if section is not None else None
    if backend.models or not declared:
        return backend
    return msgspec.structs.replace(backend, models=tuple(ModelView(id=name, created=0) for name in declared))


def _route(profile: Profile, name: str) -> RouteView:
    route = profile.routes[name]
    return RouteView(
        name=name,
        targets=_targets(chain(profile, name)),
        alias_of=route.alias,
        pattern=is_pattern(name),
        fallback=_targets(fallbacks(profile, name)),
        cold=route.cold,
    )


def _targets(targets: Sequence[Target]) -> tuple[TargetView, ...]:
    return tuple(TargetView(backend=target.backend, model=target.model or "") for target in targets)


def _gateway(gateway: Gateway) -> GatewayView:
    return GatewayView(
        provider=gateway.provider or DEFAULT_PROVIDER,
        allowed_hosts=gateway.allowed_hosts,
        cors_origins=gateway.cors_origins,
        request_timeout=gateway.request_timeout,
        header_timeout=gateway.header_timeout,
        body_timeout=gateway.body_timeout,
        max_body=gateway.max_body,
        max_head=gateway.max_header,
    )
