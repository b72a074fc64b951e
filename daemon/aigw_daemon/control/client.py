"""The typed client of the control API: the only way from the CLI to the daemon.

HTTP over the Unix socket of the home (`wire`). Every failure is a `ControlError` with what to do about it;
`DaemonNotRunning` when no daemon runs, `Refused` when the daemon said no (with its `Problem`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from urllib.parse import quote

from aigw_daemon.control import wire
from aigw_daemon.control.cache_schema import CacheAnswer, CacheClear, CacheCleared, CacheStatistics
from aigw_daemon.control.codec import converted, decoded, plain
from aigw_daemon.control.schema import (
    HealthReport,
    NameInfo,
    Problem,
    ProfileInfo,
    PullEvent,
    PullRequest,
    RouteAnswer,
    RouteRequest,
    Status,
    UpRequest,
    Why,
)
from aigw_daemon.control.wire import ConnectionLost, ControlError, DaemonNotRunning, DaemonSuspended, DaemonUnreachable
from aigw_daemon.home import Home

__all__ = [
    "ConnectionLost",
    "ControlClient",
    "ControlError",
    "DaemonNotRunning",
    "DaemonSuspended",
    "DaemonUnreachable",
    "Refused",
]

T = TypeVar("T")


class Refused(ControlError):
    """The daemon's answer is a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class ControlClient:
    """Asks the daemon of ``home``, over a connection per question. Usable as a context manager, and afterwards."""

    def __init__(self, home: Home, *, timeout: float = 30.0) -> None:
        """``timeout``: seconds in which a question that changes nothing must be answered."""
        self._home = home
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held between two questions."""

    def status(self) -> Status:
        """Everything at a glance."""
        return self._ask(Status, "GET", "/status")

    def watch(self) -> Iterator[Status]:
        """A status at every change, and at least every second, until the caller stops reading."""
        for line in self._lines("GET", "/watch"):
            yield _understood(line, Status)

    def up(self, request: UpRequest) -> Status:
        """Switch to the profile if one is named, start what it asks for, and answer without waiting for ready."""
        return self._ask(Status, "POST", "/up", plain(request))

    def down(self) -> Iterator[Status]:
        """Stop everything, then the daemon: a status at every change until it is gone."""
        for line in self._lines("POST", "/down"):
            yield _understood(line, Status)

    def start(self, backends: list[str]) -> Status:
        """Start these (all, when none is named) without waiting for ready."""
        return self._change("start", {"backends": backends})

    def stop(self, backends: list[str], *, now: bool = False) -> Status:
        """Stop these; answers when their processes are gone. ``now``: without letting running requests finish."""
        return self._change("stop", {"backends": backends, "now": now})

    def restart(self, backends: list[str], *, now: bool = False) -> Status:
        """Replace these; answers when that is under way. ``now``: as in stop."""
        return self._change("restart", {"backends": backends, "now": now})

    def daemon_restart(self) -> None:
        """Replace the daemon's program in place; engines and gateway go on."""
        self._ask(dict[str, Any], "POST", "/daemon/restart")

    def log(self, backend: str, *, lines: int = 200, follow: bool = False) -> Iterator[str]:
        """The last lines of a backend's log (``gateway`` and ``daemon`` have logs too), then what follows."""
        path = f"/logs/{quote(backend, safe='')}"
        for line in self._lines("GET", path, params={"lines": lines, "follow": follow}):
            yield line.decode(errors="replace")

    def why(self, backend: str) -> Why:
        """Why a backend is where it is, and what to do about it."""
        return self._ask(Why, "GET", f"/why/{quote(backend, safe='')}")

    def tail(self) -> Iterator[dict[str, Any]]:
        """Requests as they happen: ``{"event": "started"|"finished", …fields of the record}``."""
        for line in self._lines("GET", "/tail"):
            yield json.loads(line)

    def events(self, backend: str | None, *, lines: int = 200, follow: bool = False) -> Iterator[dict[str, Any]]:
        """What happened to one backend, or to all: ``{"at", "backend", "event", "text"}``, oldest first."""
        params = {"lines": lines, "follow": "true" if follow else "false"} | (
            {"backend": backend} if backend is not None else {}
        )
        for line in self._lines("GET", "/events", params=params):
            yield json.loads(line)

    def pull(self, request: PullRequest) -> Iterator[PullEvent]:
        """Fetch a model; leaving the iterator cancels the pull (unless somebody else waits for it too)."""
        for line in self._lines("POST", "/pull", body=plain(request)):
            yield _understood(line, PullEvent)

    def profiles(self) -> list[ProfileInfo]:
        """The user's own and the shipped profiles."""
        return self._ask(list[ProfileInfo], "GET", "/profiles")

    def use_profile(self, profile: str) -> Status:
        """Switch: stops what is no longer wanted, starts what is new, spares what is unchanged."""
        return self._ask(Status, "POST", "/profile", {"profile": profile})

    def names(self) -> list[NameInfo]:
        """Every name that clients may ask for, and who would answer."""
        return self._ask(list[NameInfo], "GET", "/names")

    def route(self, request: RouteRequest) -> RouteAnswer:
        """The router's decision for a model name, without calling the model."""
        return self._ask(RouteAnswer, "POST", "/route", plain(request))

    def health(self) -> HealthReport:
        """The same facts as the gateway's ``/health``."""
        return self._ask(HealthReport, "GET", "/health")

    def cache_stats(self) -> CacheStatistics:
        """What the cache did since the gateway worker began, and what it holds."""
        return self._ask(CacheStatistics, "GET", "/cache/stats")

    def cache_clear(self, request: CacheClear) -> CacheCleared:
        """Forget kept answers; how many that were."""
        return self._ask(CacheCleared, "POST", "/cache/clear", plain(request))

    def cache_show(self, key: str) -> CacheAnswer:
        """What is kept under the one key that begins so."""
        return self._ask(CacheAnswer, "GET", f"/cache/answers/{quote(key, safe='')}")

    def _change(self, verb: str, asked: dict[str, Any]) -> Status:
        return self._ask(Status, "POST", f"/backends/{verb}", asked)

    def _ask(self, kind: type[T], method: str, path: str, body: Any = None) -> T:
        # A stop takes as long as its grace: changes are waited for.
        seconds = None if method == "POST" else self._timeout
        with _refusals():
            content = wire.ask(self._home, method, path, body, seconds=seconds)
        return _understood(content, kind)

    def _lines(
        self, method: str, path: str, *, body: Any = None, params: dict[str, Any] | None = None
    ) -> Iterator[bytes]:
        with _refusals():
            yield from wire.lines(self._home, method, path, body, params=params)


def _understood(content: bytes, kind: type[T]) -> T:
    try:
        return decoded(content, kind)
    except ValueError as error:
        raise ControlError(
            f"this aigw doesn't understand the daemon's answer ({error}): 'aigw daemon restart' updates the daemon"
        ) from error


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn an error answer into the daemon's problem, once, here."""
    try:
        yield
    except wire.Failed as failed:
        try:
            problem = converted(json.loads(failed.body)["error"], Problem)
        except (ValueError, KeyError, TypeError):
            problem = Problem(code="internal", message=f"{failed} without saying why")
        raise Refused(problem) from failed
