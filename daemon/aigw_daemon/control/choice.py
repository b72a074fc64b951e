"""Which profile and which backends an operation is about; every wrong choice is told with the right ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aigw_daemon.control.problems import Refusal
from aigw_daemon.control.schema import ProfileInfo, UpRequest
from aigw_daemon.gatekeeper.listeners import PortTaken
from aigw_daemon.home import Home
from aigw_daemon.models.resolve import Missing, resolve
from aigw_daemon.profile.backends import LlamacppBackend
from aigw_daemon.profile.caching import REDIS
from aigw_daemon.profile.errors import ProfileError
from aigw_daemon.profile.find import find, listing
from aigw_daemon.profile.load import content, parse
from aigw_daemon.profile.model import Profile
from aigw_daemon.supervisor.ports import PortOwner

STARTER = "starter"


@dataclass(frozen=True)
class Chosen:
    """A profile, and the file's content that it was made from."""

    profile: Profile
    content: bytes = field(repr=False)


def load_profile(home: Home, name_or_path: str) -> Chosen:
    """Find and check a profile. Refuses with every problem in it."""
    try:
        path = find(name_or_path, home)
    except ProfileError as error:
        raise Refusal(404, "unknown_profile", str(error), hint="'aigw profile list' shows them all") from error
    try:
        found = content(path)
        return Chosen(parse(found, str(path)), found)
    except ProfileError as error:
        problems = [str(problem) for problem in error.problems]
        message = f"the profile {path} has {len(problems)} problem{'s' if len(problems) > 1 else ''}"
        hint = "nothing was changed: fix the file and try again"
        raise Refusal(422, "invalid_profile", message, hint=hint, details=problems) from error


def check_request(home: Home, active: str | None, request: UpRequest) -> Chosen:
    """The profile that `up` asks for, with the backends that it names; refuses what can be refused beforehand."""
    chosen = profile_to_use(home, active, request.profile)
    check_names(chosen.profile, request.backends)
    return chosen


def profile_to_use(home: Home, active: str | None, asked: str | None) -> Chosen:
    """The profile that was asked for, else the active one, else the user's only one, else the starter."""
    return load_profile(home, asked or active or _only_own(home) or STARTER)


def check_names(profile: Profile, names: Sequence[str]) -> None:
    """Refuse a backend that the profile doesn't have."""
    for name in names:
        if name not in profile.backends:
            raise unknown_backend(name, list(profile.backends))


def check_models(profile: Profile, names: Sequence[str], home: Home) -> None:
    """Refuse, naming them, when models that can be pulled aren't there yet."""
    wanted = names or always_on(profile)
    engines = [profile.backends[name] for name in wanted]
    found = [resolve(profile, backend, home) for backend in engines if isinstance(backend, LlamacppBackend)]
    pullable = sorted({missing.model for missing in found if isinstance(missing, Missing) and missing.source})
    if pullable:
        message = f"{len(pullable)} model{'s are' if len(pullable) > 1 else ' is'} not here yet: {', '.join(pullable)}"
        raise Refusal(409, "models_missing", message, hint=f"aigw pull {pullable[0]}", details=pullable)


def always_on(profile: Profile) -> list[str]:
    """The backends that run as long as the profile is active."""
    return [name for name, backend in profile.backends.items() if getattr(backend, "always_on", False)]


def started_with(profile: Profile) -> list[str]:
    """All that starts with the profile: those, and the cache's Redis."""
    return [*always_on(profile), *([REDIS] if profile.cache.managed else [])]


def profiles(home: Home, active: str | None) -> list[ProfileInfo]:
    """Every profile that can be named."""
    infos = []
    for name, path, found in listing(home):
        text = found if isinstance(found, str) else None
        problems = [] if isinstance(found, str) else [str(problem) for problem in found]
        infos.append(
            ProfileInfo(name=name, path=str(path), description=text, active=str(path) == active, problems=problems)
        )
    return infos


def unknown_backend(name: str, choices: Sequence[str]) -> Refusal:
    """No such backend."""
    return Refusal(
        404,
        "unknown_backend",
        f"there is no backend {name!r} in the active profile",
        hint=f"choose from: {', '.join(choices)}" if choices else "the profile has no backends",
        details=list(choices),
    )


def unwritten(path: Path, error: OSError) -> Refusal:
    """What the next daemon has to know can't be written."""
    message = f"cannot write {path}: {error.strerror}; a new daemon would not find the engines that run now"
    return Refusal(409, "state_unwritten", message, hint="free space there, then try again; everything keeps running")


def port_taken(taken: PortTaken, owner: PortOwner | None, free: int | None) -> Refusal:
    """Somebody else serves there: say who, and how to go on beside them. ``free``: a port that could be had instead."""
    who = "another program" if owner is None else str(owner)
    message = f"port {taken.port} on {taken.host} is taken by {who}"
    hint = f"stop it, or set gateway.port in the profile to a free port{f', such as {free}' if free else ''}"
    return Refusal(409, "port_taken", message, hint=hint)


def _only_own(home: Home) -> str | None:
    own = [str(path) for _, path, _ in listing(home) if path.parent == home.profiles]
    return own[0] if len(own) == 1 else None
