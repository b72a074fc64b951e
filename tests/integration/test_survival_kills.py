"""kill -9 of worker, daemon and engine at random moments, each under a running stream, with a real model."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.aigw import MODEL, Aigw
from tests.support.living import Living, kill
from tests.support.load import ask_once, streaming
from tests.support.wait import STEP_SECONDS, eventually

ROUNDS = 40
TIMES = 20
"""How often each of the three is killed, at the least."""
VICTIMS = ("worker", "daemon", "engine")
SEED = 9
LONGEST_PAUSE_SECONDS = 0.4
ASK = f'{{"model":"{MODEL}","max_tokens":2,"messages":[{{"role":"user","content":"hi"}}]}}'.encode()
LONG = (
    f'{{"model":"{MODEL}","stream":true,"max_tokens":1500,"messages":[{{"role":"user","content":"Count."}}]}}'.encode()
)


@pytest.fixture
async def living(aigw: Aigw) -> AsyncIterator[Living]:
    whole = Living(aigw)
    try:
        await asyncio.to_thread(whole.start)
        await asyncio.to_thread(whole.up, aigw.write_profile())
        yield whole
    finally:
        await asyncio.to_thread(whole.end)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_after_each_kill_one_of_each_is_left_and_the_next_request_is_answered(
    living: Living, record_property: Callable[[str, object], None]
) -> None:
    choose = random.Random(SEED)
    killed: Counter[str] = Counter()
    longest = 0.0
    for number in range(ROUNDS):
        victims = victims_of(number, choose)
        await asyncio.to_thread(forget_failures, living)
        async with streaming(living.aigw.port, LONG):
            for victim in victims:
                await asyncio.sleep(choose.uniform(0, LONGEST_PAUSE_SECONDS))
                await asyncio.to_thread(strike, living, victim)
        struck = time.monotonic()
        await answered(living)
        longest = max(longest, time.monotonic() - struck)
        await asyncio.to_thread(living.ready)
        await eventually(lambda: len(living.aigw.processes()) == 2, seconds=15, what="the end of all that was replaced")
        assert len(living.aigw.processes("llamacpp")) == 1
        assert living.workers() == [living.worker]
        killed.update(victims)
    assert min(killed[victim] for victim in VICTIMS) >= TIMES
    record_property("recover_s", round(longest, 2))


def victims_of(number: int, choose: random.Random) -> list[str]:
    """Who dies in a round: worker or engine, every other time after the daemon, under one stream with it; now and then
    all three in any order, so that one dies while another comes back.
    """
    if number % 10 == 9:
        return choose.sample(VICTIMS, 3)
    cut = VICTIMS[number // 2 % 2 * 2]
    return ["daemon", cut] if number % 2 else [cut]


def forget_failures(living: Living) -> None:
    """The operator's start: the next restart comes at once again, not after a grown delay."""
    with living.control() as control:
        control.start([])


def strike(living: Living, victim: str) -> None:
    """Kill it; a daemon is started again at once, as a service manager would."""
    if victim == "daemon":
        assert living.kill() == -signal.SIGKILL
        living.start()
        return
    name = "gateway" if victim == "worker" else "llamacpp"
    for process in living.aigw.processes(name):
        kill(process.pid)


async def answered(living: Living) -> None:
    """The next request: failed at once or answered, never left waiting, and answered as soon as all is back."""
    async with asyncio.timeout(30):
        while True:
            status, _ = await attempt(living.aigw.port)
            if status == 200:
                return
            await asyncio.sleep(STEP_SECONDS)  # the engine that loads wants the processors, too


async def attempt(port: int) -> tuple[int, bytes]:
    try:
        return await ask_once(port, ASK)
    except OSError as error:
        return 0, repr(error).encode()
