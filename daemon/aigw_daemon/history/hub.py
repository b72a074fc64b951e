"""Requests as they happen, for whoever watches.

Nobody watching costs nothing: the worker is told to send starts only while somebody does. A watcher that doesn't keep
up loses the oldest events, never slows the others.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable

from aigw_daemon.link.messages import RequestRecord, Started

KEPT_PER_WATCHER = 1_000

Event = Started | RequestRecord


class RecordHub:
    """Hands every event to every watcher. ``on_watched`` hears whether anybody watches, when that changes."""

    def __init__(self, on_watched: Callable[[bool], None]) -> None:
        self._on_watched = on_watched
        self._watchers: set[asyncio.Queue[Event]] = set()

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self._watchers)

    def publish(self, event: Event) -> None:
        """Hand on one event."""
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    async def watch(self) -> AsyncGenerator[Event, None]:
        """Every event from now on, until the caller stops."""
        queue: asyncio.Queue[Event] = asyncio.Queue(KEPT_PER_WATCHER)
        self._watchers.add(queue)
        if len(self._watchers) == 1:
            self._on_watched(True)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)
            if not self._watchers:
                self._on_watched(False)
