"""Waiting for what can't be awaited: another process, a file, a log."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

STEP_SECONDS = 0.02

T = TypeVar("T")


async def eventually(check: Callable[[], T], *, seconds: float = 10.0, what: str = "the condition") -> T:
    """Ask until the answer is true and return it; fail with the last answer when the time is up."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s; last answer: {answer!r}")
        await asyncio.sleep(STEP_SECONDS)
    return answer


def eventually_now(check: Callable[[], T], *, seconds: float = 10.0, what: str = "the condition") -> T:
    """The same for a test without an event loop."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s; last answer: {answer!r}")
        time.sleep(STEP_SECONDS)
    return answer
