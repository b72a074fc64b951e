"""A launcher and a prober without processes: they do what a test says, and complain when two leaders live at once."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from aigw_daemon.home import Home
from aigw_daemon.identity import Identity
from aigw_daemon.link.messages import ModelView, Secret
from aigw_daemon.models.resolve import ModelFile
from aigw_daemon.profile.backends import BackendSection
from aigw_daemon.profile.load import parse
from aigw_daemon.state_file import Member, StateFile
from aigw_daemon.supervisor.backend import Backend, Edges, Plan
from aigw_daemon.supervisor.engines.base import Counters, Engine, LoadedModel
from aigw_daemon.supervisor.failures import Exit
from aigw_daemon.supervisor.gpu_turns import GpuTurns
from aigw_daemon.supervisor.launcher import LogStart
from aigw_daemon.supervisor.logs import FileId
from aigw_daemon.supervisor.managed import ManagedBackend
from aigw_daemon.supervisor.ports import PortOwner
from aigw_daemon.supervisor.probe import Listing, Reading
from aigw_daemon.supervisor.process import Handle, LaunchError, NotAdopted, ProcessSpec, Stopped, Usage
from aigw_daemon.supervisor.traffic import Traffic
from tests.support.fake_clock import FakeClock, settle
from tests.support.recorded_gpus import RecordedGpus

_pids = itertools.count(100_000)


@dataclass
class FakeHandle:
    """A leader that lives until it is told otherwise."""

    name: str
    identity: Identity
    ended: asyncio.Future[Exit]
    log_start: LogStart | None = None

    async def wait(self) -> Exit:
        return await asyncio.shield(self.ended)

    @property
    def running(self) -> bool:
        return not self.ended.done()

    def end(self, ended: Exit) -> None:
        if self.running:
            self.ended.set_result(ended)


@dataclass
class FakeLauncher:
    """A `Launcher` of fake leaders."""

    clock: FakeClock
    leaders: list[FakeHandle] = field(default_factory=list)
    refuse: LaunchError | None = None
    """What a spawn raises."""
    stop_seconds: float = 0.0
    unkillable: bool = False
    insisted: bool | None = None
    """Whether the last stop was to send SIGTERM again and again."""
    cpu_seconds: float = 1.0
    oom_killed: int = 0
    log: list[str] = field(default_factory=list)
    moved: str | None = None
    """What has become of the log's name."""
    most_at_once: int = 0

    def running(self) -> list[FakeHandle]:
        return [leader for leader in self.leaders if leader.running]

    async def spawn(self, spec: ProcessSpec) -> FakeHandle:
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise self.refuse
        pid = next(_pids)
        identity = Identity(pid, pid, "this boot", pid, "cookie", spec.argv)
        handle = FakeHandle(spec.name, identity, asyncio.get_running_loop().create_future())
        self.leaders.append(handle)
        self.most_at_once = max(self.most_at_once, len(self.running()))
        return handle

    async def adopt(
        self, identity: Identity, *, log_path: Path | None = None, log_file: FileId | None = None
    ) -> FakeHandle:
        for leader in self.running():
            if leader.identity == identity:
                return leader
        raise NotAdopted(f"process {identity.pid} is gone")

    def signal(self, handle: Handle, number: signal.Signals) -> None:
        raise AssertionError("the supervisor stops, it does not signal")

    async def stop(
        self, handle: Handle, *, grace: float = 15.0, members: Iterable[Member] = (), insist: bool = False
    ) -> Stopped:
        assert isinstance(handle, FakeHandle)
        self.insisted = insist
        if self.stop_seconds:
            await self.clock.sleep(self.stop_seconds)
        await asyncio.sleep(0)
        if self.unkillable:
            return Stopped(unkillable=(handle.identity.pid,))
        handle.end(Exit(signal=signal.SIGTERM))
        return Stopped(handle.ended.result())

    async def sweep(self, name: str, members: Iterable[Member] = ()) -> Stopped:
        await asyncio.sleep(0)
        left = [leader for leader in self.running() if leader.name == name]
        if self.unkillable and left:
            return Stopped(unkillable=tuple(leader.identity.pid for leader in left))
        for leader in left:
            leader.end(Exit(signal=signal.SIGKILL))
        return Stopped(swept=len(left))

    def members(self, handle: Handle) -> tuple[Member, ...]:
        return ()

    def usage(self, handle: Handle) -> Usage:
        return Usage(memory_bytes=1024, cpu_seconds=self.cpu_seconds)

    async def tail(self, path: Path, lines: int, since: int = 0) -> list[str]:
        return self.log[-lines:]

    def log_size(self, path: Path) -> int:
        return 0

    def log_reader(self, path: Path) -> int | None:
        return None

    def log_moved(self, path: Path) -> str | None:
        return self.moved

    def port_owner(self, port: int) -> PortOwner | None:
        return None

    def listens(self, handle: Handle, port: int) -> bool:
        return True

    def free_port(self, avoid: Collection[int] = ()) -> int:
        return 40_000

    def oom_kills(self) -> int:
        return self.oom_killed

    def memory(self) -> int:
        return 0

    async def strays(self) -> set[str]:
        return set()

    async def tend(self) -> None:
        await asyncio.Event().wait()


