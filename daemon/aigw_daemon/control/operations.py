"""What the operator can have done: the verbs of the control API over supervisor, gatekeeper and puller.

Every method takes and gives the schema's objects; what can't be done is a `Refusal` that says what to do instead.
Changes take their turn; looking never waits.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from aigw_daemon.control import choice
from aigw_daemon.control.cache_operations import CacheOperations
from aigw_daemon.control.cache_schema import CacheAnswer, CacheClear, CacheCleared, CacheStatistics
from aigw_daemon.control.changes import Changes
from aigw_daemon.control.choice import Chosen
from aigw_daemon.control.edits import LoadedFile
from aigw_daemon.control.kept import keep, kept
from aigw_daemon.control.logs import lines_of
from aigw_daemon.control.looking import health_report, route_answer
from aigw_daemon.control.names import name_infos, route_names
from aigw_daemon.control.offers import no_longer_offered
from aigw_daemon.control.ollama_pulls import check_request, ollama_pull_events
from aigw_daemon.control.problems import Refusal
from aigw_daemon.control.pulls import pull_events
from aigw_daemon.control.reports import backend_status, backend_view
from aigw_daemon.control.schema import (
    DaemonStatus,
    GatewayStatus,
    HealthReport,
    NameInfo,
    ProfileInfo,
    PullEvent,
    PullRequest,
    RouteAnswer,
    RouteRequest,
    Status,
    UpRequest,
    Why,
)
from aigw_daemon.control.snapshots import snapshot
from aigw_daemon.control.takeup import TakeUp
from aigw_daemon.control.why import explain
from aigw_daemon.gatekeeper.gatekeeper import Gatekeeper
from aigw_daemon.gatekeeper.listeners import AddressUnusable, PortTaken, free_beside
from aigw_daemon.gatekeeper.worker import NAME as GATEWAY
from aigw_daemon.gatekeeper.worker import log_of
from aigw_daemon.history.events import EventLog
from aigw_daemon.history.hub import RecordHub
from aigw_daemon.home import Home
from aigw_daemon.link.messages import GatewayView, Snapshot, Started
from aigw_daemon.models.puller import Puller
from aigw_daemon.profile.model import Profile
from aigw_daemon.state_file import StateFile
from aigw_daemon.supervisor.backend import BackendReport
from aigw_daemon.supervisor.launcher import Launcher
from aigw_daemon.supervisor.supervisor import OneAtATime, Supervisor, UnknownBackend
from aigw_daemon.version import AIGW_VERSION

CAUGHT_UP_SECONDS = 2.0
"""How long a command waits for the worker to hear of what it changed."""
DAEMON = "daemon"
"""The name under which `aigw logs` shows the daemon's own log."""

log = logging.getLogger(__name__)


class Ending(Enum):
    """Why the daemon ends."""

    STOPPED = "stopped"
    RESTART = "restart"
    AT_ONCE = "at once"
    """Told twice: whatever still stops is killed."""
    FAILED = "failed"


@dataclass(frozen=True)
class Parts:
    """What the operations are about; the assembly builds them."""

    home: Home
    state: StateFile
    launcher: Launcher
    supervisor: Supervisor
    gatekeeper: Gatekeeper
    hub: RecordHub
    events: EventLog
    puller: Puller
    changes: Changes
    stop: Callable[[], None]
    """Stop everything, then end; returns at once."""
    end: Callable[[Ending], None]


