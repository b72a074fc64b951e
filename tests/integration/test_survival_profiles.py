"""Changing what is served while it is served: another port, a taken one, a profile that is no good."""

import asyncio
import re
import socket
import sys

import pytest

from aigw_daemon.control.client import Refused
from aigw_daemon.control.codec import plain
from tests.support.aigw import free_port
from tests.support.fast_upstream import FastUpstream
from tests.support.living import Living, fast_profile, is_gone
from tests.support.load import CHAT, ask_once, streaming
from tests.support.wait import eventually


def use(living: Living, profile: str) -> None:
    with living.control() as control:
        control.use_profile(profile)


async def test_a_new_port_serves_the_old_one_closes_and_a_running_stream_finishes(
    living: Living, upstream: FastUpstream
) -> None:
    old, new, before = living.aigw.port, free_port(), living.worker
    moved = living.aigw.write_profile(fast_profile(new, upstream.port), name="moved")
    async with streaming(old) as stream:
        began = asyncio.get_running_loop().time()
        await asyncio.to_thread(use, living, str(moved))
        assert asyncio.get_running_loop().time() - began < 4, "a switch must not wait for a worker that is its own"
        await eventually(lambda: living.status().gateway.pid not in {None, before}, what="the new worker")
        await asyncio.to_thread(living.ready)
        assert (await ask_once(new, CHAT))[0] == 200
        assert (await stream.events())[-1] == b"[DONE]"
    await eventually(lambda: is_gone(before), seconds=15, what="the end of the old worker")
    with pytest.raises(ConnectionRefusedError):
        await ask_once(old, CHAT)
    assert living.status().gateway.url == f"http://127.0.0.1:{new}"


async def test_fewer_addresses_on_the_same_port_leave_no_gap(living: Living, upstream: FastUpstream) -> None:
    port, before = living.aigw.port, living.worker
    text = fast_profile(port, upstream.port).replace("{port:", "{host: 127.0.0.1, port:")
    await asyncio.to_thread(use, living, str(living.aigw.write_profile(text, name="narrow")))
    await eventually(lambda: living.status().gateway.pid not in {None, before}, what="the new worker")
    await eventually(lambda: is_gone(before), seconds=15, what="the end of the old worker")
    assert (await ask_once(port, CHAT))[0] == 200
    with pytest.raises(OSError, match="refused"), socket.create_connection(("::1", port)):
        pass


async def test_a_taken_port_is_refused_by_name_and_nothing_changes(living: Living, upstream: FastUpstream) -> None:
    taken = free_port()
    program = (
        "import socket,sys\n"
        f"held = socket.create_server(('127.0.0.1', {taken}))\n"
        "sys.stdout.write('up\\n'); sys.stdout.flush(); sys.stdin.read()"
    )
    stranger = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert stranger.stdin is not None
    assert stranger.stdout is not None
    await stranger.stdout.readline()
    before = living.status()
    profile = living.aigw.write_profile(fast_profile(taken, upstream.port), name="taken")
    with pytest.raises(Refused) as refused:
        await asyncio.to_thread(use, living, str(profile))
    assert refused.value.problem.code == "port_taken"
    assert f"port {taken} on 127.0.0.1 is taken by python" in refused.value.problem.message
    assert f"PID {stranger.pid}" in refused.value.problem.message
    proposed = re.fullmatch(r"stop it, .* to a free port, such as (\d+)", refused.value.problem.hint or "")
    assert proposed is not None
    assert int(proposed[1]) > taken
    stranger.stdin.close()
    await stranger.wait()
    assert unchanged(living.status()) == unchanged(before)
    assert (await ask_once(living.aigw.port, CHAT))[0] == 200


async def test_an_invalid_profile_changes_nothing(living: Living) -> None:
    before = living.status()
    broken = living.aigw.write_profile("version: 1\nbackends: {a: {engine: nothing}}\nroutes: 3\n", name="broken")
    with pytest.raises(Refused) as refused:
        await asyncio.to_thread(use, living, str(broken))
    assert refused.value.problem.code == "invalid_profile"
    assert unchanged(living.status()) == unchanged(before)
    assert (await ask_once(living.aigw.port, CHAT))[0] == 200


async def test_a_profile_that_broke_and_was_not_kept_either_leaves_the_worker_serving(living: Living) -> None:
    worker, profile = living.worker, living.aigw.folder / "test.yaml"
    good = profile.read_text()
    await asyncio.to_thread(living.kill)
    profile.write_text("version: 1\nbackends: 3\n")
    living.home.kept_profile.unlink()
    await asyncio.to_thread(living.start)
    await eventually(lambda: "cannot go on with profile" in living.aigw.log("aigwd"), what="the sentence in the log")
    assert (await ask_once(living.aigw.port, CHAT))[0] == 200
    assert "runs on without supervision" in living.status().daemon.warnings[0]
    profile.write_text(good)
    await asyncio.to_thread(living.up, profile)
    assert living.worker == worker


def unchanged(status: object) -> object:
    """What of a status may not change by itself."""
    content = plain(status)
    return content["profile"], content["gateway"], [(one["name"], one["state"]) for one in content["backends"]]
