"""From what the profile says of the cache to what the worker is told and the operator sees (pure)."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from aigw_daemon.control.reports import backend_status
from aigw_daemon.control.schema import CacheStatus, RedisStatus
from aigw_daemon.home import Home
from aigw_daemon.link.messages import CacheView, Secret
from aigw_daemon.profile.caching import Cache
from aigw_daemon.profile.redis_url import redis_trouble
from aigw_daemon.profile.scalars import MissingVariableError
from aigw_daemon.supervisor.backend import BackendReport
from aigw_daemon.words import SERVING, State

_NOT_THERE: Final = frozenset({State.STOPPED, State.FAILED})
_MEANWHILE: Final = "answers are kept in the gateway's process alone meanwhile"


class UnusableRedis(Exception):
    """The URL of the profile leads nowhere; the text says why, and nothing of the URL."""


def cache_view(
    cache: Cache, *, redis: BackendReport | None, before: CacheView, home: Home, env: Mapping[str, str]
) -> CacheView:
    """What the worker is told. ``redis``: the managed one; ``before``: what it was told last.

    One that restarts keeps its place: the worker tries it again by itself.
    """
    try:
        url = _url(cache, redis, before, home, env)
    except UnusableRedis:
        url = None
    return CacheView(
        mode=cache.mode,
        ttl=cache.ttl,
        memory=cache.memory,
        max_answer=cache.max_answer,
        split_by=cache.split_by,
        fallback_answers=cache.fallback_answers,
        redis=Secret(url) if url is not None else None,
        redis_wanted=cache.redis is not None or cache.managed,
        secret=before.secret,
    )


def cache_status(cache: Cache, *, redis: BackendReport | None, home: Home, env: Mapping[str, str]) -> CacheStatus:
    """The cache in `aigw status`."""
    shown = _managed_status(redis, home) if cache.managed else _foreign_status(cache, env)
    return CacheStatus(mode=cache.mode, ttl_s=cache.ttl, redis=shown)


def managed_url(home: Home) -> str:
    """Where the managed Redis answers."""
    return f"unix://{quote(str(home.redis_socket))}"


def foreign_url(cache: Cache, env: Mapping[str, str]) -> str | None:
    """The Redis that somebody else runs, its variables filled in; None without one. Raises UnusableRedis."""
    if cache.redis is None:
        return None
    try:
        url = cache.redis.expand(env)
    except MissingVariableError as error:
        raise UnusableRedis(str(error)) from error
    if (trouble := redis_trouble(url)) is not None:
        names = ", ".join(sorted(cache.redis.variables))
        raise UnusableRedis(f"cache.redis {trouble}; see what the environment has as {names}")
    return url


def _url(
    cache: Cache, redis: BackendReport | None, before: CacheView, home: Home, env: Mapping[str, str]
) -> str | None:
    if not cache.managed:
        return foreign_url(cache, env)
    if redis is None or redis.state in _NOT_THERE:
        return None
    url = managed_url(home)
    known = before.redis is not None and before.redis.value == url
    return url if known or redis.state in SERVING else None


def _managed_status(redis: BackendReport | None, home: Home) -> RedisStatus:
    server = backend_status(redis, 0, []) if redis is not None else None
    down = redis is not None and redis.state is State.FAILED
    return RedisStatus(where=str(home.redis_socket), server=server, warnings=[_MEANWHILE] if down else [])


def _foreign_status(cache: Cache, env: Mapping[str, str]) -> RedisStatus | None:
    try:
        url = foreign_url(cache, env)
    except UnusableRedis as error:
        return RedisStatus(where="", warnings=[str(error), _MEANWHILE])
    return None if url is None else RedisStatus(where=_shown(url))


def _shown(url: str) -> str:
    """Without user, password and whatever a query may hold (rule S12)."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}"
