"""The daemon is killed fifty times, at any moment of a start, a stop, a switch or an adoption (fault 15)."""

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from aigw_daemon.control.client import ControlClient, ControlError
from aigw_daemon.control.schema import UpRequest
from tests.support.aigw import Aigw, llamacpp_section
from tests.support.living import Living
from tests.support.load import ask_once
from tests.support.stub_engine import install
from tests.support.wait import eventually

KILLS = 50
SEED = 15
LONGEST_COMMAND_SECONDS = 0.7
LONGEST_ADOPTION_SECONDS = 1.0
"""A daemon has its control socket after half a second on an idle machine; a kill may come before and after that."""
READY_SECONDS = 30.0
LEFT_SECONDS = 15.0
STUBS = ("plain", "family", "slow")
ENGINES = (*STUBS, "real")
EXPECTED = Counter({**dict.fromkeys(ENGINES, 1), "family": 2, "gateway": 1})
"""Processes, by backend: a leader each, and the child of the one that has a family."""

Command = Callable[[ControlClient], object]


def profile_text(aigw: Aigw, *, context: int) -> str:
    """Three engines of our own making, each with a fault, and a real one; ``context`` makes them other engines."""
    program = install(aigw.folder / "bin")
    model = program.with_name("model.gguf")
    model.write_bytes(b"GGUF")
    faults = {"plain": "", "family": "--child, session", "slow": '--load, "0.3"'}
    stubs = "".join(
        f"  {name}: {{engine: llamacpp, binary: {program}, model: {model}, served_name: {name}, context: {context}, "
        f"args: [{fault}]}}\n"
        for name, fault in faults.items()
    )
    head = f"version: 1\ngateway: {{port: {aigw.port}}}\nrestart: {{crash_exits: 1000, failed_starts: 1000}}\n"
    return f"{head}backends:\n{stubs}{llamacpp_section('binary', 'real', 'real')}"


@pytest.fixture
async def profiles(aigw: Aigw) -> list[Path]:
    return [aigw.write_profile(profile_text(aigw, context=size), f"of-{size}") for size in (256, 512)]


@pytest.fixture
async def living(aigw: Aigw, profiles: list[Path]) -> AsyncIterator[Living]:
    whole = Living(aigw)
    try:
        await asyncio.to_thread(whole.start)
        await asyncio.to_thread(whole.up, profiles[0])
        yield whole
    finally:
        await asyncio.to_thread(whole.end)


@pytest.mark.slow
@pytest.mark.timeout(400)
# httpcore leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
async def test_however_often_the_daemon_is_killed_one_leader_of_each_is_left_and_requests_are_answered(
    living: Living, profiles: list[Path], record_property: Callable[[str, object], None]
) -> None:
    choose = random.Random(SEED)
    print(f"seed {SEED}")  # noqa: T201  # shown with a failure, to come to the same moments again
    kills, longest = 0, 0.0
    while kills < KILLS:
        kills += await disturb(living, choose, profiles)
        began = time.monotonic()
        await asyncio.to_thread(take_up, living, choose.choice(profiles))
        longest = max(longest, time.monotonic() - began)
        await eventually(lambda: running(living) == EXPECTED, seconds=LEFT_SECONDS, what=f"{EXPECTED}")
        assert leaders(living) == set(ENGINES)
        for name in ENGINES:
            await answered(living, name)
    record_property("kills", kills)
    record_property("recover_s", round(longest, 2))


async def answered(living: Living, name: str) -> None:
    """A request for it is answered; the worker may hear of the new daemon a moment after everybody else."""
    async with asyncio.timeout(LEFT_SECONDS):
        while (await ask_once(living.aigw.port, ask(name)))[0] != 200:
            pass  # every question is an exchange with another process, so this doesn't spin


def ask(model: str) -> bytes:
    return f'{{"model":"{model}","max_tokens":2,"messages":[{{"role":"user","content":"hi"}}]}}'.encode()


async def disturb(living: Living, choose: random.Random, profiles: list[Path]) -> int:
    """Kill the daemon in the middle of a command, and some of its successors while they adopt; the number of kills."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(command, living, some_command(choose, profiles)))
        await asyncio.sleep(choose.uniform(0, LONGEST_COMMAND_SECONDS))
        kills = int(await asyncio.to_thread(living.kill) == -signal.SIGKILL)
    while choose.random() < 1 / 2:
        living.daemon = living.popen()
        await asyncio.sleep(choose.uniform(0, LONGEST_ADOPTION_SECONDS))
        kills += int(await asyncio.to_thread(living.kill) == -signal.SIGKILL)
    return kills


def some_command(choose: random.Random, profiles: list[Path]) -> Command:
    """What an operator does, to one engine or all; also nothing."""
    some: list[str] = choose.choice([[], [choose.choice(ENGINES)]])
    wanted = UpRequest(profile=str(choose.choice(profiles)))
    commands: list[Command] = [
        lambda control: control.start(some),
        lambda control: control.stop(some),
        lambda control: control.restart(some, now=True),
        lambda control: control.up(wanted),
        lambda control: list(control.down()),
        lambda control: control.status(),
    ]
    return choose.choice(commands)


def command(living: Living, asked: Command) -> None:
    """Carry it out; the daemon may die over it."""
    with contextlib.suppress(ControlError), living.control() as control:
        asked(control)


def take_up(living: Living, profile: Path) -> None:
    """The next daemon, and everything wanted again."""
    living.start()
    with living.control() as control:
        control.up(UpRequest(profile=str(profile)))
        control.start([])
    living.ready(READY_SECONDS)


def running(living: Living) -> Counter[str]:
    """How many processes of this home run, by the backend that they belong to."""
    found: Counter[str] = Counter()
    for process in living.aigw.processes():
        with contextlib.suppress(psutil.Error):
            found[process.environ()["AIGW_BACKEND"]] += 1
    return found


def leaders(living: Living) -> set[str]:
    """The backends whose process, as the daemon names it, is alive and their own."""
    of = {process.pid: process.environ()["AIGW_BACKEND"] for process in living.aigw.processes()}
    return {backend.name for backend in living.status().backends if of.get(backend.pid or 0) == backend.name}