@dataclass
class FakeProber:
    """A `Prober` that answers what it is told to."""

    up: bool = True
    sick: str | None = None
    models: tuple[str, ...] = ("m",)
    why: str | None = None
    done: float | None = None
    """What the engine's counters say."""
    in_memory: tuple[LoadedModel, ...] | None = None

    async def ready(self, engine: Engine, section: BackendSection, base: str, key: Secret | None) -> Reading:
        await asyncio.sleep(0)
        if not self.up:
            return Reading(why="it is loading its model")
        return Reading(up=True, models=tuple(ModelView(id=name, created=0) for name in self.models), concurrency=4)

    async def alive(self, engine: Engine, section: BackendSection, base: str, key: Secret | None) -> str | None:
        await asyncio.sleep(0)
        return self.sick

    async def counter(self, counters: Counters, base: str, key: Secret | None) -> float | None:
        await asyncio.sleep(0)
        return self.done

    async def loaded(self, engine: Engine, base: str, key: Secret | None) -> tuple[LoadedModel, ...] | None:
        await asyncio.sleep(0)
        return self.in_memory

    async def unload(self, engine: Engine, base: str, key: Secret | None) -> None:
        await asyncio.sleep(0)
        self.in_memory = ()

    async def listing(self, base: str, key: Secret | None) -> Listing:
        await asyncio.sleep(0)
        return Listing(why=self.why) if self.why else Listing(tuple({"id": name} for name in self.models))


class FakeWorld:
    """Everything around one backend."""

    def __init__(self, home: Home, *, backend: str = "", top: str = "", settings: str = "") -> None:
        self.clock = FakeClock()
        self.launcher = FakeLauncher(self.clock)
        self.prober = FakeProber()
        self.gpus = RecordedGpus(None)
        self.traffic = Traffic()
        self.traffics: dict[str, Traffic] = {}
        """Of single backends; the others have ``traffic``."""
        self.gateway_speaks = True
        self.changes = 0
        self.state = StateFile(home, write=lambda _path, _content: None)
        self.program = home.state / "program"
        self.program.write_text("#!/bin/sh\n")
        self.program.chmod(0o755)
        self.model = home.models / "m.gguf"
        self.model.write_bytes(b"GGUF")
        text = (
            backend or f"{{engine: llamacpp, binary: {self.program}, model: {self.model}, served_name: m, {settings}}}"
        )
        profile = parse(f"version: 1\n{top}\nbackends: {{a: {text}}}", "test.yaml")
        self.plan = Plan("a", profile.backends["a"], profile)
        self.edges = Edges(
            home=home,
            state=self.state,
            launcher=self.launcher,
            prober=self.prober,
            clock=self.clock,
            traffic=self.watch,
            on_change=self.changed,
            gpus=GpuTurns(self.gpus, self.clock),
            environ={"PATH": "/usr/bin"},
            random=lambda: 0.5,
            resolve=lambda _profile, _backend, _home: ModelFile(self.model, 4),
        )

    def changed(self) -> None:
        self.changes += 1

    def watch(self, name: str) -> Traffic:
        told = self.traffics.get(name, self.traffic)
        return replace(told, told_at=self.clock.now if self.gateway_speaks else 0.0)

    def managed(self, name: str = "a", **settings: object) -> ManagedBackend:
        """The world's backend, or one like it; ``settings`` are fields of its section that differ."""
        section = self.plan.section.model_copy(update=settings)
        return ManagedBackend(replace(self.plan, name=name, section=section), self.edges)


@asynccontextmanager
async def running(world: FakeWorld, backend: Backend) -> AsyncIterator[None]:
    """A backend's task, until it is retired; the world's state file is whole then."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(backend.run())
        await settle()
        try:
            yield
        finally:
            backend.retire()
            await settle()
    await world.state.close()