class Operations:
    """The verbs. One object per daemon."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._cache = CacheOperations(parts.home, parts.supervisor, parts.gatekeeper)
        self._started_at = time.monotonic()
        self._profile: Profile | None = None
        self._file: LoadedFile | None = None
        """The profile's, as it was loaded."""
        self._turn = asyncio.Lock()
        self._stopping = False
        self._take_up: TakeUp | None = None
        self._outdated: str | None = None
        """Why the active profile could not be read when this daemon began."""
        self._last = Snapshot(revision=0, profile="", gateway=GatewayView(), backends=(), routes=())

    # --- looking

    def _daemon_status(self) -> DaemonStatus:
        trouble, moved = self._parts.state.trouble, self._parts.launcher.log_moved(log_of(self._parts.home))
        unwritten = f"{trouble}; a new daemon would not know what has changed since" if trouble else None
        renamed = f"the gateway's log was {moved}; 'aigw logs gateway' still shows it" if moved is not None else None
        return DaemonStatus(
            pid=os.getpid(),
            version=AIGW_VERSION,
            uptime_s=time.monotonic() - self._started_at,
            stopping=self._stopping,
            warnings=[warning for warning in (unwritten, renamed, self._outdated) if warning],
        )

    def status(self) -> Status:
        """Everything at a glance."""
        parts = self._parts
        gatekeeper, current = parts.gatekeeper, self._is_current()
        in_flight, gone = gatekeeper.in_flight(), no_longer_offered(self._last)
        return Status(
            profile=self._profile.name if self._profile else None,
            daemon=self._daemon_status(),
            gateway=GatewayStatus(
                url=gatekeeper.url,
                state=gatekeeper.state,
                pid=gatekeeper.pid,
                why=gatekeeper.why,
                restarts=gatekeeper.restarts,
                current=current,
            ),
            backends=[
                backend_status(
                    report,
                    in_flight.get(report.name, 0),
                    [model.sentence for model in gone if model.backend == report.name],
                )
                for report in parts.supervisor.reports()
            ],
            routes=route_names(self._last),
            profile_file=str(self._file.path) if self._file else None,
            profile_edited=self._file is not None and self._file.edited,
            cache=self._cache.status(self._profile.cache) if self._profile else None,
        )

    def _is_current(self) -> bool:
        """Whether requests are routed by what a status shows now."""
        try:
            self.publish()
        except Exception:  # whoever looks is still told what there is
            log.exception("cannot tell the gateway of a change")
            return False
        return self._take_up is None and self._parts.gatekeeper.is_current

    async def watch(self) -> AsyncIterator[Status]:
        """A status at every change, and at least every second."""
        async for _ in self._parts.changes.beats():
            yield self.status()

    def health(self) -> HealthReport:
        """The same facts as the gateway's ``/health``."""
        self._serving_profile()
        return health_report(self._last)

    def why(self, name: str) -> Why:
        """Why a backend is where it is."""
        self._serving_profile()
        reports = {report.name: report for report in self._everything()}
        if name not in reports:
            raise choice.unknown_backend(name, list(reports))
        held = self._parts.state.backend(name).stopped_by_operator
        return explain(reports[name], self._parts.gatekeeper.in_flight().get(name, 0), held=held, now=time.time())

    def names(self) -> list[NameInfo]:
        """Every name that clients may ask for."""
        self._serving_profile()
        return name_infos(self._last)

    def route(self, request: RouteRequest) -> RouteAnswer:
        """The router's own decision over what the worker routes on."""
        self._serving_profile()
        known = {backend.name for backend in self._last.backends}
        for name in request.assume_down:
            if name not in known:
                raise choice.unknown_backend(name, sorted(known))
        return route_answer(self._last, request, self._parts.gatekeeper.load())

    def log(self, name: str, lines: int, *, follow: bool) -> AsyncIterator[str]:
        """The end of a backend's log, of the gateway's, or of the daemon's own."""
        if name == DAEMON:
            path = self._parts.home.daemon_log
        elif name == GATEWAY:
            path = log_of(self._parts.home)
        else:
            try:
                path = self._parts.supervisor.log_path(name)
            except UnknownBackend as error:
                raise choice.unknown_backend(name, [*error.choices, GATEWAY, DAEMON]) from error
            self._refuse_without_log(name, path, follow=follow)
        return lines_of(partial(self._parts.launcher.log_reader, path), lines, follow=follow)

    def _refuse_without_log(self, name: str, path: Path, *, follow: bool) -> None:
        report = next(report for report in self._everything() if report.name == name)
        if report.attached:
            message = f"aigw doesn't run {name}, so it has no log of it"
            raise Refusal(409, "no_log", message, hint=f"'aigw why {name}' explains its state")
        if not follow and not self._has_log(path):
            message = f"{name} has no log yet: it has not been started"
            raise Refusal(409, "no_log", message, hint=f"'aigw start {name}' starts it")

    def _has_log(self, path: Path) -> bool:
        """Whether there is something to read, be it a file that has lost its name."""
        descriptor = self._parts.launcher.log_reader(path)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    async def tail(self) -> AsyncIterator[dict[str, Any]]:
        """Requests as they begin and finish."""
        async with aclosing(self._parts.hub.watch()) as events:
            async for event in events:
                kind = "started" if isinstance(event, Started) else "finished"
                yield {"event": kind, **msgspec.to_builtins(event)}

    def events(self, backend: str | None, count: int, *, follow: bool) -> AsyncIterator[dict[str, Any]]:
        """What happened to one backend, or to all: the last so many events, then with ``follow`` what happens.

        The name may be of a backend that is no more: its events are kept. One that never was is refused.
        """
        known = {*(report.name for report in self._everything()), *self._parts.events.names()}
        if backend is not None and backend not in known:
            raise choice.unknown_backend(backend, sorted(known))
        return self._told(backend, count, follow=follow)

    async def _told(self, backend: str | None, count: int, *, follow: bool) -> AsyncIterator[dict[str, Any]]:
        async with aclosing(self._parts.events.told(backend, count, follow=follow)) as events:
            async for event in events:
                yield msgspec.to_builtins(event)

    async def cache_stats(self) -> CacheStatistics:
        """What the cache did and holds."""
        return await self._cache.stats(self._serving_profile().cache)

    async def cache_show(self, key: str) -> CacheAnswer:
        """What is kept under the key that begins so."""
        self._serving_profile()
        return await self._cache.show(key)

    def profiles(self) -> list[ProfileInfo]:
        """The user's own and the shipped profiles."""
        return choice.profiles(self._parts.home, self._parts.state.document.profile)

    # --- changing

    async def up(self, request: UpRequest) -> Status:
        """Open the gateway and start what is asked for; answers without waiting for ready."""
        async with self._changing():
            chosen = choice.check_request(self._parts.home, self._parts.state.document.profile, request)
            choice.check_models(chosen.profile, request.backends, self._parts.home)
            await self._switch(chosen, start=not request.backends)
            # By the operator's word: it also ends an earlier stop, and tries again what had failed.
            if names := request.backends or choice.started_with(chosen.profile):
                # One that nobody named puts nobody out of its group.
                await self._change(partial(self._parts.supervisor.start, evict=bool(request.backends)), names)
        return self.status()

    async def use_profile(self, name: str) -> Status:
        """Switch; while nothing is served, the choice is kept for the next `up`."""
        async with self._changing():
            chosen = choice.load_profile(self._parts.home, name)
            if self._parts.state.document.serving:
                choice.check_models(chosen.profile, [], self._parts.home)
                await self._switch(chosen)
            else:
                self._parts.state.update(profile=chosen.profile.file)
        return self.status()

    async def resume(self) -> None:
        """Take up what an earlier daemon of this home served: adopt its worker, sockets and engines."""
        async with self._changing():
            document = self._parts.state.document
            if not document.serving or document.profile is None:
                await self._parts.gatekeeper.clear()
                await self._parts.supervisor.sweep_strays()
                return
            try:
                await self._go_on_with(document.profile)
            except Refusal as refusal:
                log.error("cannot go on with profile %s: %s", document.profile, refusal)
                self._outdated = f"{refusal}: what an earlier daemon started runs on without supervision"

    async def _go_on_with(self, file: str) -> None:
        """Serve the active profile; one whose file is broken by now as it was when it was applied."""
        try:
            await self._switch(choice.load_profile(self._parts.home, file))
        except Refusal as refusal:
            chosen = kept(self._parts.home, file)
            if refusal.problem.code not in {"invalid_profile", "unknown_profile"} or chosen is None:
                raise
            log.warning("%s: going on with it as it was applied last", refusal)
            await self._switch(chosen)
            self._outdated = f"{refusal}: it goes on as it was applied last; 'aigw profile validate {file}' shows why"

    async def down(self) -> AsyncIterator[Status]:
        """Drain the gateway, stop every backend, end the daemon; a caller that leaves does not hold it up."""
        self._parts.stop()
        async for status in self.watch():
            yield status

    async def stop_everything(self) -> None:
        """Gateway first, so that running requests can finish; then the engines, all at once."""
        self._stopping = True
        async with self._turn:
            self._parts.state.update(serving=False)
            await self._parts.gatekeeper.close()
            await self._parts.supervisor.stop_all()

    async def start(self, names: list[str]) -> Status:
        """Start these, or all."""
        async with self._changing():
            return await self._change(self._parts.supervisor.start, names)

    async def stop(self, names: list[str], *, now: bool) -> Status:
        """Stop these, or all, until a start. It takes no turn: it may end what a change is waiting for.

        ``now``: without letting running requests finish.
        """
        return await self._change(partial(self._parts.supervisor.stop, now=now), names)

    async def restart(self, names: list[str], *, now: bool) -> Status:
        """Stop and start these, or all. ``now``: as in stop."""
        async with self._changing():
            return await self._change(partial(self._parts.supervisor.restart, now=now), names)

    async def cache_clear(self, request: CacheClear) -> CacheCleared:
        """Forget kept answers. It takes no turn: a large Redis may need a while, and nothing else depends on it."""
        self._serving_profile()
        return await self._cache.clear(request)

    async def restart_daemon(self) -> None:
        """Replace the program in place once this answer is out.

        Refused while the state can't be written: the new program would not know what has started since.
        """
        async with self._changing():
            try:
                await asyncio.to_thread(self._parts.state.save)
            except OSError as error:
                raise choice.unwritten(self._parts.home.state_file, error) from error
            self._parts.end(Ending.RESTART)

    def pull(self, request: PullRequest) -> AsyncIterator[PullEvent]:
        """Fetch a model of the profile, from a source, or through an Ollama of the active profile."""
        if request.backend is not None:
            self._serving_profile()
            check_request(self._parts.supervisor, request)
            return ollama_pull_events(self._parts.supervisor, request, self.publish)
        if request.insecure:
            hint = "add --backend, or leave --insecure out"
            raise Refusal(400, "invalid_request", "insecure is for pulls through an Ollama", hint=hint)
        chosen = choice.profile_to_use(self._parts.home, self._parts.state.document.profile, request.profile)
        return pull_events(self._parts.puller, chosen.profile, request)

    # --- what the worker routes on

    def publish(self) -> None:
        """Tell the worker, when anything it routes on has changed."""
        if self._profile is None:
            return
        state, reports, starts = self._parts.state, self._parts.supervisor.reports(), self._parts.events.starts
        if self._take_up is not None and not self._take_up.is_over(self._everything(), state.backend):
            return  # the worker knows more than we do
        self._take_up = None
        views = [
            backend_view(
                report,
                held=state.backend(report.name).stopped_by_operator,
                last_start_s=starts.seconds(report.name),
            )
            for report in reports
        ]
        cache = self._cache.view(self._profile.cache, self._last.cache)
        fresh = snapshot(self._profile, views, self._last.revision, cache)
        if fresh != self._last:
            self._last = msgspec.structs.replace(fresh, revision=self._last.revision + 1)
            self._parts.gatekeeper.publish(self._last)

    def _everything(self) -> list[BackendReport]:
        """All that is supervised: the backends, and the cache's Redis."""
        redis = self._parts.supervisor.redis()
        return [*self._parts.supervisor.reports(), *([redis] if redis is not None else [])]

    async def _switch(self, chosen: Chosen, *, start: bool = True) -> None:
        """Serve this profile: first the door, whose port may be taken, then the engines behind it."""
        parts, profile = self._parts, chosen.profile
        if self._profile is None:
            self._take_up = TakeUp.of(parts.state.document, profile, then=parts.changes.happened)
        try:
            await parts.gatekeeper.open(profile.gateway.host, profile.gateway.port, parts.state.document.gateway)
        except PortTaken as taken:
            free = free_beside(profile.gateway.host, taken.port, avoid=profile.fixed_ports.values())
            raise choice.port_taken(taken, parts.launcher.port_owner(taken.port), free) from taken
        except AddressUnusable as error:
            raise Refusal(409, "address_unusable", str(error), hint="change gateway.host in the profile") from error
        self._profile, self._outdated = profile, None
        self._file = LoadedFile(Path(profile.file), chosen.content)
        parts.state.update(profile=profile.file, serving=True)
        await asyncio.to_thread(keep, parts.home, chosen)
        await parts.supervisor.apply(profile, start=start)
        self.publish()

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """One change at a time, and none any more once everything is being stopped."""
        self._refuse_if_stopping()
        async with self._turn:
            self._refuse_if_stopping()  # it may have begun while we waited
            yield

    def _refuse_if_stopping(self) -> None:
        if self._stopping:
            hint = "wait until 'aigw status' says that no daemon runs, then 'aigw up'"
            raise Refusal(409, "stopping", "aigwd is stopping everything", hint=hint)

    async def _change(self, verb: Callable[[list[str]], Any], names: list[str]) -> Status:
        self._serving_profile()
        try:
            await verb(names)
        except UnknownBackend as error:
            raise choice.unknown_backend(error.name, list(error.choices)) from error
        except OneAtATime as error:
            hint = "name one of them; a request for the other evicts it"
            raise Refusal(409, "one_at_a_time", str(error), hint=hint) from error
        # Whoever asked may send a request next: the worker must not answer by what was before.
        self.publish()
        await self._parts.gatekeeper.caught_up(CAUGHT_UP_SECONDS)
        return self.status()

    def _serving_profile(self) -> Profile:
        if self._profile is None:
            raise Refusal(409, "not_serving", "nothing is served yet", hint="'aigw up' starts it")
        return self._profile
