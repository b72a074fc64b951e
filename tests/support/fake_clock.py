"""Time that passes when a test says so."""

import asyncio
import heapq
import itertools


class FakeClock:
    """A `Clock` whose sleepers wake in order, each with everything that follows from it, before the next one does."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.stepped = 0.0
        """By how much somebody has set the wall clock, seconds."""
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now + self.stepped

    async def sleep(self, seconds: float) -> None:
        until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._numbers), until))
        await until

    async def advance(self, seconds: float) -> None:
        end = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():
                sleeper.set_result(None)
                await settle()
        self.now = end


async def settle() -> None:
    """Let everything happen that needs no time; with the fakes of `fake_engines`, nothing needs a thread either."""
    for _ in range(40):
        await asyncio.sleep(0)
