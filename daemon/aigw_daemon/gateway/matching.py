"""What a name stands for: a route, a backend's model, a model of a cloud, a pattern, a capability. Pure.

A name is looked up in this order: an exact route or alias, ``backend/model``, a model that some backend lists, a model
that a cloud lists under its plain name, a pattern, a capability. So a pulled ``gpt-oss:20b`` is never swallowed by a
``gpt-*`` pattern.
"""

import fnmatch
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from aigw_daemon.gateway.decision import NOBODY
from aigw_daemon.link.messages import BackendView, ModelView, RouteView, Snapshot, TargetView
from aigw_daemon.words import REGEX_MARK, EngineKind

DEFAULT_TAG: Final = ":latest"
CLOUD_TAG: Final = ":cloud"
CLOUD_ENDING: Final = "-cloud"


class Match(msgspec.Struct, frozen=True):
    """What a name stands for, before anybody looks whether it can answer."""

    word: str
    """How it was found: route, alias, direct, listed, cloud, pattern or capability."""
    targets: tuple[TargetView, ...]
    fallback: tuple[TargetView, ...]
    route: RouteView | None = None


class Names:
    """All names of a snapshot, compiled: every look-up but that of a pattern is one in a dictionary."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.backends = {backend.name: backend for backend in snapshot.backends}
        self.served = {backend.name: _served(backend) for backend in snapshot.backends}
        self.routes = {route.name: route for route in snapshot.routes if not route.pattern}
        self.listed = _listed(snapshot.backends, self.served)
        self._latest = _listed((b for b in snapshot.backends if b.engine is EngineKind.OLLAMA), self.served)
        self._clouds = tuple(backend for backend in snapshot.backends if backend.cloud)
        self._patterns = tuple(
            (pattern, route) for route in snapshot.routes if route.pattern and (pattern := _compiled(route.name))
        )
        self.capabilities = {capability.name: capability.models for capability in snapshot.capabilities}
        self._fallback = snapshot.fallback

    def all(self) -> list[str]:
        """Every name that can be asked for, patterns aside: routes, models that are listed, capabilities."""
        clouds = (cloud_name(model) for backend in self._clouds for model in self.served[backend.name])
        return list(dict.fromkeys([*self.routes, *self.listed, *clouds, *self.capabilities]))

    def model_of(self, target: TargetView, asked: str) -> str:
        """What the target is asked for when a client asks for ``asked``."""
        served = self.served.get(target.backend, {}) if target.sole else {}
        return next(iter(served)) if len(served) == 1 else target.model or asked

    def match(self, name: str) -> Match | None:
        """What this name stands for; None for an unknown one."""
        return self._model(name) or self._capability(name)

    def _model(self, name: str) -> Match | None:
        if route := self.routes.get(name):
            return Match("alias" if route.alias_of else "route", route.targets, route.fallback, route)
        if direct := self._direct(name):
            return Match("direct", (direct,), self._fallback)
        if listed := self.listed.get(name) or self._latest.get(name + DEFAULT_TAG):
            return Match("listed", listed, self._fallback)
        if cloud := self._cloud(name):
            return Match("cloud", cloud, self._fallback)
        route = next((route for pattern, route in self._patterns if pattern.fullmatch(name)), None)
        return Match("pattern", route.targets, route.fallback, route) if route is not None else None

    def _direct(self, name: str) -> TargetView | None:
        backend, slash, model = name.partition("/")
        return TargetView(backend, model) if slash and model and backend in self.backends else None

    def _cloud(self, name: str) -> tuple[TargetView, ...]:
        plain = plain_name(name)
        if plain is None:
            return ()
        # A cloud that lists nothing yet is believed, as every other backend is.
        found = (
            cloud.name for cloud in self._clouds if not self.served[cloud.name] or plain in self.served[cloud.name]
        )
        return tuple(TargetView(cloud, plain) for cloud in found)

    def _capability(self, name: str) -> Match | None:
        models = self.capabilities.get(name)
        if models is None:
            return None
        targets = tuple(target for model in models for target in self._targets_of(model))
        return Match("capability", targets, self._fallback)

    def _targets_of(self, model: str) -> Iterable[TargetView]:
        """Of one model of a capability; never those of another capability, so there is no circle to go in."""
        if match := self._model(model):
            return (msgspec.structs.replace(target, model=target.model or model) for target in match.targets)
        # An Ollama that doesn't run can't say what it has.
        silent = [b.name for b in self.backends.values() if b.engine is EngineKind.OLLAMA and not self.served[b.name]]
        return (TargetView(name, model) for name in silent or [NOBODY])


def served_name(backend: BackendView, served: Mapping[str, ModelView], model: str) -> str | None:
    """The name as the backend lists it; None when it lists others only. One that lists nothing yet is believed."""
    if model in served:
        return model
    plain = plain_name(model) if backend.cloud else None
    if not served:
        return plain or model
    if plain in served:
        return plain
    tagged = model + DEFAULT_TAG
    return tagged if backend.engine is EngineKind.OLLAMA and tagged in served else None


def plain_name(name: str) -> str | None:
    """What a cloud calls the model that a local Ollama calls ``NAME:cloud`` or ``NAME:TAG-cloud``; None for others."""
    if name.endswith(CLOUD_TAG):
        return name.removesuffix(CLOUD_TAG) or None
    if name.endswith(CLOUD_ENDING) and ":" in name:
        return name.removesuffix(CLOUD_ENDING)
    return None


def cloud_name(model: str) -> str:
    """The inverse of `plain_name`."""
    return model + (CLOUD_ENDING if ":" in model else CLOUD_TAG)


def _served(backend: BackendView) -> dict[str, ModelView]:
    return {view.id: view for view in backend.models}


def _listed(
    backends: Iterable[BackendView], served: Mapping[str, Mapping[str, ModelView]]
) -> dict[str, tuple[TargetView, ...]]:
    found: dict[str, list[TargetView]] = {}
    for backend in backends:
        for model in served[backend.name]:
            found.setdefault(model, []).append(TargetView(backend.name, model))
    return {model: tuple(targets) for model, targets in found.items()}


def _compiled(name: str) -> re.Pattern[str] | None:
    """None for one that is no regular expression: the profile refuses it, another version's profile may not have."""
    source = name[len(REGEX_MARK) :] if name.startswith(REGEX_MARK) else fnmatch.translate(name)
    try:
        with warnings.catch_warnings(action="ignore"):
            return re.compile(source)
    except (re.error, OverflowError, RecursionError):
        return None
