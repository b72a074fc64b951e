"""What no single key can get wrong: names that lead nowhere or in a circle, one port or group claimed twice.

Pure: from a profile to findings. It looks at nothing of this machine; planning does.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from aigw_daemon.network.hosts import is_loopback
from aigw_daemon.profile.backends import (
    AttachableSection,
    BackendSection,
    CommandBackend,
    LlamacppBackend,
    ProcessSection,
    VllmBackend,
)
from aigw_daemon.profile.caching import LARGEST_PART, Cache
from aigw_daemon.profile.chains import direct, is_pattern
from aigw_daemon.profile.commands import uses
from aigw_daemon.profile.doubts import Doubts
from aigw_daemon.profile.errors import shown
from aigw_daemon.profile.model import Profile, Route, Target, managed_port
from aigw_daemon.profile.sources import HttpSource, model_path, parse_source
from aigw_daemon.words import REGEX_MARK

Path = tuple[str | int, ...]

_WITHOUT_PROCESS = {*BackendSection.model_fields, "engine", "attach", "api_key", "models"}
"""Keys that mean something for a backend that somebody else runs; so do a model and its served name."""
_OF_TARGETS = set(Route.model_fields) - {"alias", "targets"}
"""Keys that say how a route's targets are asked; an alias has none of its own."""
_OF_MODEL = {"model", "served_name"}
_NAMING = ("engine", "attach", "models", "model", "served_name")
"""Keys that say under which names a backend serves."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule, by its path in the profile; ``choices`` are the names that would have been right."""

    path: Path
    rule: str
    value: str | None = None
    choices: tuple[str, ...] = ()
    hint: str = ""
    relies: tuple[Path, ...] | None = None
    """What it is concluded from: where one of them is in doubt, it is no finding. None: what stands at ``path``."""


@dataclass(frozen=True, slots=True)
class Declared:
    """All names in the file. Those whose own section is broken count as well: one mistake, one message."""

    backends: AbstractSet[str]
    routes: AbstractSet[str]
    served: AbstractSet[str]
    """Models that backends say they serve."""


def check(profile: Profile, declared: Declared, doubts: Doubts) -> list[Finding]:
    """All findings, in no particular order. ``doubts``: where the profile is broken, and judged by other rules."""
    found = _findings(profile, declared, doubts)
    return [each for each in found if not any(map(doubts.touch, (each.path,) if each.relies is None else each.relies))]


def _findings(profile: Profile, declared: Declared, doubts: Doubts) -> list[Finding]:
    return [
        *_gateway(profile),
        *_cache(profile.cache),
        *_ports(profile, doubts),
        *_groups(profile, doubts),
        *(finding for name, backend in profile.backends.items() for finding in _backend(name, backend)),
        *(finding for name, route in profile.routes.items() for finding in _form(name, route)),
        *_names(profile, declared),
        *_capabilities(profile, declared, doubts),
        *_cycles(profile),
        *_model_files(profile, doubts),
    ]


def _gateway(profile: Profile) -> Iterator[Finding]:
    if not is_loopback(profile.gateway.host.strip("[]")):
        yield Finding(
            ("gateway", "host"),
            "an address beyond this machine needs an API key, and profiles can't hold gateway keys yet (rule S2)",
            shown(profile.gateway.host),
            hint="keep localhost, and put a proxy with authentication in front of it",
        )


def _cache(cache: Cache) -> Iterator[Finding]:
    if "redis_memory" in cache.model_fields_set and not cache.managed:
        rule = "is for a Redis that aigw runs"
        path = ("cache", "redis_memory")
        relies = (path, ("cache", "redis"))
        yield Finding(path, rule, hint="write redis: managed, or remove it", relies=relies)
    if cache.redis is None and cache.max_answer > cache.memory // LARGEST_PART:
        key = "max_answer" if "max_answer" in cache.model_fields_set else "memory"
        rule = f"no answer takes more than an eighth of memory, so {LARGEST_PART} times max_answer is the least"
        parts = tuple(("cache", each) for each in ("redis", "memory", "max_answer"))
        hint = "raise memory, or lower max_answer"
        yield Finding(("cache", key), rule, str(getattr(cache, key)), hint=hint, relies=parts)


def _ports(profile: Profile, doubts: Doubts) -> Iterator[Finding]:
    gateway = 0 if doubts.touch(("gateway", "port")) else profile.gateway.port
    owners = {gateway: "the gateway"} if gateway else {}
    for name, backend in profile.backends.items():
        port = managed_port(backend)
        if port is None or _in_doubt(doubts, name, "port", "attach"):
            continue
        if port in owners:
            hint = "choose another port, or omit it to get a free one"
            yield Finding(("backends", name, "port"), f"port {port} is already used by {owners[port]}", hint=hint)
        owners.setdefault(port, f"the backend {shown(name)}")


