"""Whose turn it is on a GPU: one start at a time, and none before the last engine has left the device (rule A14).

An engine measures the free memory when it starts; two that start together, or beside one that is still leaving, would
count the same bytes twice. A backend therefore holds its GPUs from before its start until it is ready, and again while
it is taken down.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Final

from aigw_daemon.supervisor.clock import Clock, SystemClock
from aigw_daemon.supervisor.gpu import ANYWHERE, Gpu, Inventory, NvmlInventory, Placement, Wanted, place

LEAVE_SECONDS: Final = 30.0
"""How long processes may take to leave a device after their end (rule A14)."""
LOOK_SECONDS: Final = 0.25

log = logging.getLogger(__name__)


class GpuTurns:
    """All GPUs of this machine, and which backends are starting or leaving on them."""

    def __init__(self, inventory: Inventory | None = None, clock: Clock | None = None) -> None:
        self._inventory = inventory or NvmlInventory()
        self._clock = clock or SystemClock()
        self._held: dict[str, frozenset[str]] = {}
        """By backend: the UUIDs of what it starts on, or leaves."""
        self._freed = asyncio.Event()

    async def look(self, wanted: Wanted) -> Placement:
        """What a start would get now, without waiting for it. Raises Unrunnable for a GPU that isn't there."""
        return ANYWHERE if wanted is None else place(wanted, await self._inventory.read())

    async def take(self, name: str, wanted: Wanted, on_wait: Callable[[str], None]) -> Placement:
        """Wait for the backend's turn, and hold its GPUs until `release`.

        ``on_wait`` hears a sentence when there is somebody to wait for. Raises Unrunnable for a GPU that isn't there.
        """
        if wanted is None:
            return ANYWHERE
        while True:
            freed = self._freed
            placement = place(wanted, await self._inventory.read(), self._busy(but=name))
            if not (before := self._before(name, placement.devices)):
                self.hold(name, (gpu.uuid for gpu in placement.devices))
                return placement
            indices = ", ".join(str(gpu.index) for gpu in placement.devices)
            on_wait(f"waiting for {' and '.join(before)} to be done on GPU {indices}")
            await freed.wait()

    def hold(self, name: str, uuids: Iterable[str]) -> None:
        """Let nobody start on these, nor on what is held already, until `release`; a stop never waits for its turn."""
        self._held[name] = self._held.get(name, frozenset()) | frozenset(uuids)

    def release(self, name: str) -> None:
        """The backend is ready, or gone from its GPUs."""
        if self._held.pop(name, None):
            self._freed.set()
            self._freed = asyncio.Event()

    async def left(self, pids: Collection[int]) -> bool:
        """Wait until none of these processes is on a GPU any more; False when `LEAVE_SECONDS` were not enough."""
        deadline = self._clock.monotonic() + LEAVE_SECONDS
        while pids and (there := _still_there(await self._inventory.read(), pids)):
            if self._clock.monotonic() > deadline:
                log.warning("after %.0f s the driver still counts the processes %s on a GPU", LEAVE_SECONDS, there)
                return False
            await self._clock.sleep(LOOK_SECONDS)
        return True

    def _busy(self, but: str) -> set[str]:
        return {uuid for name, uuids in self._held.items() if name != but for uuid in uuids}

    def _before(self, name: str, devices: Iterable[Gpu]) -> list[str]:
        wanted = {gpu.uuid for gpu in devices}
        return sorted(other for other, uuids in self._held.items() if other != name and wanted & uuids)


def _still_there(found: Iterable[Gpu] | None, pids: Collection[int]) -> list[int]:
    return sorted({pid for gpu in found or () for pid in gpu.pids & set(pids)})
