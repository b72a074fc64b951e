"""Names for the shell's completion, asked from the daemon, or none at all when it can't say them at once."""

from typing import Any

_LOGS_OF_OURS = ("gateway", "daemon")


def backends(incomplete: str) -> list[str]:
    """Backends of the active profile that begin so."""
    status = _ask("/v1/status")
    found = status.get("backends", []) if isinstance(status, dict) else []
    return _beginning([*_names(found), *_redis(status)], incomplete)


def logs(incomplete: str) -> list[str]:
    """Everything that has a log: the backends, the gateway and the daemon."""
    return [*backends(incomplete), *_beginning(list(_LOGS_OF_OURS), incomplete)]


def profiles(incomplete: str) -> list[str]:
    """Profiles that begin so."""
    return _beginning(_names(_ask("/v1/profiles")), incomplete)


def models(incomplete: str) -> list[str]:
    """Names that clients can ask for: routes, aliases, models and capabilities."""
    answer = _ask("/v1/names")
    found = answer if isinstance(answer, list) else []
    # A pattern isn't a name that anybody asks for.
    return _beginning(_names([each for each in found if _kind(each) != "pattern"]), incomplete)


def _kind(entry: Any) -> Any:
    return entry.get("kind") if isinstance(entry, dict) else None


def _redis(status: Any) -> list[str]:
    """The cache's Redis, if the daemon runs it: it has a log, events and a state like a backend."""
    cache = status.get("cache") if isinstance(status, dict) else None
    redis = cache.get("redis") if isinstance(cache, dict) else None
    return _names([redis.get("server")]) if isinstance(redis, dict) else []


def _names(found: Any) -> list[str]:
    entries = found if isinstance(found, list) else []
    return [str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry]


def _beginning(names: list[str], incomplete: str) -> list[str]:
    # A shell would take blanks and control characters apart; no name of ours has any.
    return [name for name in names if name.startswith(incomplete) and name.isprintable() and " " not in name]


def _ask(path: str) -> Any:
    # At every Tab the shell waits; at every other command nobody needs this.
    from aigw_cli.quick_client import ask  # noqa: PLC0415

    return ask(path)
