"""A stand-in for the daemon's control API: a small HTTP server on a home's control socket, answering from a script.

The CLI's tests use it to show states that a real daemon can't be brought into on demand. What it stands for is held
to the real route table by tests/unit/cli/test_fake_daemon.py.
"""

import json
import os
import signal
import socketserver
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from aigw_daemon.control.codec import encoded, plain
from aigw_daemon.control.schema import Problem
from aigw_daemon.home import Home

PATHS = frozenset(
    {
        ("GET", "/v1/status"),
        ("GET", "/v1/watch"),
        ("GET", "/v1/health"),
        ("GET", "/v1/logs/{name}"),
        ("GET", "/v1/why/{name}"),
        ("GET", "/v1/tail"),
        ("GET", "/v1/events"),
        ("GET", "/v1/cache/stats"),
        ("GET", "/v1/cache/answers/{key}"),
        ("GET", "/v1/profiles"),
        ("GET", "/v1/names"),
        ("POST", "/v1/route"),
        ("POST", "/v1/up"),
        ("POST", "/v1/down"),
        ("POST", "/v1/backends/start"),
        ("POST", "/v1/backends/stop"),
        ("POST", "/v1/backends/restart"),
        ("POST", "/v1/daemon/restart"),
        ("POST", "/v1/cache/clear"),
        ("POST", "/v1/pull"),
        ("POST", "/v1/profile"),
    }
)
"""Every route of the control API, as the real one writes them."""


class LastWords:
    """In a stream: the daemon ends here; its socket is gone before the stream is."""


class ControlC:
    """In a stream: the operator presses Ctrl-C here."""


@dataclass(frozen=True)
class Asked:
    """One request that came: method, path, query, and body if there was one."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True)
class _Answer:
    status: int
    lines: tuple[Any, ...]
    streamed: bool


class FakeDaemon:
    """Answers each ``METHOD /path`` with what was scripted for it, in turn; the last one is given again and again."""

    def __init__(self, home: Home) -> None:
        self.asked: list[Asked] = []
        self._home = home
        self._script: dict[str, deque[_Answer]] = {}
        self._stop: threading.Event = threading.Event()

    def answers(self, request: str, body: Any) -> None:
        """Script one JSON answer for ``request``, such as ``GET /v1/status``."""
        self._add(request, _Answer(200, (body,), streamed=False))

    def streams(self, request: str, items: Iterable[Any]) -> None:
        """Script a stream of lines: models and dicts as JSON, strings as they are."""
        self._add(request, _Answer(200, tuple(items), streamed=True))

    def refuses(self, request: str, problem: Problem, status: int = 409) -> None:
        """Script a refusal."""
        self._add(request, _Answer(status, ({"error": plain(problem)},), streamed=False))

    def answer_to(self, asked: Asked) -> _Answer:
        """The next scripted answer."""
        self.asked.append(asked)
        script = self._script.get(f"{asked.method} {asked.path}")
        if script is None:
            problem = Problem(code="unscripted", message=f"nothing is scripted for {asked.method} {asked.path}")
            return _Answer(500, ({"error": plain(problem)},), streamed=False)
        return script.popleft() if len(script) > 1 else script[0]

    def vanish(self) -> None:
        """Be gone for whoever connects from now on."""
        self._home.control_socket.unlink(missing_ok=True)

    @contextmanager
    def running(self) -> Iterator["FakeDaemon"]:
        """Serve until the block ends."""
        self._home.prepare()
        self._home.control_socket.unlink(missing_ok=True)
        with _Server(os.fspath(self._home.control_socket), _Handler) as server:
            server.fake = self
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
                self.vanish()

    def _add(self, request: str, answer: _Answer) -> None:
        self._script.setdefault(request, deque()).append(answer)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    fake: FakeDaemon


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        fake = cast(_Server, self.server).fake
        length = int(self.headers.get("content-length") or 0)
        place = urlsplit(self.path)
        body = json.loads(self.rfile.read(length)) if length else None
        answer = fake.answer_to(Asked(self.command, place.path, dict(parse_qsl(place.query)), body))
        self.send_response(answer.status)
        self.send_header("content-type", "application/x-ndjson" if answer.streamed else "application/json")
        self.end_headers()
        for line in answer.lines:
            if isinstance(line, LastWords):
                fake.vanish()
            elif isinstance(line, ControlC):
                os.kill(os.getpid(), signal.SIGINT)
                # Until the client leaves; a stream that ends would be an answer.
                with suppress(OSError):
                    self.rfile.read(1)
                return
            else:
                self._send(line)

    def _send(self, line: Any) -> None:
        self.wfile.write((_text(line) + "\n").encode())
        self.wfile.flush()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
        """Say nothing: a test's output is the command's."""


def _text(line: Any) -> str:
    if isinstance(line, str):
        return line
    return encoded(line)
