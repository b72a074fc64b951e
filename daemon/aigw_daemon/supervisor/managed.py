"""A backend whose process aigw runs: brought up, looked after, taken down, tried again (rules A1 to A9, A24 to A26)."""

import asyncio
import logging
from functools import partial
from typing import Final

from aigw_daemon.identity import Identity
from aigw_daemon.link.messages import Secret
from aigw_daemon.profile.backends import ProcessSection
from aigw_daemon.supervisor import backoff
from aigw_daemon.supervisor.backend import Address, Backend, BackendReport, Edges, Plan
from aigw_daemon.supervisor.backoff import History, Limits
from aigw_daemon.supervisor.engines.base import LOOPBACK, Engine, Launch, LaunchContext
from aigw_daemon.supervisor.engines.registry import engine
from aigw_daemon.supervisor.failures import Exit, Failure, FailureKind, Unrunnable, classify, unrunnable
from aigw_daemon.supervisor.keys import engine_key
from aigw_daemon.supervisor.lifecycle import Event, Life, after_end
from aigw_daemon.supervisor.probe import Reading
from aigw_daemon.supervisor.process import Handle, LaunchError, NotAdopted, ProcessSpec, Stopped
from aigw_daemon.words import SERVING, State

LIVENESS_SECONDS: Final = 10.0
"""Between two liveness probes (rule A3)."""
LIVENESS_FAILURES: Final = 3
"""In a row, with no byte in between, before it is replaced (rule A3)."""
LOOK_SECONDS: Final = 2.0
"""How often its memory and its descendants are noted."""
FIRST_PROBE_SECONDS: Final = 0.05
PROBE_FACTOR: Final = 1.5
LAST_PROBE_SECONDS: Final = 1.0
RECHECK_SECONDS: Final = 5.0
"""How often a backend that failed for good looks whether a file has changed."""
LOG_LINES: Final = 200
"""How many lines a failure is looked for in."""

log = logging.getLogger(__name__)


