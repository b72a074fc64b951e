"""Stopping what a dead daemon left running: `aigwd --stop-all`, which `aigw down` runs when no daemon answers."""

import asyncio
import logging

from aigw_daemon.identity import Identity
from aigw_daemon.state_file import Member, StateFile
from aigw_daemon.supervisor.process import Launcher, NotAdopted

log = logging.getLogger(__name__)


async def stop_leftovers(state: StateFile, launcher: Launcher) -> int:
    """Stop every process of this home: those that the state file names, then all that carry its cookie.

    Returns how many could not be stopped. The caller holds the lock of the home.
    """
    document = state.document
    known = [(record.identity, record.descendants) for record in document.backends.values()]
    async with asyncio.TaskGroup() as tasks:
        stops = [
            tasks.create_task(_stop(launcher, identity, members))
            for identity, members in [(document.gateway, ()), *known]
            if identity is not None
        ]
    left = sum(stop.result() for stop in stops)
    for name in await launcher.strays():
        left += len((await launcher.sweep(name)).unkillable)
    state.update(serving=False, gateway=None)
    await state.close()
    return left


async def _stop(launcher: Launcher, identity: Identity, members: tuple[Member, ...]) -> int:
    try:
        handle = await launcher.adopt(identity)
    except NotAdopted as error:
        log.info("%s", error)
        return 0
    return len((await launcher.stop(handle, members=members)).unkillable)
