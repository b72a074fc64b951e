"""All backends of the active profile, each with a task of its own, in one TaskGroup."""

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

from aigw_daemon.home import Home
from aigw_daemon.profile.backends import BackendSection, LlamacppBackend, ProcessSection
from aigw_daemon.profile.caching import REDIS, redis_section
from aigw_daemon.profile.model import Profile
from aigw_daemon.state_file import StateFile
from aigw_daemon.supervisor.attached import AttachedBackend
from aigw_daemon.supervisor.backend import AT_REST, Backend, BackendReport, Edges, Plan
from aigw_daemon.supervisor.bringup import end_recorded
from aigw_daemon.supervisor.clock import Clock, SystemClock
from aigw_daemon.supervisor.coordinator import Coordinator
from aigw_daemon.supervisor.gpu_turns import GpuTurns
from aigw_daemon.supervisor.happenings import Tell, nobody
from aigw_daemon.supervisor.launcher import Launcher
from aigw_daemon.supervisor.managed import ManagedBackend
from aigw_daemon.supervisor.probe import HttpProber
from aigw_daemon.supervisor.redis_probe import PingProber
from aigw_daemon.supervisor.residency import Applicant, admitted
from aigw_daemon.supervisor.revision import has_model_file
from aigw_daemon.supervisor.traffic import Watch
from aigw_daemon.words import State

GATEWAY: Final = "gateway"
"""The name of the gateway workers' processes: another part of the daemon looks after them."""
SOFT: Final = frozenset(
    {
        "description",
        "max_concurrency",
        "max_queue",
        "first_token_timeout",
        "gap_timeout",
        "cold_timeout",
        "start",
        "start_timeout",
        "idle_stop",
        "drain",
        "hang_timeout",
    }
)
"""What may change in a profile without the process having to be replaced."""

MODELS_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


class UnknownBackend(Exception):
    """The active profile has no backend of this name."""

    def __init__(self, name: str, choices: Sequence[str]) -> None:
        super().__init__(f"there is no backend {name!r}; choose from: {', '.join(choices) or 'none'}")
        self.name = name
        self.choices = tuple(choices)


class OneAtATime(Exception):
    """Several backends of one exclusive group are to be started at once."""

    def __init__(self, group: str, names: Sequence[str]) -> None:
        super().__init__(f"{' and '.join(names)} are of the group {group}, of which one runs at a time")


