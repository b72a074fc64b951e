"""Logs that nobody can stop: one that floods the disk, and one whose reader hangs (faults 10 and 11)."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor import logs
from aigw_daemon.supervisor.process import TEND_SECONDS
from aigw_daemon.words import State
from tests.support import stub_engine
from tests.support.aigw import Aigw, profile_text
from tests.support.load import streaming
from tests.support.supervision import fresh_home, profile, supervised
from tests.support.wait import eventually

MIB = 1024 * 1024
FLOOD = 1024 * MIB
CAP = 1 * MIB
ANSWER_SECONDS = 5.0
PIECES, PAUSE_SECONDS = 40, 0.05
CHATTER = 128 * 1024
"""Bytes in the log with each piece: far more in all than the sockets on the way to a stuck reader hold."""
LONGER = 1.25
"""By how much a stream may take longer while somebody reads the log and hangs."""
STREAM = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'

Note = Callable[[str, object], None]


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


async def test_flood_of_a_gigabyte_is_cut_back_and_does_not_hold_the_engine_up(
    home: Home, record_property: Note
) -> None:
    settings = stub_engine.settings(home.state / "bin", home.models)
    async with supervised(home, log_cap=CAP) as made:
        await made.supervisor.apply(profile(f'backends: {{a: {settings}, args: [--flood, "{FLOOD}"]}}}}'))
        report = await made.reaches("a", State.READY)
        assert report.address is not None
        path = made.supervisor.log_path("a")
        sizes, waits = [0], [0.0]
        async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_SECONDS) as client:
            while written(report.pid or 0) < FLOOD:
                began = time.monotonic()
                assert (await client.get(f"{report.address.url}/health")).status_code == 200
                waits.append(time.monotonic() - began)
                sizes.append(logs.size(path) + logs.size(logs.rotated(path)))
        await eventually(lambda: logs.size(path) <= CAP, seconds=2 * TEND_SECONDS + 1, what="the log within its cap")
        assert logs.size(logs.rotated(path)) <= CAP
        assert made.report("a").state is State.READY
    record_property("longest wait for an answer, s", round(max(waits), 2))
    record_property("most on the disk, MiB", max(sizes) // MIB)


@pytest.mark.parametrize("then", ["removed", "renamed", "replaced"])
async def test_flood_is_cut_back_when_its_log_loses_its_name(home: Home, then: str) -> None:
    settings = stub_engine.settings(home.state / "bin", home.models)
    async with supervised(home, log_cap=CAP) as made:
        await made.supervisor.apply(profile(f'backends: {{a: {settings}, args: [--flood, "{FLOOD // 8}"]}}}}'))
        report = await made.reaches("a", State.READY)
        pid, path = report.pid or 0, made.supervisor.log_path("a")
        path.unlink() if then == "removed" else path.rename(path.with_name("a.log-20260101"))
        if then == "replaced":
            path.touch()
        await eventually(lambda: made.report("a").warnings, what="the lost name in the status")
        await eventually(lambda: written(pid) >= FLOOD // 8, seconds=60, what="the flood")
        await eventually(
            lambda: Path(f"/proc/{pid}/fd/1").stat().st_size <= CAP,
            seconds=2 * TEND_SECONDS + 1,
            what="the log within its cap",
        )
        assert logs.size(logs.rotated(path)) <= CAP
        (warning,) = made.report("a").warnings
        assert warning.startswith(f"its log {path} was {'removed' if then == 'removed' else 'renamed to '}")
        assert "'aigw restart a' begins a new one" in warning
        await made.supervisor.restart(["a"])
        await made.reaches("a", State.READY)
        await eventually(lambda: made.report("a").warnings == (), what="the warning gone")


def written(pid: int) -> int:
    """How many bytes a process has written so far, to whatever it has open."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


async def test_stream_is_as_fast_while_a_reader_of_the_log_hangs(aigw: Aigw, record_property: Note) -> None:
    settings = stub_engine.settings(aigw.folder / "bin", aigw.folder)
    args = f'args: [--pieces, "{PIECES}", --pause, "{PAUSE_SECONDS}", --chatty, "{CHATTER}"]'
    text = profile_text(aigw.port, backends=f"  stub: {settings}, {args}}}\n", names=())
    await asyncio.to_thread(aigw.run, "up", "--profile", str(aigw.write_profile(text)))
    alone = await seconds_of_a_stream(aigw)
    with aigw.started("logs", "stub", "-f") as reader:
        await eventually(lambda: "xxx" in reader.text(), what="the log")
        os.kill(reader.process.pid, signal.SIGSTOP)
        watched = await seconds_of_a_stream(aigw)
        assert reader.process.poll() is None
    assert watched < LONGER * alone
    record_property("alone, s", round(alone, 2))
    record_property("with a stuck reader, s", round(watched, 2))


async def seconds_of_a_stream(aigw: Aigw) -> float:
    """How long the stub's answer takes from its first piece to its last."""
    began = time.monotonic()
    async with streaming(aigw.port, STREAM) as stream:
        assert len(await stream.events()) == PIECES + 1
    return time.monotonic() - began