def _in_doubt(doubts: Doubts, backend: str, *keys: str) -> bool:
    return any(doubts.touch(("backends", backend, key)) for key in keys)


def _groups(profile: Profile, doubts: Doubts) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for name, backend in profile.backends.items():
        if not isinstance(backend, ProcessSection) or not backend.always_on or backend.group is None:
            continue
        if _in_doubt(doubts, name, "group", "start", "attach"):
            continue
        owner = owners.setdefault(backend.group, name)
        if owner != name:
            rule = f"one backend of an exclusive group runs at a time, and {shown(owner)} of this one is always on"
            hint = "set start: on_demand on one of them"
            yield Finding(("backends", name, "group"), rule, shown(backend.group), hint=hint)


def _backend(name: str, backend: BackendSection) -> Iterator[Finding]:
    path: Path = ("backends", name)
    if isinstance(backend, AttachableSection):
        yield from _attached(path, backend) if backend.attach else _run_by_us(path, backend)
    if isinstance(backend, CommandBackend) and backend.model is None and uses(backend.command, "model"):
        relies = ((*path, "model"), (*path, "command"))
        rule = "is required: the command uses {model}"
        yield Finding((*path, "model"), rule, hint="say what it stands for", relies=relies)
    if isinstance(backend, LlamacppBackend) and backend.runner == "embedded" and backend.binary is not None:
        relies = ((*path, "binary"), (*path, "runner"))
        hint = "set runner: binary, or remove it"
        yield Finding((*path, "binary"), "the embedded runner uses no binary", hint=hint, relies=relies)


def _attached(path: Path, backend: AttachableSection) -> Iterator[Finding]:
    for key in sorted(backend.model_fields_set - _WITHOUT_PROCESS - _OF_MODEL):
        rule = "has no effect with attach: aigw does not run this backend"
        relies = ((*path, key), (*path, "attach"), (*path, "engine"))
        yield Finding((*path, key), rule, hint="remove it, or remove attach", relies=relies)


def _run_by_us(path: Path, backend: AttachableSection) -> Iterator[Finding]:
    if backend.api_key is not None:
        rule = "api_key is for attached backends; aigw makes the key of an engine that it runs"
        relies = ((*path, "api_key"), (*path, "attach"), (*path, "engine"))
        yield Finding((*path, "api_key"), rule, hint="remove it, or attach to a URL", relies=relies)
    if isinstance(backend, VllmBackend | LlamacppBackend) and backend.model is None:
        keys = ((*path, "model"), (*path, "attach"))
        hint = "say which model to serve, or attach to a URL"
        yield Finding((*path, "model"), "is required", hint=hint, relies=keys)


def _form(name: str, route: Route) -> Iterator[Finding]:
    path: Path = ("routes", name)
    both = ((*path, "alias"), (*path, "targets"))
    if route.alias is not None and route.targets is not None:
        yield Finding(
            (*path, "alias"), "a route has either an alias or targets, not both", hint="remove one of them", relies=both
        )
    if route.alias is None and route.targets is None:
        yield Finding(path, "a route needs targets or an alias", choices=("targets", "alias"), relies=both)
    if route.alias is not None:
        for key in sorted(_OF_TARGETS & route.model_fields_set):
            rule = "an alias is only another name: this belongs to the route that it stands for"
            yield Finding((*path, key), rule, hint="move it there", relies=((*path, key), (*path, "alias")))
    if route.cache == "off" and route.ttl is not None:
        relies = ((*path, "ttl"), (*path, "cache"))
        yield Finding((*path, "ttl"), "has no effect with cache: off", hint="remove one of them", relies=relies)
    if name.startswith(REGEX_MARK) and (trouble := _no_regex(name)):
        rule = f"a name that starts with {REGEX_MARK} is a regular expression, and this is none: {trouble}"
        hint = "see Python's re for the form; without ~ it is a glob"
        yield Finding(path, rule, shown(name), hint=hint, relies=())


def _no_regex(name: str) -> str | None:
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(name[len(REGEX_MARK) :])
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return None


def _names(profile: Profile, declared: Declared) -> Iterator[Finding]:
    exact = tuple(sorted(name for name in declared.routes if not is_pattern(name)))
    backends = tuple(sorted(declared.backends))
    known = set(exact) | set(backends)
    for name, route in profile.routes.items():
        if route.alias is not None:
            yield from _alias(profile, declared, ("routes", name, "alias"), route.alias, exact)
        for key, targets in (("targets", route.targets or ()), ("on_context_overflow", route.on_context_overflow)):
            for index, target in enumerate(targets):
                path: Path = ("routes", name, key, index)
                if isinstance(target, str):
                    yield from _target(profile, declared, path, target, known)
                elif target.backend not in declared.backends:
                    rule = "must be a backend of this profile"
                    yield Finding((*path, "backend"), rule, shown(target.backend), choices=backends)
    for index, target in enumerate(profile.fallback):
        yield from _target(profile, declared, ("fallback", index), target, known)


