"""One task owning one backend: the part that is the same whether aigw runs the process or somebody else does.

Everything that happens to a backend comes through its inbox and is handled by its own task, one thing at a time, so
that nothing needs a lock. A handler never waits: what takes time runs as an effect, a child task that posts back what
came of it. A backend has at most one effect at a time; the next one begins when the last has ended.
"""

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from aigw_daemon.home import Home
from aigw_daemon.link.messages import ModelView, Secret
from aigw_daemon.models.resolve import resolve
from aigw_daemon.network.egress import DIRECT, Egress
from aigw_daemon.profile.backends import BackendSection
from aigw_daemon.profile.model import Profile
from aigw_daemon.state_file import StateFile
from aigw_daemon.supervisor.clock import Clock
from aigw_daemon.supervisor.engines.base import LoadedModel, Resolve
from aigw_daemon.supervisor.failures import Failure, FailureKind
from aigw_daemon.supervisor.gpu_turns import GpuTurns
from aigw_daemon.supervisor.group_turns import GroupTurns
from aigw_daemon.supervisor.happenings import Tell, happening, nobody
from aigw_daemon.supervisor.launcher import Launcher
from aigw_daemon.supervisor.lifecycle import Event, Life, next_state
from aigw_daemon.supervisor.listed_models import ListedModels
from aigw_daemon.supervisor.probe import Prober, Reading
from aigw_daemon.supervisor.traffic import Watch
from aigw_daemon.words import SERVING, EngineKind, State

AT_REST: Final = frozenset({State.STOPPED, State.FAILED})
"""States in which a stop is over."""
SETTLED: Final = AT_REST | {State.READY, State.DEGRADED, State.UNREACHABLE, State.BACKOFF}
"""States that don't end by themselves within a moment."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Edges:
    """The world, as backends reach it."""

    home: Home
    state: StateFile
    launcher: Launcher
    prober: Prober
    clock: Clock
    traffic: Watch
    on_change: Callable[[], None]
    environ: dict[str, str] = field(repr=False)
    random: Callable[[], float] = random.random
    resolve: Resolve = resolve
    gpus: GpuTurns = field(default_factory=GpuTurns)
    groups: GroupTurns = field(default_factory=GroupTurns)
    tell: Tell = nobody


@dataclass(frozen=True)
class Plan:
    """What the profile says of one backend."""

    name: str
    section: BackendSection
    profile: Profile

    @property
    def kind(self) -> EngineKind:
        """Its kind of engine."""
        return EngineKind(getattr(self.section, "engine"))  # noqa: B009  # the base section leaves it to its subclasses


@dataclass(frozen=True)
class Address:
    """Where a backend answers."""

    host: str
    port: int
    tls: bool = False
    base_path: str = "/v1"

    @property
    def url(self) -> str:
        """Without ``base_path``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


@dataclass(frozen=True)
class Past:
    """What ended it the last time."""

    failure: Failure
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class BackendReport:
    """All that is known of a backend, for the operator and for the gateway."""

    name: str
    engine: EngineKind
    state: State
    since: float
    """When the state began, seconds since the epoch."""
    since_s: float
    """Seconds in the state."""
    wanted: bool
    attached: bool
    address: Address | None = None
    egress: Egress = DIRECT
    """The way to it."""
    probed: bool = True
    """False for a URL that hasn't been asked since it was started."""
    has_list: bool = True
    """Whether it can be asked for its models."""
    api_key: Secret | None = None
    """What the engine asks for."""
    pid: int | None = None
    gpus: tuple[int | str, ...] = ()
    memory_bytes: int | None = None
    models: tuple[ModelView, ...] = ()
    loaded: tuple[LoadedModel, ...] = ()
    """Of an engine with many models: what it has in memory."""
    max_concurrency: int | None = None
    uptime_s: float | None = None
    """Seconds since it became ready."""
    restarts: int = 0
    why: str | None = None
    """The reason for a state that isn't ready, one sentence."""
    failure: FailureKind | None = None
    progress: str | None = None
    """While starting: how far it is, or the last line of its log."""
    log_tail: tuple[str, ...] = ()
    """After a failure: the lines that show it."""
    telling: str | None = None
    """The one of them that gives it away, where one does."""
    past: Past | None = None
    """Its last failure, whatever became of it since, as far as this daemon has seen it."""
    stale: bool = False
    """Running with arguments that differ from the profile's current ones."""
    revision: str = ""
    """Of what answers, or would if it were started; see `revision`."""
    leaving: bool = False
    """It was idle or makes way for another: it drains, stops or has stopped, and a request starts it again."""
    warnings: tuple[str, ...] = ()
    """What is wrong about it though it serves, one sentence each."""


