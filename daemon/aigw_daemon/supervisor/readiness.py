"""Waiting until a process of ours is ready, and reading what it serves (rules A1, A2, A16)."""

from collections.abc import Awaitable, Callable
from typing import Final

from aigw_daemon.supervisor import bringup
from aigw_daemon.supervisor.backend import Address, Edges, Plan
from aigw_daemon.supervisor.bringup import Running, process_section
from aigw_daemon.supervisor.engines.base import LOOPBACK, Engine
from aigw_daemon.supervisor.failures import Failure, FailureKind
from aigw_daemon.supervisor.patience import Patience
from aigw_daemon.supervisor.probe import Reading

FIRST_PROBE_SECONDS: Final = 0.05
PROBE_FACTOR: Final = 1.5
LAST_PROBE_SECONDS: Final = 1.0


async def until_ready(
    plan: Plan, edges: Edges, kind: Engine, process: Running, look: Callable[[], Awaitable[None]]
) -> Reading | Failure:
    """Probe it until it is up, and give what it serves; or why it will not be. ``look`` is called between probes."""
    clock, section = edges.clock, process_section(plan)
    now, pause = clock.monotonic(), FIRST_PROBE_SECONDS
    patience = Patience(section.start_timeout or kind.start_timeout, kind.stall_timeout, began=now, moved=now)
    while True:
        reading = await read(plan, edges, kind, process)
        if reading.up:
            return reading
        if (failure := _hopeless(reading, _given_up(plan, edges, process, patience))) is not None:
            return failure
        await look()
        await clock.sleep(pause)
        pause = min(pause * PROBE_FACTOR, LAST_PROBE_SECONDS)


async def read(plan: Plan, edges: Edges, kind: Engine, process: Running) -> Reading:
    """Ask it once. What answers on its port counts only when it is this process that listens there."""
    reading = await edges.prober.ready(kind, plan.section, url(process), process.key)
    if process.port and (reading.up or reading.wrong) and not edges.launcher.listens(process.handle, process.port):
        owner = edges.launcher.port_owner(process.port)
        return Reading(why=f"port {process.port} is answered by {owner or 'another process'}, not by our engine")
    return reading


def url(process: Running) -> str:
    """Where it answers."""
    return Address(LOOPBACK, process.port).url


def _given_up(plan: Plan, edges: Edges, process: Running, patience: Patience) -> str | None:
    size = edges.launcher.log_size(bringup.log_path(plan, edges))
    return patience.over(edges.clock.monotonic(), size, edges.launcher.usage(process.handle).cpu_seconds)


def _hopeless(reading: Reading, over: str | None) -> Failure | None:
    """Why it will not become ready, if that is sure (rule A2). ``over``: why it is waited for no longer."""
    if reading.wrong:
        return Failure(FailureKind.WRONG_MODEL, f"the engine is up, but {reading.wrong}: check served_name")
    if over is not None:
        why = f": {reading.why}" if reading.why else ""
        return Failure(FailureKind.START_TIMEOUT, f"{over}{why}")
    return None