class ManagedBackend(Backend):
    """See the module. ``replace``: what an earlier daemon left running is of another profile and makes way."""

    life = Life.MANAGED

    def __init__(self, plan: Plan, edges: Edges, *, replace: bool = False) -> None:
        super().__init__(plan, edges)
        self._log = edges.home.logs / f"{plan.name}.log"
        self._replace = replace
        self._handle: Handle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._exit: Exit | None = None
        self._again = False
        self._history = History()
        self._delay = 0.0
        self._tried: tuple[object, ...] = ()
        self._reading = Reading()
        self._port: int | None = None
        self._key: Secret | None = None
        self._ready_at: float | None = None
        self._memory: int | None = None
        self._progress: str | None = None
        self._stale = False

    def report(self) -> BackendReport:
        """See Backend."""
        section, now = self._section, self._edges.clock.monotonic()
        gpus = section.gpus if isinstance(section.gpus, tuple) else ()
        return BackendReport(
            name=self.name,
            engine=self.plan.kind,
            state=self.state,
            since=self._since,
            since_s=now - self._entered_at,
            wanted=self.wanted,
            attached=False,
            address=Address(LOOPBACK, self._port) if self._port is not None else None,
            api_key=self._key,
            pid=self._handle.identity.pid if self._handle is not None else None,
            gpus=gpus,
            memory_bytes=self._memory,
            models=self._reading.models if self.state in SERVING else (),
            max_concurrency=section.max_concurrency or self._reading.concurrency,
            uptime_s=now - self._ready_at if self._ready_at is not None else None,
            restarts=self._edges.state.backend(self.name).restarts,
            why=self.why,
            failure=self.failure.kind if self.failure is not None else None,
            progress=self._progress if self.state is State.STARTING else None,
            log_tail=self.failure.lines if self.failure is not None else (),
            stale=self._stale,
        )

    # --- requests

    def _on_start(self, *, by_operator: bool) -> None:
        if by_operator or self.state is State.STOPPED:
            self._history = History()
        self._want(by_operator=by_operator)
        # While it is being stopped, a start queues behind the stop (rule A24).
        self._again = self._again or self.state is State.STOPPING
        self._transition(Event.START)

    def _on_stop(self, *, hold: bool) -> None:
        self.wanted = self._again = False
        changes = {"stopped_by_operator": True} if hold else {}
        self._edges.state.update_backend(self.name, wanted=False, **changes)
        self._transition(Event.STOP)
        self._edges.on_change()

    def _on_restart(self) -> None:
        self._history = History()
        self._want(by_operator=True)
        # In a state without a process, the start itself is the restart.
        self._again = self.state in {State.STARTING, State.STOPPING} | SERVING
        self._transition(Event.RESTART)

    def _want(self, *, by_operator: bool) -> None:
        self.wanted = True
        changes = {"stopped_by_operator": False} if by_operator else {}
        self._edges.state.update_backend(self.name, wanted=True, **changes)

    # --- states

    def _entered(self, before: State) -> None:
        match self.state:
            case State.STARTING:
                self.failure, self._progress, self._again = None, None, False
                self._begin(self._bring_up)
            case State.READY | State.DEGRADED:
                if before not in SERVING:
                    self._ready_at = self._edges.clock.monotonic()
                    self._begin(self._look_after)
            case State.STOPPING:
                self._begin(self._take_down)
            case State.BACKOFF:
                self._begin(self._wait_out)
            case State.FAILED:
                self._begin(self._wait_for_change)
            case _:
                self._end_effect()

    def _on_bug(self) -> None:
        self._begin(self._clear_up)

    # --- starting

    async def _bring_up(self) -> None:
        failure = None
        try:
            kind = engine(self.plan.kind, self.name)
            handle = await self._take_up(kind) or await self._launch(kind)
        except Unrunnable as error:
            failure = error.failure
        except LaunchError as error:
            kinds = {error.missing: FailureKind.MISSING_BINARY, error.transient: FailureKind.NO_RESOURCES}
            failure = Failure(kinds.get(True, FailureKind.BAD_SETTING), str(error))
        except OSError as error:
            failure = Failure(FailureKind.NO_RESOURCES, f"cannot prepare the start: {error}")
        if failure is not None:
            missed = failure
            self._post(lambda: self._not_started(missed))
            return
        await self._await_ready(kind, handle)

    async def _take_up(self, kind: Engine) -> Handle | None:
        """The process that an earlier daemon left running, if there is one that fits (rule A12)."""
        record = self._edges.state.backend(self.name)
        if self._handle is not None or record.identity is None:
            return None
        self._key = engine_key(self._edges.home, self.name) if kind.has_key else None
        try:
            handle = await self._edges.launcher.adopt(record.identity, log_path=self._log)
        except NotAdopted as error:
            log.info("%s: not adopted: %s", self.name, error)
            return None
        self._hold(handle)
        self._port = record.port
        changed = self._differs(kind, record.identity, record.port or 0)
        if changed and self._replace:
            stopped = await self._edges.launcher.stop(handle, members=record.descendants)
            self._let_go(stopped)
            return None
        self._stale = changed
        log.info("%s: adopted process %d%s", self.name, record.identity.pid, " (stale)" if changed else "")
        return handle

    async def _launch(self, kind: Engine) -> Handle:
        edges, record = self._edges, self._edges.state.backend(self.name)
        swept = await edges.launcher.sweep(self.name, record.descendants)
        if swept.unkillable:
            raise unrunnable(FailureKind.UNKILLABLE, _unkillable(swept))
        self._key = engine_key(edges.home, self.name) if kind.has_key else None
        port = self._choose_port(record.port)
        launch = self._command(kind, port)
        self._tried = launch.fingerprint()
        offset = edges.launcher.log_size(self._log)
        handle = await edges.launcher.spawn(ProcessSpec(self.name, launch.argv, launch.env, self._log))
        # No await between the start and the record of it: a cancellation can't come between them.
        self._hold(handle)
        self._port, self._stale = port, False
        edges.state.update_backend(self.name, identity=handle.identity, port=port, log_offset=offset, descendants=())
        edges.on_change()
        return handle

    def _choose_port(self, remembered: int | None) -> int:
        launcher, fixed = self._edges.launcher, self._section.port
        port = fixed or remembered or launcher.free_port(self._taken_ports())
        owner = launcher.port_owner(port)
        if owner is None:
            return port
        if fixed is None:
            return launcher.free_port(self._taken_ports())
        who = f"the backend {owner.backend} of this aigw" if owner.ours else str(owner)
        raise unrunnable(
            FailureKind.PORT_TAKEN,
            f"port {port} is taken by {who}: stop that, give the backend another port, or attach: to what runs there",
        )

    def _taken_ports(self) -> set[int]:
        records = self._edges.state.document.backends
        others = {record.port for name, record in records.items() if name != self.name and record.port is not None}
        return others | set(self.plan.profile.fixed_ports.values()) | {self.plan.profile.gateway.port}

    def _command(self, kind: Engine, port: int) -> Launch:
        edges = self._edges
        return kind.launch(
            LaunchContext(
                name=self.name,
                section=self._section,
                profile=self.plan.profile,
                home=edges.home,
                port=port,
                api_key=engine_key(edges.home, self.name),
                environ=edges.environ,
                resolve=edges.resolve,
            )
        )

    def _differs(self, kind: Engine, identity: Identity, port: int) -> bool:
        """Whether the profile asks for another command line than the running one (port included)."""
        try:
            return self._command(kind, self._section.port or port).argv != identity.argv
        except Unrunnable:
            return True

    async def _await_ready(self, kind: Engine, handle: Handle) -> None:
        edges = self._edges
        deadline = edges.clock.monotonic() + kind.start_timeout
        pause = FIRST_PROBE_SECONDS
        while True:
            reading = await self._read(kind, handle)
            if reading.up:
                self._post(partial(self._became_ready, reading))
                return
            if (failure := self._hopeless(kind, reading, late=edges.clock.monotonic() > deadline)) is not None:
                self._post(partial(self._will_not_be_ready, failure))
                return
            await self._note(handle)
            await edges.clock.sleep(pause)
            pause = min(pause * PROBE_FACTOR, LAST_PROBE_SECONDS)

    async def _read(self, kind: Engine, handle: Handle) -> Reading:
        port = self._port or 0
        reading = await self._edges.prober.ready(kind, self._section, Address(LOOPBACK, port).url, self._our_key())
        if (reading.up or reading.wrong) and not self._edges.launcher.listens(handle, port):
            owner = self._edges.launcher.port_owner(port)
            return Reading(why=f"port {port} is answered by {owner or 'another process'}, not by our engine")
        return reading

    def _hopeless(self, kind: Engine, reading: Reading, *, late: bool) -> Failure | None:
        if reading.wrong:
            return Failure(FailureKind.WRONG_MODEL, f"the engine is up, but {reading.wrong}: check served_name")
        if late:
            why = f": {reading.why}" if reading.why else ""
            return Failure(FailureKind.START_TIMEOUT, f"it was not ready within {kind.start_timeout:.0f} s{why}")
        return None

    async def _note(self, handle: Handle) -> None:
        """Keep what is shown and what must survive us: memory, descendants, the last line of the log."""
        edges = self._edges
        record = edges.state.backend(self.name)
        members = edges.launcher.members(handle)
        if members != record.descendants:
            edges.state.update_backend(self.name, descendants=members)
        self._memory = edges.launcher.usage(handle).memory_bytes
        if self.state is State.STARTING:
            lines = await edges.launcher.tail(self._log, 1, record.log_offset)
            progress = lines[-1] if lines else None
            if progress != self._progress:
                self._progress = progress
                edges.on_change()

    def _became_ready(self, reading: Reading) -> None:
        self._reading = reading
        self._replace = False
        self._transition(Event.READY)

    def _will_not_be_ready(self, failure: Failure) -> None:
        self.failure = failure
        self._transition(Event.START_FAILED, failure.sentence)

    def _not_started(self, failure: Failure) -> None:
        """Nothing was started: there is nothing to take down."""
        if failure.kind is not FailureKind.UNKILLABLE:
            self._edges.state.update_backend(self.name, identity=None, descendants=())
        self._settle(failure)

    # --- running

    async def _look_after(self) -> None:
        edges, handle = self._edges, self._handle
        if handle is None:
            return
        kind, failures, quiet = engine(self.plan.kind, self.name), 0, 0
        heard, next_probe = edges.activity(self.name), edges.clock.monotonic() + LIVENESS_SECONDS
        while True:
            await self._note(handle)
            await edges.clock.sleep(LOOK_SECONDS)
            if edges.clock.monotonic() < next_probe:
                continue
            why = await edges.prober.alive(kind, Address(LOOPBACK, self._port or 0).url, self._our_key())
            next_probe = edges.clock.monotonic() + LIVENESS_SECONDS
            heard, before = edges.activity(self.name), heard
            failures = failures + 1 if why else 0
            quiet = quiet + 1 if why and heard == before else 0
            self._judge(why, failures, lost=quiet >= LIVENESS_FAILURES)

    def _judge(self, why: str | None, failures: int, *, lost: bool) -> None:
        if why is None:
            self._post(self._recovered)
        elif lost:
            sentence = f"it failed {failures} liveness probes in a row ({why}) and sent nothing meanwhile"
            self._post(lambda: self._lost(Failure(FailureKind.UNRESPONSIVE, sentence)))
        else:
            self._post(lambda: self._fails(f"{why} ({failures} of {LIVENESS_FAILURES} liveness probes)"))

    def _recovered(self) -> None:
        if self.state is State.DEGRADED:
            self._transition(Event.READY)

    def _fails(self, why: str) -> None:
        if not self._transition(Event.FAILING, why):
            self.why = why

    def _lost(self, failure: Failure) -> None:
        self.failure = failure
        self._transition(Event.LOST, failure.sentence)

    # --- the process

    def _hold(self, handle: Handle) -> None:
        self._handle, self._exit = handle, None
        if self._tasks is None:
            raise RuntimeError(f"the backend {self.name} is not running")
        self._watcher = self._tasks.create_task(self._watch(handle), name=f"{self.name}: watch")

    async def _watch(self, handle: Handle) -> None:
        ended = await handle.wait()
        self._inbox.put_nowait(lambda: self._on_exit(handle, ended))

    def _on_exit(self, handle: Handle, ended: Exit) -> None:
        if self._handle is handle:
            self._exit = ended
            self._transition(Event.EXITED, f"its process {handle.identity.pid} {ended}")

    def _let_go(self, stopped: Stopped) -> None:
        """Nothing of it runs any more; or something does that can't be killed, and then it stays on record."""
        if self._watcher is not None:
            self._watcher.cancel()
        self._handle, self._watcher, self._memory = None, None, None
        self._reading = Reading()
        if not stopped.unkillable:
            self._edges.state.update_backend(self.name, identity=None, descendants=())

    def _running(self) -> list[asyncio.Task[None]]:
        return [*super()._running(), *([self._watcher] if self._watcher is not None else [])]

    # --- ending

    async def _take_down(self) -> None:
        edges, record = self._edges, self._edges.state.backend(self.name)
        if self._handle is not None:
            stopped = await edges.launcher.stop(self._handle, members=record.descendants)
        else:
            stopped = await edges.launcher.sweep(self.name, record.descendants)
        failure = self.failure
        if failure is not None or self._exit is not None:
            lines = await edges.launcher.tail(self._log, LOG_LINES, record.log_offset)
            failure = self._explain(failure, lines)
        self._post(lambda: self._ended(stopped, failure))

    def _explain(self, failure: Failure | None, lines: list[str]) -> Failure:
        if failure is not None:
            return Failure(failure.kind, failure.sentence, failure.lines or tuple(lines[-20:]))
        signs = engine(self.plan.kind, self.name).signs if self._ready_at is None else ()
        return classify(signs, lines, str(self._exit))

    def _ended(self, stopped: Stopped, failure: Failure | None) -> None:
        if stopped.swept:
            log.warning("%s: %d processes that its leader had left behind were killed", self.name, stopped.swept)
        self._let_go(stopped)
        if stopped.unkillable:
            failure = Failure(FailureKind.UNKILLABLE, _unkillable(stopped))
            self.failure, self._ready_at = failure, None
            self._transition(Event.GIVE_UP, failure.sentence)
        else:
            self._settle(failure)

    def _settle(self, failure: Failure | None) -> None:
        """Decide what follows, now that nothing of it runs (rules A4 to A6, A24, A26)."""
        now, limits = self._edges.clock.monotonic(), self._limits
        ready_for = now - self._ready_at if self._ready_at is not None else None
        self._ready_at = None
        if not self.wanted or self._again:
            failure = None
        loop = None
        if failure is not None:
            self._history = self._history.after_failure(now, ready_for, limits)
            loop = self._history.crash_loop(limits) if not failure.permanent else None
        event = after_end(
            wanted=self.wanted,
            again=self._again,
            failed=failure is not None,
            hopeless=failure is not None and (failure.permanent or loop is not None),
        )
        self._delay = backoff.with_jitter(self._history.next_delay, self._edges.random())
        self.failure, why = _verdict(failure, loop, limits, self._delay)
        self._transition(event, why)

    # --- waiting

    async def _wait_out(self) -> None:
        await self._edges.clock.sleep(self._delay)
        self._post(self._try_again)

    async def _wait_for_change(self) -> None:
        if self.failure is not None and self.failure.kind is FailureKind.CRASH_LOOP:
            await self._edges.clock.sleep(self._limits.retry_after)
            self._post(self._try_again)
            return
        before = self._fingerprint()
        while self.failure is not None and self.failure.kind is not FailureKind.UNKILLABLE:
            await self._edges.clock.sleep(RECHECK_SECONDS)
            if self._fingerprint() != before:
                self._post(self._try_again)
                return

    def _fingerprint(self) -> tuple[object, ...]:
        """Changes when a file that matters has come, gone or changed."""
        try:
            return self._command(engine(self.plan.kind, self.name), self._port or 0).fingerprint()
        except Unrunnable as error:
            return (error.failure.sentence,)

    def _try_again(self) -> None:
        restarts = self._edges.state.backend(self.name).restarts
        self._edges.state.update_backend(self.name, restarts=restarts + 1)
        self._transition(Event.RETRY)

    async def _clear_up(self) -> None:
        """After an internal error: end what runs; the operator may start it again."""
        record = self._edges.state.backend(self.name)
        if self._handle is not None:
            stopped = await self._edges.launcher.stop(self._handle, members=record.descendants)
        else:
            stopped = await self._edges.launcher.sweep(self.name, record.descendants)
        self._post(lambda: self._let_go(stopped))

    @property
    def _section(self) -> ProcessSection:
        if not isinstance(self.plan.section, ProcessSection):
            raise TypeError(f"the backend {self.name} is not a process of ours")
        return self.plan.section

    @property
    def _limits(self) -> Limits:
        said = self.plan.profile.restart
        return Limits(said.crash_exits, said.crash_window, said.failed_starts, said.retry_after)

    def _our_key(self) -> Secret:
        return self._key or Secret("")


def _verdict(
    failure: Failure | None, loop: str | None, limits: Limits, delay: float
) -> tuple[Failure | None, str | None]:
    """The failure as it is shown, and the sentence with what happens next."""
    if failure is None:
        return None, None
    if loop is not None:
        sentence = f"crash loop: {loop}; the last time {failure.sentence}"
        return Failure(FailureKind.CRASH_LOOP, sentence, failure.lines), _next(sentence, limits.retry_after)
    if failure.permanent:
        return failure, failure.sentence
    return failure, _next(failure.sentence, delay)


def _next(sentence: str, seconds: float) -> str:
    return f"{sentence}; trying again in {seconds:.1f} s"


def _unkillable(stopped: Stopped) -> str:
    pids = ", ".join(map(str, stopped.unkillable))
    return f"its processes {pids} survive SIGKILL: they hang inside the kernel (a driver or a disk); see dmesg"
