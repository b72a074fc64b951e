"""From the profile and the state of its backends to what a worker routes on (pure)."""

import json
from collections.abc import Mapping, Sequence

import msgspec

from aigw_daemon.control.limits import cloud, concurrency, endpoints, first_token_timeout, gap_timeout
from aigw_daemon.link.messages import (
    BackendView,
    CacheView,
    CapabilityView,
    GatewayView,
    ModelView,
    ParamsView,
    RouteView,
    Snapshot,
    TargetView,
)
from aigw_daemon.profile.backends import BackendSection, ProcessSection
from aigw_daemon.profile.chains import Step, behind, chain, context_chain, fallbacks, is_pattern
from aigw_daemon.profile.model import Gateway, Profile, Route

DEFAULT_PROVIDER = "workspace-backend"


def snapshot(
    profile: Profile, backends: Sequence[BackendView], revision: int, cache: CacheView | None = None
) -> Snapshot:
    """All that the worker needs to know. ``cache``: see `caching.cache_view`; None: as it is without a profile."""
    return Snapshot(
        revision=revision,
        profile=profile.name,
        gateway=_gateway(profile.gateway),
        backends=tuple(_completed(profile, backend) for backend in backends),
        routes=tuple(_route(profile, name) for name in profile.routes),
        fallback=_targets(fallbacks(profile, "")),
        capabilities=tuple(CapabilityView(name, models) for name, models in profile.capabilities.items()),
        cache=cache or CacheView(),
    )


def _completed(profile: Profile, backend: BackendView) -> BackendView:
    """What the profile says of it beside what the supervisor sees."""
    section = profile.backends.get(backend.name)
    if section is None:
        return backend
    gateway, is_cloud = profile.gateway, cloud(section, backend.host)
    return msgspec.structs.replace(
        backend,
        models=backend.models or _declared(section),
        endpoints=endpoints(section),
        cloud=is_cloud,
        max_concurrency=backend.max_concurrency or concurrency(section),
        max_queue=gateway.max_queue if section.max_queue is None else section.max_queue,
        first_token_timeout=first_token_timeout(section, gateway, is_cloud=is_cloud),
        gap_timeout=gap_timeout(section, gateway),
        cold_timeout=_cold_timeout(section, gateway),
    )


def _declared(section: BackendSection) -> tuple[ModelView, ...]:
    """A model that the profile names stays known while its backend is down: it can't be reached, but it exists.

    Else a request for it would be a 404 instead of waiting, falling back or a 503.
    """
    return tuple(ModelView(id=name, created=0, listed=False) for name in section.served_models or ())


def _cold_timeout(section: BackendSection, gateway: Gateway) -> float:
    said = section.cold_timeout if isinstance(section, ProcessSection) else None
    return gateway.cold_timeout if said is None else said


def _route(profile: Profile, name: str) -> RouteView:
    settings = behind(profile, name) or profile.routes[name]
    return RouteView(
        name=name,
        targets=_targets(chain(profile, name)),
        alias_of=profile.routes[name].alias,
        pattern=is_pattern(name),
        fallback=_targets(fallbacks(profile, name)),
        cold=settings.cold,
        overflow=settings.overflow,
        balance=settings.balance,
        params=_params(settings),
        on_context_overflow=_targets(context_chain(profile, name)),
        first_token_timeout=settings.first_token_timeout,
        request_timeout=settings.request_timeout,
        cache=settings.cache,
        cache_ttl=settings.ttl,
    )


def _params(route: Route) -> ParamsView | None:
    if not (route.defaults or route.override or route.drop):
        return None
    return ParamsView(defaults=_encoded(route.defaults), override=_encoded(route.override), drop=route.drop)


def _encoded(fields: Mapping[str, object]) -> dict[str, bytes]:
    """The standard library's JSON: whole numbers of any size are written as they are."""
    return {name: json.dumps(value, allow_nan=False).encode() for name, value in fields.items()}


def _targets(steps: Sequence[Step]) -> tuple[TargetView, ...]:
    return tuple(TargetView(step.backend, step.model or "", step.weight, step.sole) for step in steps)


def _gateway(gateway: Gateway) -> GatewayView:
    return GatewayView(
        provider=gateway.provider or DEFAULT_PROVIDER,
        allowed_hosts=gateway.allowed_hosts,
        cors_origins=gateway.cors_origins,
        request_timeout=gateway.request_timeout,
        max_attempts=gateway.max_attempts,
        queue_timeout=gateway.queue_timeout,
        header_timeout=gateway.header_timeout,
        body_timeout=gateway.body_timeout,
        max_body=gateway.max_body,
        max_head=gateway.max_header,
    )
