"""Tells the tasks of the gatekeeper that something has happened, so that each looks again."""

import asyncio
import contextlib


class News:
    """A pulse without content. A look and the `wait` after it lose nothing that comes in between."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Have everybody who waits look again."""
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until something happened, at most that long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
