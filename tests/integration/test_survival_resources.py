"""What a daemon takes: on a full disk, when idle, and after many starts and stops."""

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.aigw import Aigw
from tests.support.fast_upstream import FastUpstream
from tests.support.living import Living, fast_profile, kill
from tests.support.load import CHAT, ask_once, streaming
from tests.support.stub_engine import install
from tests.support.wait import eventually

IDLE_BYTES = 120 * 1024 * 1024
CYCLES = 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of an aigw whose home is on a disk of 2 MiB of its own."""
    home = tmp_path / "home"
    home.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(home)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


@pytest.fixture
async def cramped(small_disk: Path, upstream: FastUpstream) -> AsyncIterator[Living]:
    """An aigw on that disk, ready."""
    aigw = Aigw(small_disk)
    living = Living(aigw)
    try:
        await asyncio.to_thread(living.start)
        await asyncio.to_thread(living.up, aigw.write_profile(fast_profile(aigw.port, upstream.port)))
        yield living
    finally:
        await asyncio.to_thread(living.end)
        await asyncio.to_thread(aigw.end)


async def test_on_a_full_disk_streams_daemon_and_even_a_new_daemon_live_on(cramped: Living) -> None:
    port, filler = cramped.aigw.port, cramped.aigw.folder / "home/filler"
    async with streaming(port) as stream:
        fill(filler)
        assert (await stream.events())[-1] == b"[DONE]"
    assert json.loads(cramped.home.state_file.read_bytes())["serving"] is True
    worker = cramped.worker
    kill(worker)
    await eventually(lambda: cramped.status().gateway.pid not in {None, worker}, what="another worker")
    await asyncio.to_thread(cramped.ready)
    assert (await ask_once(port, CHAT))[0] == 200
    (warning,) = cramped.status().daemon.warnings
    unwritten = f"cannot write {cramped.home.state_file}: No space left on device"
    assert warning == f"{unwritten}; a new daemon would not know what has changed since"
    await asyncio.to_thread(cramped.kill)
    await asyncio.to_thread(cramped.start)
    await asyncio.to_thread(cramped.ready)
    assert (await ask_once(port, CHAT))[0] == 200
    filler.unlink()
    with cramped.control() as control:
        control.stop(["fast"])
    await eventually(
        lambda: b'"stopped_by_operator": true' in cramped.home.state_file.read_bytes(), what="the state on the disk"
    )
    await eventually(lambda: not cramped.status().daemon.warnings, what="the end of the warning")


def fill(path: Path) -> None:
    """Take all room that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert shutil.disk_usage(path).free == 0


async def test_idle_daemon_and_worker_take_less_than_120_mb_together(living: Living) -> None:
    assert living.daemon is not None
    pids = [living.daemon.pid, living.worker]
    assert sum(psutil.Process(pid).memory_info().rss for pid in pids) < IDLE_BYTES


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_descriptors_are_as_before_and_no_zombie_is_left_after_many_starts_and_stops(aigw: Aigw) -> None:
    living = Living(aigw)
    binary = install(aigw.folder / "bin")
    model = aigw.folder / "model.gguf"
    model.write_bytes(b"GGUF")
    path = aigw.write_profile(f"""
version: 1
gateway: {{port: {aigw.port}}}
backends: {{stub: {{engine: llamacpp, runner: binary, binary: "{binary}", model: "{model}", served_name: stub}}}}
""")
    try:
        await asyncio.to_thread(living.start)
        await asyncio.to_thread(living.up, path)
        await asyncio.to_thread(cycle, living, 10)
        assert living.daemon is not None
        daemon = psutil.Process(living.daemon.pid)
        before = daemon.num_fds()
        await asyncio.to_thread(cycle, living, CYCLES)
        await asyncio.to_thread(living.ready)
        await eventually(lambda: daemon.num_fds() <= before, what="the descriptors of before")
        await eventually(
            lambda: not any(child.status() == psutil.STATUS_ZOMBIE for child in daemon.children()), what="no zombie"
        )
    finally:
        await asyncio.to_thread(living.end)


def cycle(living: Living, count: int) -> None:
    """Stop and start the stub engine so often."""
    with living.control() as control:
        for _ in range(count):
            control.stop(["stub"])
            control.start(["stub"])
    living.ready()
