"""Stopping what a dead daemon left running: `aigwd --stop-all`, which `aigw down` runs when no daemon answers."""

import asyncio
import logging
from dataclasses import dataclass, field

from aigw_daemon.gatekeeper.worker import NAME as GATEWAY
from aigw_daemon.identity import Identity
from aigw_daemon.state_file import Member, StateFile
from aigw_daemon.supervisor.launcher import Launcher, NotAdopted, Stopped

log = logging.getLogger(__name__)


@dataclass
class Leftovers:
    """What was found, by the names of backends (``gateway`` for the worker)."""

    stopped: list[str] = field(default_factory=list)
    unkillable: list[int] = field(default_factory=list)
    """PIDs that survive SIGKILL."""

    def __str__(self) -> str:
        """One sentence for the operator."""
        found = ", ".join(sorted(self.stopped))
        if self.unkillable:
            return (
                f"these processes survive SIGKILL: {', '.join(map(str, self.unkillable))}; stopped: {found or 'none'}"
            )
        return f"stopped what was left: {found}" if found else "nothing was left running"

    def note(self, name: str, outcome: Stopped) -> None:
        """Count one stop or sweep."""
        self.unkillable.extend(outcome.unkillable)
        if name not in self.stopped and not outcome.unkillable:
            self.stopped.append(name)


async def stop_leftovers(state: StateFile, launcher: Launcher) -> Leftovers:
    """Stop every process of this home: those that the state file names, then all that carry its cookie.

    The caller holds the lock of the home.
    """
    document, leftovers = state.document, Leftovers()
    # The gateway first, so that running requests can finish.
    if document.gateway is not None:
        await _stop(launcher, leftovers, GATEWAY, document.gateway, ())
    async with asyncio.TaskGroup() as tasks:
        for name, record in document.backends.items():
            if record.identity is not None:
                tasks.create_task(_stop(launcher, leftovers, name, record.identity, record.descendants))
    await kill_leftovers(state, launcher, leftovers)
    state.update(serving=False, gateway=None)
    await state.close()
    return leftovers


async def kill_leftovers(state: StateFile, launcher: Launcher, leftovers: Leftovers) -> None:
    """Kill every process that carries the cookie of this home and that ``launcher`` does not watch."""
    async with asyncio.TaskGroup() as tasks:
        for name in await launcher.strays():
            tasks.create_task(_kill(state, launcher, leftovers, name))


async def _kill(state: StateFile, launcher: Launcher, leftovers: Leftovers, name: str) -> None:
    leftovers.note(name, await launcher.sweep(name, state.backend(name).descendants))


async def _stop(
    launcher: Launcher, leftovers: Leftovers, name: str, identity: Identity, members: tuple[Member, ...]
) -> None:
    try:
        handle = await launcher.adopt(identity)
    except NotAdopted as error:
        log.info("%s: %s", name, error)
    else:
        leftovers.note(name, await launcher.stop(handle, members=members))