def _capabilities(profile: Profile, declared: Declared, doubts: Doubts) -> Iterator[Finding]:
    """Their models may be known to an engine only, as long as some engine is asked for what it has."""
    exact = {name for name in declared.routes if not is_pattern(name)}
    open_ended = any(
        backend.served_models is None or _in_doubt(doubts, name, *_NAMING) for name, backend in profile.backends.items()
    ) or len(profile.backends) < len(declared.backends)
    for name, models in profile.capabilities.items():
        path: Path = ("capabilities", name)
        if is_pattern(name):
            yield Finding(path, "a capability has one name, no pattern", shown(name), relies=())
        if name in declared.routes:
            rule = "a route has this name already, and routes come first"
            yield Finding(path, rule, shown(name), hint="rename one of them", relies=())
        for index, model in enumerate(models):
            if model in exact or _leads_somewhere(profile, declared, model):
                continue
            place = (*path, index)
            if model in declared.backends:
                rule = "must be a model's name, as a client would ask for it"
                yield Finding(place, rule, shown(model), hint=f"that is a backend: write {model}/MODEL")
            elif model in profile.capabilities:
                rule = "a capability lists models, and no other capability"
                yield Finding(place, rule, shown(model))
            elif not open_ended:
                rule = "must be a route, a model that a backend serves, or BACKEND/MODEL"
                yield Finding(place, rule, shown(model), choices=(*sorted(exact), *_served(profile.backends)))


def _alias(profile: Profile, declared: Declared, path: Path, name: str, routes: Sequence[str]) -> Iterator[Finding]:
    if name in routes or _leads_somewhere(profile, declared, name):
        return
    rule = "an alias stands for a route, a model that a backend serves by its served_name, or BACKEND/MODEL"
    if name in declared.backends:
        yield Finding(path, rule, shown(name), hint=f"that is a backend: write targets: [{name}]")
    else:
        yield Finding(path, rule, shown(name), choices=(*routes, *_served(profile.backends)))


def _target(profile: Profile, declared: Declared, path: Path, name: str, known: AbstractSet[str]) -> Iterator[Finding]:
    if name not in known and not _leads_somewhere(profile, declared, name):
        rule = "must name a backend, a route, or BACKEND/MODEL"
        yield Finding(path, rule, shown(name), choices=tuple(sorted(known)))


def _leads_somewhere(profile: Profile, declared: Declared, name: str) -> bool:
    backend, slash, model = name.partition("/")
    qualified = bool(slash and model) and backend in declared.backends
    return qualified or name in declared.served or direct(profile, name) is not None


def _served(backends: Mapping[str, BackendSection]) -> Iterable[str]:
    return (model for backend in backends.values() for model in backend.served_models or ())


def _cycles(profile: Profile) -> Iterator[Finding]:
    """Each circle once, at the reference that closes it. Depth first, with a stack of its own."""
    done: set[str] = set()
    for start in profile.routes:
        if start in done:
            continue
        trail: dict[str, Iterator[tuple[Path, str]]] = {start: _edges(profile, start)}
        while trail:
            current = next(reversed(trail))
            path, name = next(trail[current], ((), ""))
            if not path:
                done.add(current)
                trail.popitem()
            elif name in trail:
                names = list(trail)
                circle = " → ".join(shown(step) for step in [*names[names.index(name) :], name][-8:])
                yield Finding(path, f"routes must not lead back to themselves: {circle}", hint="break the circle here")
            elif name not in done:
                trail[name] = _edges(profile, name)


def _edges(profile: Profile, name: str) -> Iterator[tuple[Path, str]]:
    route = profile.routes[name]
    if route.alias is not None and route.alias in profile.routes:
        yield ("routes", name, "alias"), route.alias
    for index, target in enumerate(route.targets or ()):
        # A target that names a backend means the backend, even if a route has the same name.
        if not isinstance(target, Target) and target not in profile.backends and target in profile.routes:
            yield ("routes", name, "targets", index), target


def _model_files(profile: Profile, doubts: Doubts) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for name, entry in profile.models.items():
        if isinstance(parse_source(entry.source), HttpSource) and entry.sha256 is None:
            rule = "a download over https needs its checksum: a torn or changed file must be noticed"
            relies = (("models", name, "sha256"), ("models", name, "source"))
            hint = "add sha256: and the file's 64 hexadecimal digits"
            yield Finding(("models", name, "sha256"), rule, hint=hint, relies=relies)
        if any(doubts.touch(("models", name, key)) for key in ("source", "file")):
            continue
        file = str(model_path(name, entry.file, entry.source))
        owner = owners.setdefault(file, name)
        if owner != name:
            key = "file" if entry.file else "source"
            yield Finding(("models", name, key), f"each model has its own file; {shown(owner)} has", shown(file))
