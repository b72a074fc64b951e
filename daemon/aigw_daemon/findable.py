"""Keeps the daemon findable: the file with its place is there, and its runtime folder can be used."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aigw_daemon import place
from aigw_daemon.home import Home, HomeError, private_folder
from aigw_daemon.sockets import LOOK_SECONDS

PATIENCE: Final = 3
"""Looks in a row at a runtime folder that can't be used before the daemon moves to another one."""

log = logging.getLogger(__name__)


async def keep_findable(home: Home, move: Callable[[], Awaitable[None]]) -> None:
    """Look every second; ends by cancellation. ``move``: restart the daemon, which then chooses another folder."""
    told: str | None = None
    unusable = 0
    while True:
        trouble = await write_place(home)
        if trouble is not None and trouble != told:
            log.warning("%s; commands find this daemon by its usual socket alone", trouble)
        told = trouble
        unusable = 0 if _usable(home) else unusable + 1
        if unusable >= PATIENCE and _has_another(home):
            log.warning("the folder %s can't be used any more: the sockets move to another one", home.runtime)
            await move()
        await asyncio.sleep(LOOK_SECONDS)


async def write_place(home: Home) -> str | None:
    """Write where this daemon is, unless it stands there; returns what went wrong."""
    try:
        await asyncio.to_thread(place.keep, home, place.here(home))
    except OSError as error:
        return f"cannot write {home.place_file}: {error.strerror}"
    return None


def _has_another(home: Home) -> bool:
    try:
        return home.prepare().runtime != home.runtime
    except HomeError:
        return False


def _usable(home: Home) -> bool:
    try:
        private_folder(home.runtime)
    except HomeError:
        return False
    return True