@dataclass
class _Caller:
    """Somebody who waits: until the request has been heard and the condition holds."""

    until: Callable[[], bool]
    answer: asyncio.Future[None]
    heard: bool = False


class Backend(ABC):
    """One backend of the profile. ``run`` is its task; all other public methods may be called while that runs."""

    life: ClassVar[Life]
    _revision: str
    """Of what answers or would; see `revision`."""

    def __init__(self, plan: Plan, edges: Edges) -> None:
        self.plan = plan
        self.name = plan.name
        self.state = State.STOPPED
        self.wanted = False
        self.failure: Failure | None = None
        self.why: str | None = None
        self._edges = edges
        self._since = edges.clock.time()
        self._entered_at = edges.clock.monotonic()
        self._inbox: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._callers: list[_Caller] = []
        self._tasks: asyncio.TaskGroup | None = None
        self._effect: asyncio.Task[None] | None = None
        self._over = False
        self._listed_models = ListedModels(self.name, edges.state, edges.clock.time)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.state}{'' if self.wanted else ', not wanted'}>"

    # --- for the supervisor

    async def run(self) -> None:
        """Own the backend until it is retired, or cancelled; what runs then is left running."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                while not self._over:
                    self._take(await self._inbox.get())
                for task in self._running():
                    task.cancel()
        finally:
            self._over = True
            self._release_callers()

    async def start(self, *, by_operator: bool = True) -> None:
        """Have it run; returns once that is under way. By the operator, it also ends a hold and forgets failures."""
        await self._ask(lambda: self._on_start(by_operator=by_operator))

    async def stop(self, *, hold: bool = False, now: bool = False) -> None:
        """Have it not run; returns when nothing of it does, or what is left can't be killed, or a start came after.

        ``hold``: against demand and restarts of the daemon, until the operator starts it. ``now``: without letting
        running requests finish.
        """
        await self._ask(lambda: self._on_stop(hold=hold, now=now), until=lambda: self.wanted or self.state in AT_REST)

    async def restart(self, *, now: bool = False) -> None:
        """Replace it by a fresh one; returns once that is under way. ``now``: as in stop."""
        await self._ask(lambda: self._on_restart(now=now))

    async def settled(self) -> State:
        """Wait until it is neither starting nor stopping; returns the state."""
        await self._ask(lambda: None, until=self._is_settled)
        return self.state

    def _is_settled(self) -> bool:
        return self.state in SETTLED

    async def refresh(self) -> None:
        """Ask it for its models now; returns when `report` has them. Of one that doesn't serve nothing is asked."""
        if self.state in SERVING:
            news = await self._look_again()
            await self._ask(news)

    def demand(self) -> None:
        """A request wants it: start it, unless the operator has stopped it. Doesn't wait."""
        if not self._edges.state.backend(self.name).stopped_by_operator:
            self._inbox.put_nowait(lambda: self._on_start(by_operator=False))

    def retire(self) -> None:
        """End its task; it must have been stopped before."""

        def end() -> None:
            self._over = True

        self._inbox.put_nowait(end)

    @abstractmethod
    def report(self) -> BackendReport:
        """All that is known of it."""

    # --- for the two kinds of life

    @abstractmethod
    def _on_start(self, *, by_operator: bool) -> None:
        """It is wanted."""

    @abstractmethod
    def _on_stop(self, *, hold: bool, now: bool) -> None:
        """It is not wanted."""

    @abstractmethod
    def _on_restart(self, *, now: bool) -> None:
        """It is to be replaced."""

    @abstractmethod
    def _entered(self, before: State) -> None:
        """The state has changed: begin the effect that belongs to it."""

    @abstractmethod
    def _on_bug(self) -> None:
        """Our own code has failed, and the state is ``failed``: clear up what can be cleared up."""

    @abstractmethod
    async def _look_again(self) -> Callable[[], None]:
        """Ask it for its models; gives what is to be handled with the answer."""

    def _outline(self, reading: Reading, serves_since: float | None) -> BackendReport:
        """What a report says of either kind of life. ``serves_since`` in monotonic seconds, None: it does not serve."""
        now, serving = self._edges.clock.monotonic(), self.state in SERVING
        return BackendReport(
            name=self.name,
            engine=self.plan.kind,
            state=self.state,
            since=self._since,
            since_s=now - self._entered_at,
            wanted=self.wanted,
            attached=self.life is Life.ATTACHED,
            models=reading.models if serving else self._listed_models.recall(self._revision),
            loaded=reading.loaded if serving else (),
            uptime_s=now - serves_since if serves_since is not None else None,
            why=self.why,
            failure=self.failure.kind if self.failure is not None else None,
        )

    def _transition(self, event: Event, why: str | None = None) -> bool:
        """Take an event: the one place where the state changes. Returns whether it did."""
        before, after = self.state, next_state(self.life, self.state, event)
        if after is None:
            return False
        self.state = after
        self.why = why
        self._since = self._edges.clock.time()
        self._entered_at = self._edges.clock.monotonic()
        log.info("%s: %s -> %s (%s)%s", self.name, before, after, event, f": {why}" if why else "")
        if before in SERVING and after not in SERVING:
            self._listed_models.leave(self._revision)
        if (word := happening(event, before, after)) is not None:
            self._edges.tell(self.name, word, why)
        self._entered(before)
        self._edges.on_change()
        return True

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have this done beside us, once what was being done before has been cancelled and has ended."""
        if self._tasks is None:
            raise RuntimeError(f"the backend {self.name} is not running")
        before = self._effect
        if before is not None:
            before.cancel()
        self._effect = self._tasks.create_task(self._carry_out(work, before), name=f"{self.name}: {self.state}")

    def _end_effect(self) -> None:
        if self._effect is not None:
            self._effect.cancel()

    def _post(self, handler: Callable[[], None]) -> None:
        """From an effect: have this handled, unless the effect has been replaced by then."""
        sender = asyncio.current_task()
        self._inbox.put_nowait(lambda: handler() if self._effect is sender else None)

    def _running(self) -> list[asyncio.Task[None]]:
        return [self._effect] if self._effect is not None else []

    # --- the machinery

    async def _carry_out(
        self, work: Callable[[], Coroutine[Any, Any, None]], before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await until_ended(before)
        try:
            await work()
        except Exception as error:  # noqa: BLE001  # a bug in one backend must not take the others down
            bug = error
            self._inbox.put_nowait(lambda: self._fail_by_bug(bug))

    async def _ask(self, handler: Callable[[], None], until: Callable[[], bool] = lambda: True) -> None:
        """Have a request handled, and wait until the condition holds."""
        if self._over:
            return
        caller = _Caller(until, asyncio.get_running_loop().create_future())
        self._callers.append(caller)

        def handle() -> None:
            caller.heard = True
            handler()

        self._inbox.put_nowait(handle)
        await caller.answer

    def _take(self, handler: Callable[[], None]) -> None:
        try:
            handler()
        except Exception as error:  # noqa: BLE001  # likewise
            self._fail_by_bug(error)
        self._answer_callers()

    def _fail_by_bug(self, error: BaseException) -> None:
        log.error("%s: internal error", self.name, exc_info=error)
        sentence = "internal error of aigw: 'aigw logs daemon' has the details"
        self.failure = Failure(FailureKind.INTERNAL, sentence)
        try:
            self._transition(Event.BUG, sentence)
            self._on_bug()
        except Exception:
            log.exception("%s: cannot clear up after an internal error", self.name)

    def _answer_callers(self) -> None:
        for caller in self._callers:
            if caller.heard and caller.until() and not caller.answer.done():
                caller.answer.set_result(None)
        self._callers = [caller for caller in self._callers if not caller.answer.done()]

    def _release_callers(self) -> None:
        """Nobody waits for a backend that is no more."""
        for caller in self._callers:
            if not caller.answer.done():
                caller.answer.set_result(None)
        self._callers = []


async def until_ended(task: asyncio.Task[None]) -> None:
    """Wait for a task to end, however often we are cancelled meanwhile; the cancellation is passed on afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
