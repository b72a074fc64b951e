"""What a route comes down to: from names that lead to names, the ordered backends and models that are tried.

Pure, and total: a profile that `check` has passed always expands, whatever its routes refer to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from aigw_daemon.profile.backends import BackendSection
from aigw_daemon.profile.model import Profile, Route, Target
from aigw_daemon.words import REGEX_MARK


@dataclass(frozen=True)
class Step:
    """A target whose references have been followed. Two that differ in ``sole`` alone are the same."""

    backend: str
    model: str | None
    """None: the name that was asked for."""
    weight: int = 1
    sole: bool = field(default=False, compare=False)
    """The profile names no model: while the backend has a single one, it comes before ``model``."""


def is_pattern(name: str) -> bool:
    """Whether a route's name is a glob, or a regular expression (``~…``), rather than one model's name."""
    return name.startswith(REGEX_MARK) or any(character in name for character in "*?[")


def served_by(backends: Mapping[str, BackendSection], model: str) -> str | None:
    """The first backend that the profile itself says serves this model."""
    return next((name for name, backend in backends.items() if model in (backend.served_models or ())), None)


def direct(profile: Profile, name: str) -> Target | None:
    """A name that is no route: ``BACKEND/MODEL``, or a model that some backend is said to serve."""
    backend, slash, model = name.partition("/")
    if slash and model and backend in profile.backends:
        return Target(backend=backend, model=model)
    owner = served_by(profile.backends, name)
    return Target(backend=owner, model=name) if owner else None


def chain(profile: Profile, name: str) -> tuple[Step, ...]:
    """The targets of a route, routes and aliases among them expanded, each once, in the order of fallback.

    A target without a model asks for the backend's only model. Where the backend has several, it takes the name that
    was asked for, unless it was reached through another route: then it takes that route's name. The profile's
    ``fallback`` is not part of it: see `fallbacks`.
    """
    return _once(_expand(profile, (name,), None))


def fallbacks(profile: Profile, name: str) -> tuple[Step, ...]:
    """What is tried after the route's own targets; nothing when it, or the route that it is an alias of, says off."""
    route = behind(profile, name)
    if route is not None and route.fallback == "off":
        return ()
    own = set(chain(profile, name))
    return tuple(target for target in _once(_expand(profile, profile.fallback, None)) if target not in own)


def context_chain(profile: Profile, name: str) -> tuple[Step, ...]:
    """Who is asked when a prompt is too long for a route's own targets."""
    name = _settled(profile, name)
    route = profile.routes.get(name)
    if route is None:
        return ()
    own = {(target.backend, target.model) for target in chain(profile, name)}
    entries = _once(_expand(profile, route.on_context_overflow, _asked(name)))
    return tuple(target for target in entries if (target.backend, target.model) not in own)


def _expand(profile: Profile, names: tuple[str | Target, ...], asked: str | None) -> Iterator[Step]:
    """Depth first by a stack of its own: a chain of aliases may be longer than Python's recursion is deep."""
    stack: list[tuple[str | Target, str | None]] = [(name, asked) for name in reversed(names)]
    seen: set[str] = set()
    while stack:
        entry, inside = stack.pop()
        if isinstance(entry, Target):
            yield _step(profile, entry, inside)
        elif inside is not None and entry in profile.backends:
            yield _step(profile, Target(backend=entry), inside)
        elif (route := profile.routes.get(entry)) is not None and entry not in seen:
            seen.add(entry)
            stack.extend(_entries(route, _asked(entry)))
        elif (target := direct(profile, entry)) is not None:
            yield _step(profile, target, None)
        elif entry in profile.backends:
            yield _step(profile, Target(backend=entry), None)


def _step(profile: Profile, target: Target, inside: str | None) -> Step:
    if target.model:
        return Step(target.backend, target.model, target.weight)
    backend = profile.backends.get(target.backend)
    only = _only_model(backend) if backend is not None else None
    # What the profile names is known; else the backend itself says at run time what it has.
    sole = backend is not None and backend.served_models is None
    return Step(target.backend, only or inside or None, target.weight, sole)


def _entries(route: Route, name: str) -> list[tuple[str | Target, str | None]]:
    if route.alias is not None:
        return [(route.alias, None)]
    return [(target, name) for target in reversed(route.targets or ())]


def _asked(name: str) -> str:
    """A pattern has no one name: "" keeps its targets open for the name that will be asked for."""
    return "" if is_pattern(name) else name


def _only_model(backend: BackendSection) -> str | None:
    models = backend.served_models
    return models[0] if models and len(models) == 1 else None


def _once(targets: Iterator[Step]) -> tuple[Step, ...]:
    return tuple(dict.fromkeys(targets))


def behind(profile: Profile, name: str) -> Route | None:
    """The route that holds the settings of this name: itself, or what it is an alias of; None where that is none."""
    return profile.routes.get(_settled(profile, name))


def _settled(profile: Profile, name: str) -> str:
    """The name at the end of a chain of aliases."""
    while (route := profile.routes.get(name)) is not None and route.alias is not None:
        name = route.alias
    return name
