"""Tells whoever waits that something has changed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

BEAT_SECONDS = 1.0
"""Uptimes and counters move without an event: those who look on hear at least this often."""
SETTLE_SECONDS = 0.05
"""Changes come in bursts; one answer covers those of this long."""


class Changes:
    """A pulse: everybody who waits wakes at the next `happened`."""

    def __init__(self) -> None:
        self._pulse = asyncio.Event()
        self._closed = False

    def happened(self) -> None:
        """Wake everybody who waits."""
        pulse, self._pulse = self._pulse, asyncio.Event()
        pulse.set()

    def close(self) -> None:
        """Nothing will change any more: everybody hears that once, and is let go."""
        self._closed = True
        self.happened()

    async def beats(self, at_least: float | None = BEAT_SECONDS) -> AsyncGenerator[None, None]:
        """Once now, then after every change, and once in ``at_least`` seconds; None: only after changes."""
        while True:
            # Taken before the caller goes to work: what changes meanwhile must not be missed.
            pulse, closed = self._pulse, self._closed
            yield
            if closed:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(at_least):
                    await pulse.wait()
                    await asyncio.sleep(SETTLE_SECONDS)
