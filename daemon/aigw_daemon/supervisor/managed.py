"""A backend whose process aigw runs: brought up, looked after, taken down, tried again (rules A1 to A9, A24 to A26)."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from aigw_daemon.supervisor import bringup, hang, liveness, readiness
from aigw_daemon.supervisor.backend import Address, BackendReport, Edges, Past, Plan
from aigw_daemon.supervisor.backoff import History, Limits
from aigw_daemon.supervisor.bringup import Running, process_section
from aigw_daemon.supervisor.drain import drained
from aigw_daemon.supervisor.engines.base import LOOPBACK, Engine, Library
from aigw_daemon.supervisor.engines.registry import ENGINES
from aigw_daemon.supervisor.failures import Failure, FailureKind, Unrunnable
from aigw_daemon.supervisor.happenings import Happening
from aigw_daemon.supervisor.holding import ProcessBackend
from aigw_daemon.supervisor.launcher import LaunchError, Stopped
from aigw_daemon.supervisor.lifecycle import Event
from aigw_daemon.supervisor.liveness import Liveness
from aigw_daemon.supervisor.probe import Reading
from aigw_daemon.supervisor.progress import LOOKS, Progress
from aigw_daemon.supervisor.revision import revision
from aigw_daemon.supervisor.takedown import DEAF, End, end_process, explained, grace_of, unload
from aigw_daemon.supervisor.verdict import Ended, judge
from aigw_daemon.words import SERVING, State

LOOK_SECONDS: Final = 2.0
"""How often its memory and its descendants are noted."""
SLOW_STOP_SECONDS: Final = 2.0
"""After which a stop says what it waits for."""
RECHECK_SECONDS: Final = 5.0
"""How often a backend that failed for good looks whether a file has changed."""

log = logging.getLogger(__name__)


class ManagedBackend(ProcessBackend):
    """See the module. ``replace``: what an earlier daemon left running is of another profile and makes way."""

    def __init__(self, plan: Plan, edges: Edges, *, replace: bool = False) -> None:
        super().__init__(plan, edges)
        self._replace = replace
        self._past: Past | None = None
        self._again = False
        """A start or restart was asked for while it is being taken down."""
        self._parting: str | None = None
        """Why it is being stopped, or was, until a request wants it again."""
        self._hurried = False
        """It is to be taken down without letting its requests finish."""
        self._history = History()
        self._delay = 0.0
        self.ready_at: float | None = None
        """Monotonic seconds; None while nothing of it is ready."""
        self._revision = revision(plan, edges)
        """Of what a start would start."""
        self.start_took = 0.0
        """Seconds from its turn in its group to ready."""
        self._began = 0.0

    def report(self) -> BackendReport:
        """See Backend."""
        section, process, record = process_section(self.plan), self._process, self._edges.state.backend(self.name)
        port = process.port if process is not None else section.port or record.port
        outline = self._outline(self._reading, self.ready_at)
        return replace(
            outline,
            address=Address(LOOPBACK, port) if port else None,
            api_key=process.key if process is not None else None,
            pid=process.handle.identity.pid if process is not None else None,
            gpus=self._gpus(),
            memory_bytes=self._memory,
            max_concurrency=section.max_concurrency or self._reading.concurrency,
            restarts=record.restarts,
            progress=self._progress if self.state is State.STARTING else None,
            log_tail=self.failure.lines if self.failure is not None else (),
            telling=self.failure.told if self.failure is not None else None,
            past=self._past,
            stale=process is not None and process.stale,
            # What runs was read when it was started: a file that was replaced since counts from the next start on.
            revision=record.revision if process is not None else self._revision,
            leaving=self._parting is not None,
            warnings=bringup.warnings(self.plan, self._edges),
        )

    async def look_at_model(self) -> None:
        """Find out whether a start would start another model by now; a disk that hangs holds up nothing else."""
        found = await asyncio.to_thread(revision, self.plan, self._edges)
        if found != self._revision:
            self._revision = found
            self._edges.on_change()

    # --- requests

    def _on_start(self, *, by_operator: bool) -> None:
        if by_operator:
            self._history = History()
        self._want(by_operator=by_operator)
        # While it is being stopped, a start queues behind the stop (rule A24).
        self._again = self._again or self.state in {State.DRAINING, State.STOPPING}
        # A request that wants it must not get round the wait after a failure (rule A4).
        if by_operator or self.state not in {State.BACKOFF, State.FAILED}:
            self._transition(Event.START)

    def leave(self, event: Event, why: str) -> None:
        """Drain and stop if it serves, to be started again by a request. ``event``: idle or evicted. Doesn't wait."""
        self._inbox.put_nowait(lambda: self._on_leave(event, why))

    def _on_leave(self, event: Event, why: str) -> None:
        if self.state in SERVING:
            self._part(event, why)

    def _part(self, event: Event, why: str) -> None:
        """Nobody wants it until a request does."""
        self.wanted, self._again, self._parting = False, False, why
        self._edges.state.update_backend(self.name, wanted=False)
        self._transition(event, why)

    def _on_stop(self, *, hold: bool, now: bool) -> None:
        self.wanted = self._again = False
        self._parting = None
        self._hurried = self._hurried or now
        changes = {"stopped_by_operator": True} if hold else {}
        self._edges.state.update_backend(self.name, wanted=False, **changes)
        if not self._transition(Event.STOP):
            # A request would have started it; held by the operator, it is stopped for another reason now.
            self.why = None if self.state is State.STOPPED else self.why
            self._edges.on_change()

    def _on_restart(self, *, now: bool) -> None:
        self._hurried = self._hurried or now
        # By the operator's word begins a new life: what went wrong before is no news any more.
        self._history, self._past = History(), None
        self._want(by_operator=True)
        # In a state without a process, the start itself is the restart.
        self._again = self.state in {State.STARTING, State.DRAINING, State.STOPPING} | SERVING
        self._transition(Event.RESTART)

    def _want(self, *, by_operator: bool) -> None:
        self.wanted = True
        changes = {"stopped_by_operator": False} if by_operator else {}
        self._edges.state.update_backend(self.name, wanted=True, **changes)

    # --- states

    def _entered(self, before: State) -> None:
        match self.state:
            case State.STARTING:
                self.failure, self._progress, self._again, self._hurried = None, None, False, False
                self._parting = None
                self._begin(self._bring_up)
            case State.READY | State.DEGRADED if before not in SERVING:
                self.ready_at = self._edges.clock.monotonic()
                self._begin(self._look_after)
            case State.DRAINING:
                self._occupy_gpus()
                self._begin(self._drain)
            case State.STOPPING:
                self._occupy_gpus()
                self._begin(self._take_down)
            case State.BACKOFF:
                self._begin(self._wait_out)
            case State.FAILED:
                self._begin(self._wait_for_change)
            case State.STOPPED:
                self._end_effect()

    def _on_bug(self) -> None:
        self._occupy_gpus()
        self._begin(self._clear_up)

    # --- starting

    async def _bring_up(self) -> None:
        edges, section = self._edges, process_section(self.plan)
        await edges.groups.take(self.name, section.group, self._say)
        self._began = edges.clock.monotonic()
        try:
            kind = ENGINES[self.plan.kind]
            process = self._process or await bringup.take_up(self.plan, self._edges, kind, replace=self._replace)
            self._hold(process or await self._launch(kind))
        except Unrunnable as error:
            self._post(partial(self._not_started, error.failure))
        except (LaunchError, OSError) as error:
            self._post(partial(self._not_started, bringup.failure_of(error)))
        else:
            await self._await_ready(kind)

    async def _launch(self, kind: Engine) -> Running:
        wanted = process_section(self.plan).gpus
        placement = await self._edges.gpus.take(self.name, wanted, self._say)
        return await bringup.launch(self.plan, self._edges, kind, placement)

    async def _await_ready(self, kind: Engine) -> None:
        if (process := self._process) is None:
            return
        found = await readiness.until_ready(self.plan, self._edges, kind, process, self._note)
        if isinstance(found, Failure):
            self._post(partial(self._fail, Event.START_FAILED, found))
        else:
            self._post(partial(self._became_ready, found))

    def _became_ready(self, reading: Reading) -> None:
        self._reading, self._replace = reading, False
        self._listed_models.note(reading.models, self._revision)
        self.start_took = self._edges.clock.monotonic() - self._began
        self._edges.gpus.release(self.name)
        self._transition(Event.READY)

    def _fail(self, event: Event, failure: Failure) -> None:
        """It runs, and must be taken down for this."""
        self.failure = failure
        self._transition(event, failure.sentence)

    def _not_started(self, failure: Failure) -> None:
        """Nothing was started: there is nothing to take down."""
        self._edges.gpus.release(self.name)
        if failure.kind is not FailureKind.UNKILLABLE:
            self._edges.groups.release(self.name)
            self._forget_process()
        self._settle(failure)

    # --- running

    async def _look_after(self) -> None:
        edges, kind = self._edges, ENGINES[self.plan.kind]
        row, followed = Liveness(heard=edges.traffic(self.name).relayed), Progress(self.name, edges, kind)
        next_probe, used = edges.clock.monotonic() + liveness.INTERVAL, edges.traffic(self.name)
        while (process := self._process) is not None:
            await self._note()
            limit = process_section(self.plan).hang_timeout
            if limit is not None and await followed.quiet(process, limit) >= limit:
                self._post(partial(self._hangs, limit))
                return
            await edges.clock.sleep(LOOK_SECONDS if limit is None else min(LOOK_SECONDS, limit / LOOKS))
            before, used = used, edges.traffic(self.name)
            # Where requests find nobody listening it is asked at every look: its children may have died under a leader
            # that lives, and they can't send anything any more (rule B8).
            if edges.clock.monotonic() < next_probe and not used.refused:
                if (used.in_flight, used.relayed) != (before.in_flight, before.relayed):
                    await self._look_what_is_loaded(kind, process)
                continue
            why = await edges.prober.alive(kind, self.plan.section, readiness.url(process), process.key)
            next_probe = edges.clock.monotonic() + liveness.INTERVAL
            event = row.take(why, edges.traffic(self.name).relayed)
            self._post(partial(self._judge, event, why, row.failures))
            if why is None and isinstance(kind, Library):
                self._post(await self._look_again())

    def _hangs(self, limit: float) -> None:
        sentence = hang.sentence(self._edges.traffic(self.name).in_flight, limit)
        self._fail(Event.HUNG, Failure(FailureKind.HUNG, sentence))

    def _judge(self, event: Event, why: str | None, failures: int) -> None:
        if event is Event.READY:
            if self.state is State.DEGRADED:
                self._transition(event)
        elif event is Event.LOST:
            sentence = f"it failed {failures} liveness probes in a row ({why}) and sent nothing meanwhile"
            # A third failure may be the first that is looked at: lost comes by way of degraded.
            self._transition(Event.FAILING, why)
            self._fail(event, Failure(FailureKind.UNRESPONSIVE, sentence))
        elif not self._transition(event, f"{why} ({failures} failed liveness probes)"):
            self.why = f"{why} ({failures} failed liveness probes)"

    async def _look_again(self) -> Callable[[], None]:
        if (process := self._process) is None:
            return lambda: None
        kind = ENGINES[self.plan.kind]
        return partial(self._read_again, process, await readiness.read(self.plan, self._edges, kind, process))

    async def _look_what_is_loaded(self, kind: Engine, process: Running) -> None:
        """A request loads a model, or keeps it: between two probes this is all that can have changed."""
        loaded = await self._edges.prober.loaded(kind, readiness.url(process), process.key)
        if loaded is not None and self._reading.up:
            self._post(partial(self._read_again, process, replace(self._reading, loaded=loaded)))

    def _read_again(self, process: Running, reading: Reading) -> None:
        """Take news of a running engine's models; whether it is well is for the liveness probe to say."""
        if process is self._process and self.state in SERVING and reading.up and reading != self._reading:
            self._reading = reading
            self._listed_models.note(reading.models, self._revision)
            self._edges.on_change()

    # --- ending

    async def _drain(self) -> None:
        edges = self._edges
        grace = process_section(self.plan).drain
        await drained(lambda: edges.traffic(self.name).in_flight, edges.clock, grace, lambda: self._hurried)
        self._post(self._drained)

    def _drained(self) -> None:
        self._transition(Event.DRAINED, self._parting)

    async def _take_down(self) -> None:
        end = End(self.failure, self._exit, self.ready_at is not None, self._oom_kills)
        if self._parting is not None and self._process is not None:
            await unload(self.plan, self._edges, self._process)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(self._say_what_is_waited_for(self._process))
            stopped = await end_process(
                self.plan, self._edges, self._process, self.failure, was_ready=self.ready_at is not None
            )
            waiting.cancel()
        self._post(partial(self._ended, stopped, await explained(self.plan, self._edges, end)))

    async def _say_what_is_waited_for(self, process: Running | None) -> None:
        if process is None:
            return
        await self._edges.clock.sleep(SLOW_STOP_SECONDS)
        waits = f"waiting for its process {process.handle.identity.pid} to end on SIGTERM; after "
        waits += f"{grace_of(self.failure):g} s it is killed"
        # Nothing else sets the reason while it stops.
        self.why = "; ".join(filter(None, (self.why, waits)))
        self._edges.on_change()

    def _ended(self, stopped: Stopped, failure: Failure | None) -> None:
        if stopped.swept:
            self._edges.tell(self.name, Happening.SWEEP, bringup.left_behind(stopped))
            log.warning("%s: killed %s", self.name, bringup.left_behind(stopped))
        self._let_go(stopped)
        if stopped.unkillable:
            self.ready_at = None
            self._fail(Event.GIVE_UP, bringup.unkillable(stopped))
        else:
            self._settle(failure, DEAF if stopped.killed and failure is None else None)

    def _settle(self, failure: Failure | None, told: str | None = None) -> None:
        """Go on from where nothing of it runs. ``told``: what there is to say of an end that was asked for."""
        if failure is not None:
            self._past = Past(failure, self._edges.clock.time())
        now = self._edges.clock.monotonic()
        ended = Ended(failure, self.wanted, self._again, now - self.ready_at if self.ready_at is not None else None)
        verdict = judge(ended, self._history, self._limits, now, self._edges.random())
        self.ready_at = None
        self._history, self._delay, self.failure = verdict.history, verdict.delay, verdict.failure
        reason = self._parting if verdict.event is Event.GONE else verdict.why
        self._transition(verdict.event, "; ".join(filter(None, (reason, told))) or None)

    async def _clear_up(self) -> None:
        """After an internal error: end what runs; the operator may start it again."""
        self._post(partial(self._let_go, await end_process(self.plan, self._edges, self._process, self.failure)))

    # --- waiting

    async def _wait_out(self) -> None:
        await self._edges.clock.sleep(self._delay)
        self._post(self._try_again)

    async def _wait_for_change(self) -> None:
        kind = self.failure.kind if self.failure is not None else FailureKind.INTERNAL
        if kind is FailureKind.CRASH_LOOP:
            await self._wait_out()
        elif kind not in {FailureKind.UNKILLABLE, FailureKind.INTERNAL}:
            before = await bringup.fingerprint(self.plan, self._edges)
            while await bringup.fingerprint(self.plan, self._edges) == before:
                await self._edges.clock.sleep(RECHECK_SECONDS)
            self._post(self._try_again)

    def _try_again(self) -> None:
        group = process_section(self.plan).group
        if not self._edges.groups.is_open(self.name, group):
            # A try that nobody asks for puts nobody out.
            self._part(Event.STOP, f"it failed, and its group {group} is taken now; a request starts it")
            return
        restarts = self._edges.state.backend(self.name).restarts
        self._edges.state.update_backend(self.name, restarts=restarts + 1)
        count = self._history.next_try(self._limits)
        last = self._past.failure.sentence if self._past is not None else "the last start failed"
        self._transition(Event.RETRY, f"{count}: {last}" if count is not None else None)

    @property
    def _limits(self) -> Limits:
        said = self.plan.profile.restart
        return Limits(said.crash_exits, said.crash_window, said.failed_starts, said.retry_after)
