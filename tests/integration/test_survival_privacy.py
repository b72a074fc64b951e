"""Who may talk to the daemon, what strangers and impolite callers can do to it, and who may read what it keeps."""

import asyncio
import contextlib
import json
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from aigw_daemon.control import server
from aigw_daemon.link.messages import Tail, encode
from tests.support.fast_upstream import FastUpstream
from tests.support.living import Living
from tests.support.load import CHAT, ask_once
from tests.support.wait import eventually

NOBODY = 65534


async def test_folders_are_0700_and_files_and_sockets_0600(living: Living) -> None:
    await ask_once(living.aigw.port, CHAT)
    root = living.aigw.folder / "home"
    found = [root, living.home.runtime, *root.rglob("*"), *living.home.runtime.rglob("*")]
    modes = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in found if path != root}
    wrong = {path: oct(mode) for path, mode in modes.items() if mode != (0o700 if Path(path).is_dir() else 0o600)}
    assert wrong == {}
    assert {living.home.control_socket, living.home.link_socket} <= set(found)


async def test_a_caller_of_another_user_is_turned_away_before_it_is_read() -> None:
    async def hello(_: object) -> PlainTextResponse:
        return PlainTextResponse("hello")

    with somewhere_else() as path:
        async with server.serving(Starlette(routes=[Route("/", hello)]), path):
            path.chmod(0o666)
            path.parent.chmod(0o755)
            assert b"hello" in await asyncio.to_thread(call_as, os.getuid(), path)
            assert await asyncio.to_thread(call_as, NOBODY, path) == b""


@contextlib.contextmanager
def somewhere_else() -> Iterator[Path]:
    """A socket's path; once its modes are opened, only the daemon's own check is left."""
    with tempfile.TemporaryDirectory(prefix="aigw-") as folder:
        yield Path(folder) / "control.sock"


def call_as(uid: int, path: Path) -> bytes:
    """What a process of this user is answered."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _call(uid, path, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return answer


def _call(uid: int, path: Path, writing: int) -> None:
    try:
        os.setuid(uid)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(5)
            caller.connect(str(path))
            with contextlib.suppress(ConnectionError):
                caller.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                while piece := caller.recv(65536):
                    os.write(writing, piece)
        os._exit(0)
    except BaseException:  # noqa: BLE001  # a forked test process must never go on as a second test run
        os._exit(1)


def a_dead_length() -> bytes:
    return struct.pack(">I", 0xFFFFFFFF)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\x00", b"\x00\x00\x00\x10half", a_dead_length(), b"GET / HTTP/1.1\r\n\r\n" * 100, os.urandom(100_000)],
    ids=["nothing", "one byte", "half a hello", "a huge length", "HTTP", "noise"],
)
async def test_garbage_on_either_socket_harms_nobody(living: Living, garbage: bytes) -> None:
    before = descriptors(living)
    callers = []
    for path in (living.home.link_socket, living.home.control_socket) * 5:
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(str(path))
        with contextlib.suppress(ConnectionError):
            caller.sendall(garbage)
        callers.append(caller)
    assert living.status().gateway.pid == living.worker
    for caller in callers:
        caller.close()
    await eventually(lambda: descriptors(living) <= before, what="the descriptors of before")
    assert (await ask_once(living.aigw.port, CHAT))[0] == 200


async def test_a_half_sent_hello_with_descriptors_leaves_none_behind(living: Living) -> None:
    before = await descriptors_at_rest(living)
    with socket.socket(socket.AF_UNIX) as caller, socket.create_server(("127.0.0.1", 0)) as listener:
        caller.connect(str(living.home.link_socket))
        socket.send_fds(caller, [struct.pack(">I", 40) + b"half"], [listener.fileno()] * 3)
        await eventually(lambda: descriptors(living) >= before + 4, what="the descriptors' arrival")
        await eventually(lambda: descriptors(living) <= before, seconds=8, what="the end of the daemon's patience")


async def test_a_stranger_on_the_link_is_turned_away_with_its_descriptors(living: Living) -> None:
    before = await descriptors_at_rest(living)
    said = encode(Tail(on=True))
    with socket.socket(socket.AF_UNIX) as caller, socket.create_server(("127.0.0.1", 0)) as listener:
        caller.connect(str(living.home.link_socket))
        socket.send_fds(caller, [struct.pack(">I", len(said)) + said], [listener.fileno()])
        caller.settimeout(5)
        assert caller.recv(1) == b""
    await eventually(lambda: descriptors(living) <= before, what="the descriptors of before")


@pytest.mark.parametrize(
    "path", ["/v1/watch", "/v1/tail", "/v1/logs/gateway?follow=true", "/v1/logs/daemon?follow=true"]
)
async def test_a_watcher_that_leaves_takes_its_descriptors_and_tasks_along(
    living: Living, upstream: FastUpstream, path: str
) -> None:
    before = descriptors(living)
    for _ in range(10):
        reader, writer = await asyncio.open_unix_connection(str(living.home.control_socket))
        writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        assert b" 200 " in await reader.readline()
        writer.close()
    await eventually(lambda: descriptors(living) <= before, what="the descriptors of before")
    assert living.status().gateway.state == "ready"


async def test_a_pull_whose_caller_leaves_ends(living: Living, upstream: FastUpstream) -> None:
    before = descriptors(living)
    body = json.dumps({"model": f"http://127.0.0.1:{upstream.port}/x.gguf", "name": "x"}).encode()
    reader, writer = await asyncio.open_unix_connection(str(living.home.control_socket))
    head = f"POST /v1/pull HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    assert b" 200 " in await reader.readline()
    writer.close()
    await eventually(lambda: descriptors(living) <= before, what="the descriptors of before")


def descriptors(living: Living) -> int:
    """How many files and sockets the daemon has open."""
    assert living.daemon is not None
    return psutil.Process(living.daemon.pid).num_fds()


async def descriptors_at_rest(living: Living) -> int:
    """The same, once the test before has been cleaned up after: the number has to stay for a while."""
    seen = [0] * 5

    def rests() -> bool:
        seen.append(descriptors(living))
        return len(set(seen[-5:])) == 1

    await eventually(rests, what="a number of descriptors that stays")
    return seen[-1]
