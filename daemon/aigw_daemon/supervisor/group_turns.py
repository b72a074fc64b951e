"""Whose turn it is in an exclusive group: of the backends that name it, one runs at a time.

A backend holds its place from before its start until nothing of it runs and its GPU memory is back. Who comes
meanwhile waits, first come first served. That somebody waits is for others to see: nobody is stopped here.
"""

import asyncio
from collections.abc import Callable, Mapping


class GroupTurns:
    """All groups of the active profile."""

    def __init__(self) -> None:
        self._holders: dict[str, str] = {}
        """By group."""
        self._queues: dict[str, list[str]] = {}
        """By group: who waits, in the order of arrival."""
        self._moved = asyncio.Event()

    async def take(self, name: str, group: str | None, on_wait: Callable[[str], None]) -> None:
        """Wait for the backend's turn, and hold its place until `release`; at once without a group.

        ``on_wait`` hears a sentence when there is somebody to wait for. Cancelled, it holds nothing.
        """
        if group is None:
            return
        queue = self._queues.setdefault(group, [])
        queue.append(name)
        try:
            while (before := self._before(name, group)) is not None:
                moved = self._moved
                on_wait(f"waiting for {before} to make way: one of the group {group} runs at a time")
                await moved.wait()
            self._holders[group] = name
        finally:
            queue.remove(name)
            self._wake()

    def release(self, name: str) -> None:
        """Nothing of the backend runs."""
        for group in [group for group, holder in self._holders.items() if holder == name]:
            del self._holders[group]
            self._wake()

    def is_open(self, name: str, group: str | None) -> bool:
        """Whether the backend could start without putting anybody out."""
        if group is None:
            return True
        return self._holders.get(group, name) == name and not self._queues.get(group)

    @property
    def occupied(self) -> frozenset[str]:
        """The groups that somebody runs in, or waits for."""
        return frozenset(self._holders) | {group for group, queue in self._queues.items() if queue}

    @property
    def awaited(self) -> Mapping[str, str]:
        """By the name of who holds a place: who waits longest for it."""
        return {holder: queue[0] for group, holder in self._holders.items() if (queue := self._queues.get(group))}

    def _before(self, name: str, group: str) -> str | None:
        """Who goes first."""
        holder = self._holders.get(group)
        if holder is not None and holder != name:
            return holder
        first = self._queues[group][0]
        return first if first != name else None

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
