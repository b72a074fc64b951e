"""Tells whoever waits that something has changed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

BEAT_SECONDS = 1.0
"""Uptimes and counters move without an event: watchers hear at least this often."""
SETTLE_SECONDS = 0.05
"""Changes come in bursts; one answer covers those of this long."""


class Changes:
    """A pulse: everybody who waits wakes at the next `happened`."""

    def __init__(self) -> None:
        self._pulse = asyncio.Event()

    def happened(self) -> None:
        """Wake everybody who waits."""
        pulse, self._pulse = self._pulse, asyncio.Event()
        pulse.set()

    async def beats(self) -> AsyncGenerator[None, None]:
        """Once now, then after every change, and at least once a second."""
        while True:
            yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._pulse.wait()
                    await asyncio.sleep(SETTLE_SECONDS)
