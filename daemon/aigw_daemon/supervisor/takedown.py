"""Ending a backend's process with all that belongs to it, and saying why it had to end (rules A7, A8, A14)."""

import asyncio
import signal
from dataclasses import dataclass, replace
from typing import Final

from aigw_daemon.supervisor import bringup
from aigw_daemon.supervisor.backend import Edges, Plan
from aigw_daemon.supervisor.bringup import Running
from aigw_daemon.supervisor.engines.registry import ENGINES
from aigw_daemon.supervisor.failures import (
    FOREIGN_PROCESSOR,
    OOM_KILLED,
    Exit,
    Failure,
    FailureKind,
    classify,
    complaints,
    exited,
    without_frames,
)
from aigw_daemon.supervisor.launcher import STOP_GRACE, Stopped
from aigw_daemon.supervisor.readiness import url

LOG_LINES: Final = 200
"""How many lines the progress of a start is looked for in."""
EXPLAINING_LINES: Final = 2000
"""How many lines a failure is looked for in: several processes may each end in a long traceback."""
SHOWN_LINES: Final = 20
_SILENT: Final = frozenset({FailureKind.HUNG, FailureKind.UNRESPONSIVE})
DEAF: Final = "it did not end on SIGTERM and was killed (SIGKILL)"
"""What there is to say of one that was asked to end, and had to be killed (rule A7)."""


@dataclass(frozen=True)
class End:
    """How it came to its end. ``failure``: for which it is taken down, if for any; ``exit``: if it ended by itself."""

    failure: Failure | None
    exit: Exit | None
    was_ready: bool
    oom_kills: int
    """The kernel's count while it ran."""


async def end_process(
    plan: Plan, edges: Edges, process: Running | None, failure: Failure | None, *, was_ready: bool = True
) -> Stopped:
    """End what runs of it; returns when it has left its GPUs too. ``failure``: for which it has to end."""
    launcher, record = edges.launcher, edges.state.backend(plan.name)
    pids = bringup.recorded_pids(record)
    if process is None:
        stopped = await bringup.end_recorded(launcher, plan.name, record)
    else:
        pids |= {member.pid for member in launcher.members(process.handle)}
        stopped = await launcher.stop(
            process.handle, grace=grace_of(failure), members=record.descendants, insist=not was_ready
        )
    # Its end is not the end of its memory on a GPU: that is back when the driver has forgotten the process.
    await edges.gpus.left(pids)
    return stopped


def grace_of(failure: Failure | None) -> float:
    """Seconds between SIGTERM and SIGKILL. A hung one heeds no SIGTERM, and its requests wait for its end."""
    return 0.0 if failure is not None and failure.kind is FailureKind.HUNG else STOP_GRACE


async def unload(plan: Plan, edges: Edges, process: Running) -> None:
    """Have an engine with many models give up their memory while it can still say what it has."""
    await edges.prober.unload(ENGINES[plan.kind], url(process), process.key)


async def explained(plan: Plan, edges: Edges, end: End) -> Failure | None:
    """The failure with the log lines that show it; None when it was asked to end."""
    if end.failure is None and end.exit is None:
        return None
    path, offset = bringup.log_path(plan, edges), edges.state.backend(plan.name).log_offset
    lines = await edges.launcher.tail(path, EXPLAINING_LINES, offset)
    last = tuple(without_frames(lines)[-SHOWN_LINES:])
    if end.failure is not None:
        # One that fell silent wrote of its requests last, as if nothing were wrong: that explains nothing.
        shown = tuple(complaints(lines)[-SHOWN_LINES:]) if end.failure.kind in _SILENT else last
        return replace(end.failure, lines=end.failure.lines or shown)
    killed = end.exit is not None and end.exit.signal == signal.SIGKILL
    if killed and edges.launcher.oom_kills() > end.oom_kills:
        return Failure(FailureKind.OOM_KILLED, OOM_KILLED, last)
    if end.was_ready:
        # What was said on the way to ready says nothing about an end long after it.
        return exited(lines, str(end.exit), shown=SHOWN_LINES)
    if end.exit is not None and end.exit.signal == signal.SIGILL:
        return Failure(FailureKind.MISSING_BINARY, FOREIGN_PROCESSOR, last)
    memory, signs = edges.launcher.memory(), ENGINES[plan.kind].signs
    return await asyncio.to_thread(classify, signs, lines, str(end.exit), shown=SHOWN_LINES, memory=memory)
