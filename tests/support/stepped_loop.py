"""An event loop whose time a test moves."""

import asyncio
from collections.abc import Callable
from selectors import DefaultSelector
from typing import TypeVar

T = TypeVar("T")

ROUNDS = 6
"""Of the loop, after which everything has happened that needs no time: the longest chain is being woken twice."""


class SteppedLoop(asyncio.SelectorEventLoop):
    """A loop whose timers ring when a test says that it is time."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(DefaultSelector())

    def time(self) -> float:
        return self.now

    def settle(self) -> None:
        """Have everything happen that needs no time."""
        self.run_until_complete(_rounds())

    def call(self, function: Callable[[], T]) -> T:
        """Call it inside the loop."""

        async def run() -> T:
            return function()

        return self.run_until_complete(run())

    def advance(self, seconds: float) -> None:
        """Let so much time pass, and everything happen that is due."""
        self.settle()
        self.now += seconds
        self.settle()


async def _rounds() -> None:
    for _ in range(ROUNDS):
        await asyncio.sleep(0)
