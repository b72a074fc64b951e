"""A real redis-server for a test: started, killed, stopped and started again by its own PID."""

import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tests.support.certificates import sign_itself
from tests.support.wait import eventually_now

Kind = Literal["tcp", "unix", "tls"]
PROGRAMS = ("redis-server", "valkey-server")
READY = ("+PONG", "-NOAUTH Authentication required.")


class RedisServer:
    """One server with a folder of its own, by TCP on a free port or by a Unix socket. Nothing is kept on disk.

    With TLS it has a certificate for `localhost` that signs itself.
    """

    def __init__(self, folder: Path, kind: Kind, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._socket = folder / "redis.sock"
        self._kind = kind
        self._port = _free_port() if kind != "unix" else 0
        self._certificate = folder / "certificate.pem"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """How clients reach it."""
        match self._kind:
            case "tcp":
                return f"redis://127.0.0.1:{self._port}/0"
            case "tls":
                return f"rediss://localhost:{self._port}/0?ssl_ca_certs={self._certificate}"
            case "unix":
                return f"unix://{self._socket}?db=0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert self._process is None
        self._process = subprocess.Popen(
            [
                _program(),
                *self._where(),
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                str(self._folder),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
        )
        eventually_now(lambda: self.command("PING") in READY, what="a Redis that answers")

    def command(self, *words: str) -> str | None:
        """The first line of its reply; None if it can't be reached."""
        family = socket.AF_INET if self._port else socket.AF_UNIX
        with socket.socket(family) as plain:
            plain.settimeout(5)
            try:
                plain.connect(("127.0.0.1", self._port) if self._port else str(self._socket))
                with self._secured(plain) as client:
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

    def _where(self) -> list[str]:
        match self._kind:
            case "tcp":
                return ["--port", str(self._port), "--bind", "127.0.0.1"]
            case "unix":
                return ["--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "600"]
            case "tls":
                key = self._folder / "key.pem"
                sign_itself(self._certificate, key)
                files = ["--tls-cert-file", str(self._certificate), "--tls-key-file", str(key)]
                return ["--port", "0", "--tls-port", str(self._port), "--tls-auth-clients", "no", *files]

    def _secured(self, plain: socket.socket) -> socket.socket:
        if self._kind != "tls":
            return plain
        return ssl.create_default_context(cafile=self._certificate).wrap_socket(plain, server_hostname="localhost")

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextmanager
def redis_server(kind: Kind = "unix", *options: str) -> Iterator[RedisServer]:
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