class Supervisor:
    """Keeps the backends of the active profile as they are wanted."""

    def __init__(
        self,
        home: Home,
        state: StateFile,
        *,
        launcher: Launcher,
        traffic: Watch,
        on_change: Callable[[], None],
        clock: Clock | None = None,
        gpus: GpuTurns | None = None,
        tell: Tell = nobody,
    ) -> None:
        self._state = state
        self._launcher = launcher
        environ = dict(os.environ)
        self._prober = HttpProber(environ)
        self._edges = Edges(
            home=home,
            state=state,
            launcher=launcher,
            prober=self._prober,
            clock=clock or SystemClock(),
            traffic=traffic,
            on_change=on_change,
            environ=environ,
            gpus=gpus or GpuTurns(clock=clock),
            tell=tell,
        )
        self._backends: dict[str, Backend] = {}
        self._coordinator = Coordinator(self._edges, lambda: self._named(()))
        self._tasks: asyncio.TaskGroup | None = None
        self._running = asyncio.Event()
        self._over = asyncio.Event()
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Own all backends until `stop_all` is done. Cancelled, it leaves the engines running, to be adopted later."""
        async with self._prober, asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            background = [
                tasks.create_task(self._launcher.tend(), name="tend"),
                tasks.create_task(self._coordinator.run(), name="coordinator"),
                tasks.create_task(self._look_at_models(), name="models"),
            ]
            self._running.set()
            await self._over.wait()
            for task in background:
                task.cancel()

    async def _look_at_models(self) -> NoReturn:
        """Files of models are replaced without a word: what would be started then answers otherwise."""
        while True:
            await self._edges.clock.sleep(MODELS_SECONDS)
            for backend in self._named(()):
                if isinstance(backend, ManagedBackend) and has_model_file(backend.plan.section):
                    await self._look_at_model(backend)

    async def _look_at_model(self, backend: ManagedBackend) -> None:
        try:
            await backend.look_at_model()
        except Exception:  # a bug of ours here must not take the backends along
            log.exception("cannot look at the model of %s", backend.name)

    async def apply(self, profile: Profile, *, start: bool = True) -> None:
        """Make this the active profile: stop what it doesn't have, replace what it changes, spare what is the same.

        Processes that an earlier daemon left running are adopted; those that nothing accounts for are ended (rules
        A12, A18). ``start``: also start what the profile wants always on and the operator has not stopped.
        """
        await self._running.wait()
        async with self._turn:
            applied = self._state.document.applied
            switched = applied is not None and applied != profile.file
            plans = _plans(profile)
            await self._drop([name for name, backend in self._backends.items() if not _same(backend, plans.get(name))])
            await self._discard(set(self._state.document.backends) - set(plans))
            for plan in plans.values():
                if switched and plan.name not in self._backends:
                    # One of the same name in another profile: what happened to that one is not this one's.
                    self._state.update_backend(plan.name, restarts=0, stopped_by_operator=False)
                self._take_in(plan, replacing=switched)
            self._backends = {name: self._backends[name] for name in plans}
            self._state.update(applied=profile.file)
            wanted = self._admitted(
                backend for backend in self._backends.values() if self._is_wanted(backend, start=start)
            )
            await self._discard(await self._unaccounted(wanted), forget=False)
            await _all(backend.start(by_operator=False) for backend in wanted)
        self._edges.on_change()

    async def start(self, names: Collection[str] = (), *, evict: bool = True) -> None:
        """Start these, or all; returns once that is under way. Raises UnknownBackend and OneAtATime.

        One that is named makes those of its group give way, unless not to ``evict`` them; without names, and without
        that, who runs stays.
        """
        await _all(backend.start() for backend in self._startable(names, evict=evict))

    async def stop(self, names: Collection[str] = (), *, now: bool = False) -> None:
        """Stop these, or all, and keep them stopped until a start; returns when they are. Raises UnknownBackend.

        Running requests may finish first, within the profile's ``drain``, unless it has to be ``now``.
        """
        await _all(backend.stop(hold=True, now=now) for backend in self._named(names))

    async def restart(self, names: Collection[str] = (), *, now: bool = False) -> None:
        """Replace these, or all, by fresh ones; returns once that is under way. ``now``: as in stop.

        Raises UnknownBackend and OneAtATime.
        """
        await _all(backend.restart(now=now) for backend in self._startable(names, evict=True))

    async def settled(self, names: Collection[str] = ()) -> dict[str, State]:
        """Wait until none of these, or of all, is starting or stopping. Raises UnknownBackend."""
        return {backend.name: await backend.settled() for backend in self._named(names)}

    async def refresh(self, name: str) -> None:
        """Ask a backend for its models now; returns when `reports` has them. Raises UnknownBackend."""
        await _all(backend.refresh() for backend in self._named([name]))

    def demand(self, name: str) -> None:
        """A request wants this backend: start it, unless the operator has stopped it. An unknown one is ignored."""
        if (backend := self._backends.get(name)) is not None:
            backend.demand()

    def using(self, name: str) -> AbstractContextManager[None]:
        """Meanwhile this backend does not count as idle, whatever the gateway has to say of it."""
        return self._coordinator.using(name)

    async def stop_all(self) -> None:
        """Stop everything at once, whoever started it (rule A22), and end `run`."""
        async with self._turn:
            await self._drop(list(self._backends), now=True)  # the gateway, which goes first, has drained
            await self._sweep_strays()
            self._over.set()

    async def sweep_strays(self) -> None:
        """End every engine that an earlier daemon left running: nothing is to be served."""
        async with self._turn:
            await self._sweep_strays()

    def reports(self) -> list[BackendReport]:
        """All backends, in the order of the profile."""
        return [backend.report() for backend in self._named(())]

    def redis(self) -> BackendReport | None:
        """The Redis that is run for the cache, if any. It has a name like a backend, and is meant only by that."""
        server = self._backends.get(REDIS)
        return None if server is None else server.report()

    def log_path(self, name: str) -> Path:
        """Where a backend's output goes; its earlier part is beside it, with ``.1``. Raises UnknownBackend."""
        self._named([name])
        return self._edges.home.logs / f"{name}.log"

    def _named(self, names: Collection[str]) -> list[Backend]:
        for name in names:
            if name not in self._backends:
                raise UnknownBackend(name, list(self._backends))
        return [self._backends[name] for name in names or self._backends if names or name != REDIS]

    def _startable(self, names: Collection[str], *, evict: bool) -> list[Backend]:
        """What a start of these, or of all, means where only one of a group can run."""
        backends = self._named(names)
        if not names or not evict:
            return self._admitted(backends)
        for group in filter(None, {_group(backend) for backend in backends}):
            members = [backend.name for backend in backends if _group(backend) == group]
            if len(members) > 1:
                raise OneAtATime(group, members)
        return backends

    def _admitted(self, backends: Iterable[Backend]) -> list[Backend]:
        """Those that put nobody out of a group: a start that nobody asked for by name must not."""
        asked = list(backends)
        applicants = [Applicant(backend.name, _group(backend), self._runs(backend)) for backend in asked]
        resident = {_group(backend) for backend in asked if backend.state not in AT_REST}
        names = admitted(applicants, {group for group in self._edges.groups.occupied if group not in resident})
        return [backend for backend in asked if backend.name in names]

    def _runs(self, backend: Backend) -> bool:
        return backend.state not in AT_REST or self._state.backend(backend.name).identity is not None

    # --- switching

    def _take_in(self, plan: Plan, *, replacing: bool) -> None:
        known = self._backends.get(plan.name)
        if known is not None:
            known.plan = plan
            return
        if self._tasks is None:
            raise RuntimeError("the supervisor is not running")
        edges = self._edges
        if plan.name == REDIS:
            edges = replace(edges, prober=PingProber(edges.home.redis_socket))
        backend: Backend = (
            ManagedBackend(plan, edges, replace=replacing) if plan.section.managed else AttachedBackend(plan, edges)
        )
        self._backends[plan.name] = backend
        self._tasks.create_task(backend.run(), name=f"backend {plan.name}")

    def _is_wanted(self, backend: Backend, *, start: bool) -> bool:
        """Whether it is to run now: the profile wants it, or it ran when the last daemon died."""
        record = self._state.backend(backend.name)
        if record.stopped_by_operator or backend.state is not State.STOPPED:
            return False
        section = backend.plan.section
        always = section.always_on if isinstance(section, ProcessSection) and section.managed else True
        return (start and always) or (record.wanted and record.identity is not None)

    async def _drop(self, names: Sequence[str], *, now: bool = False) -> None:
        """Stop these and end their tasks."""
        dropped = [self._backends[name] for name in names]
        await _all(backend.stop(now=now) for backend in dropped)
        for backend in dropped:
            backend.retire()
            del self._backends[backend.name]

    async def _unaccounted(self, wanted: Iterable[Backend]) -> set[str]:
        """Names of processes that nobody is going to take up: not to be served, or with no record to know them by."""
        taken_up = {backend.name for backend in wanted}
        busy = {name for name, backend in self._backends.items() if backend.state is not State.STOPPED}
        return (await self._left_running()) - taken_up - busy

    async def _left_running(self) -> set[str]:
        recorded = {name for name, record in self._state.document.backends.items() if record.identity is not None}
        return (recorded | await self._launcher.strays()) - {GATEWAY}

    async def _sweep_strays(self) -> None:
        await self._discard(await self._left_running(), forget=False)

    async def _discard(self, names: Iterable[str], *, forget: bool = True) -> None:
        """End what runs under these names without a task of ours."""
        await _all(self._end_left_over(name) for name in names if name not in self._backends or not forget)
        for name in names:
            if forget and name not in self._backends:
                self._state.forget_backend(name)

    async def _end_left_over(self, name: str) -> None:
        stopped = await end_recorded(self._launcher, name, self._state.backend(name))
        if stopped.unkillable:
            log.error("%s: processes %s survive SIGKILL", name, stopped.unkillable)
        elif name in self._state.document.backends:
            self._state.update_backend(name, identity=None, descendants=(), wanted=False)


def _plans(profile: Profile) -> dict[str, Plan]:
    """All that runs for this profile: its backends, and the Redis of its cache."""
    plans = {name: Plan(name, section, profile) for name, section in profile.backends.items()}
    redis = redis_section(profile.cache)
    return plans if redis is None else plans | {REDIS: Plan(REDIS, redis, profile)}


def _group(backend: Backend) -> str | None:
    section = backend.plan.section
    return section.group if isinstance(section, ProcessSection) else None


def _same(backend: Backend, plan: Plan | None) -> bool:
    """Whether a running backend can stay as it is under another profile."""
    return plan is not None and _essence(backend.plan) == _essence(plan)


def _essence(plan: Plan) -> tuple[object, ...]:
    """What its process is made from."""
    section: BackendSection = plan.section
    said = {field: getattr(section, field) for field in type(section).model_fields if field not in SOFT}
    model = section.model if isinstance(section, LlamacppBackend) else None
    return type(section), said, plan.profile.models.get(model) if model is not None else None


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for each in work:
            tasks.create_task(each)
