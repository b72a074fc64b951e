"""What a daemon finds when it comes back: a worker that hangs or is dead, a torn state, a rival, stale sockets."""

import asyncio
import json
import signal
import socket
from pathlib import Path

import pytest

from aigw_daemon.home import Home
from tests.support.aigw import Aigw
from tests.support.living import Living, is_gone, kill
from tests.support.load import CHAT, ask_once, under_load
from tests.support.wait import eventually


async def test_daemon_and_worker_killed_are_both_replaced_on_the_same_port(living: Living) -> None:
    before = living.worker
    await asyncio.to_thread(living.kill)
    kill(before)
    await eventually(lambda: is_gone(before), what="the worker's end")
    await asyncio.to_thread(living.start)
    await asyncio.to_thread(living.ready)
    assert (await ask_once(living.aigw.port, CHAT))[0] == 200
    assert living.workers() == [living.worker]


async def test_a_worker_that_hangs_is_swept_and_the_port_bound_anew(living: Living) -> None:
    before = living.worker
    await asyncio.to_thread(living.kill)
    kill(before, signal.SIGSTOP)
    await asyncio.to_thread(living.start)
    await asyncio.to_thread(living.ready)
    assert is_gone(before)
    assert (await ask_once(living.aigw.port, CHAT))[0] == 200
    assert living.workers() == [living.worker]


async def test_a_worker_that_hangs_through_a_restart_is_replaced_behind_the_same_sockets(living: Living) -> None:
    before = living.worker
    kill(before, signal.SIGSTOP)
    await asyncio.to_thread(living.restart)
    async with under_load(living.aigw.port, connections=2) as load:
        await asyncio.to_thread(living.ready)
        await load.more(20)
    assert load.faults == []
    assert is_gone(before)
    assert living.workers() == [living.worker]


@pytest.mark.parametrize("content", [None, b"", b'{"version": 1, "insta'], ids=["missing", "empty", "torn"])
async def test_without_a_state_file_what_ran_is_found_by_its_cookie(living: Living, content: bytes | None) -> None:
    before = living.worker
    await asyncio.to_thread(living.kill)
    living.home.state_file.unlink()
    if content is not None:
        living.home.state_file.write_bytes(content)
    await asyncio.to_thread(living.start)
    await asyncio.to_thread(living.up, living.aigw.folder / "test.yaml")
    assert (await ask_once(living.aigw.port, CHAT))[0] == 200
    await eventually(lambda: living.workers() == [living.worker], what="one worker")
    assert is_gone(before) or living.worker == before
    kept = living.home.state_file.with_name("state.json.unreadable")
    assert kept.exists() == (content is not None)


async def test_a_state_file_of_a_newer_aigw_is_refused_with_a_sentence(living: Living) -> None:
    worker = living.worker
    await asyncio.to_thread(living.kill)
    content = json.loads(living.home.state_file.read_bytes())
    newer = json.dumps({**content, "version": 99}).encode()
    older = living.home.state_file.read_bytes()
    living.home.state_file.write_bytes(newer)
    refused = living.popen()
    _, said = await asyncio.to_thread(refused.communicate, timeout=20)
    assert refused.returncode == 1
    assert b"was written by a newer aigw (its version is 99, this one knows 1)" in said
    assert living.home.state_file.read_bytes() == newer
    assert (await ask_once(living.aigw.port, CHAT))[0] == 200
    living.home.state_file.write_bytes(older)
    await asyncio.to_thread(living.start)
    await asyncio.to_thread(living.ready)
    assert living.worker == worker


async def test_a_second_daemon_is_refused_and_disturbs_nothing(living: Living) -> None:
    assert living.daemon is not None
    second = living.popen()
    _, said = await asyncio.to_thread(second.communicate, timeout=20)
    assert second.returncode == 1
    assert said.decode().splitlines() == [
        f"aigwd: another aigwd (PID {living.daemon.pid}) is running",
        "  'aigw status' shows it; 'aigw down' stops it, with --force if it doesn't answer",
    ]
    assert living.status().daemon.pid == living.daemon.pid
    worker = living.worker
    kill(worker)
    await eventually(lambda: living.status().gateway.pid not in {worker, None}, what="another worker over the link")
    await asyncio.to_thread(living.ready)
    assert (await ask_once(living.aigw.port, CHAT))[0] == 200


async def test_one_of_many_daemons_at_once_wins(aigw: Aigw) -> None:
    living = Living(aigw)
    several = [living.popen() for _ in range(4)]
    try:
        await eventually(lambda: sum(one.poll() is None for one in several) == 1, seconds=20, what="one daemon")
        (winner,) = [one for one in several if one.poll() is None]
        await eventually(lambda: answers(living.home), what="the control socket", seconds=20)
        assert living.status().daemon.pid == winner.pid
        assert {one.returncode for one in several if one is not winner} == {1}
    finally:
        for one in several:
            one.terminate()
            one.communicate(timeout=20)


async def test_stale_sockets_are_replaced(aigw: Aigw) -> None:
    living = Living(aigw)
    living.home.prepare()
    for path in (living.home.control_socket, living.home.link_socket):
        leave_stale(path)
    living.daemon = living.popen()
    try:
        await eventually(lambda: answers(living.home), seconds=20, what="the daemon")
        assert living.status().daemon.pid == living.daemon.pid
    finally:
        assert living.kill(signal.SIGTERM) == 0


def leave_stale(path: Path) -> None:
    """A socket file that nobody listens on any more."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def answers(home: Home) -> bool:
    """Whether somebody accepts there."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(home.control_socket)) == 0
