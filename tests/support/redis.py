"""A real redis-server for a test: started, killed, stopped and started again by its own PID."""

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tests.support.wait import eventually_now

PROGRAMS = ("redis-server", "valkey-server")
READY = ("+PONG", "-NOAUTH Authentication required.")


class RedisServer:
    """One server with a folder of its own, by TCP on a free port or by a Unix socket. Nothing is kept on disk."""

    def __init__(self, folder: Path, kind: Literal["tcp", "unix"], *options: str) -> None:
        self._folder = folder
        self._options = options
        self._socket = folder / "redis.sock"
        self._port = _free_port() if kind == "tcp" else 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """How clients reach it."""
        return f"redis://127.0.0.1:{self._port}/0" if self._port else f"unix://{self._socket}?db=0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert self._process is None
        where = ["--port", str(self._port), "--bind", "127.0.0.1"] if self._port else ["--port", "0"]
        path = [] if self._port else ["--unixsocket", str(self._socket), "--unixsocketperm", "600"]
        self._process = subprocess.Popen(
            [_program(), *where, *path, "--save", "", "--appendonly", "no", "--dir", str(self._folder), *self._options],
            stdout=subprocess.DEVNULL,
        )
        eventually_now(lambda: self.command("PING") in READY, what="a Redis that answers")

    def command(self, *words: str) -> str | None:
        """The first line of its reply; None if it can't be reached."""
        family, address = (
            (socket.AF_INET, ("127.0.0.1", self._port)) if self._port else (socket.AF_UNIX, str(self._socket))
        )
        with socket.socket(family) as client:
            client.settimeout(5)
            try:
                client.connect(address)
                client.sendall(" ".join(words).encode() + b"\r\n")
                return client.recv(4096).split(b"\r\n")[0].decode()
            except OSError:
                return None

    def pause(self) -> None:
        """From now on it takes connections and answers nothing (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextmanager
def redis_server(kind: Literal["tcp", "unix"] = "unix", *options: str) -> Iterator[RedisServer]:
    """A server that runs until the end of the block, in a folder short enough for a socket's path."""
    folder = Path(tempfile.mkdtemp(prefix="aigw-redis-"))
    server = RedisServer(folder, kind, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


def _program() -> str:
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    assert found is not None, f"these tests need {' or '.join(PROGRAMS)}"
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
