"""A loopback HTTP server with the faults of real ones: it cuts, redirects, changes and lies, as it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class ModelServer:
    """What is served, and how badly. Change it between requests."""

    port: int = 0
    content: bytes = b""
    etag: str = '"one"'
    cut_after: int | None = None
    """Announce everything, send this many bytes, and close."""
    redirect: str | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event = field(default_factory=threading.Event)
    """Unset: send the first half, and wait."""
    halfway: threading.Event = field(default_factory=threading.Event)
    ranges: list[str | None] = field(default_factory=list)

    def url(self, path: str = "/model.gguf") -> str:
        """Where a path of it is."""
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def serving(content: bytes) -> Iterator[ModelServer]:
    """Serve on a free port until the block ends."""
    told = ModelServer(content=content)
    told.hold.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(told))
    server.daemon_threads = True
    told.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield told
    finally:
        told.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(told: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.ranges.append(self.headers.get("Range"))
            if told.redirect is not None and self.path == "/model.gguf":
                self.send_response(302)
                self.send_header("Location", told.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            # A client that has seen enough hangs up: that is part of these tests.
            with suppress(ConnectionError):
                self._send(*self._wanted())

        def _wanted(self) -> tuple[int, int]:
            wanted = self.headers.get("Range", "")
            if wanted == f"bytes={len(told.content)}-":
                return 416, len(told.content)
            if wanted and self.headers.get("If-Range") == told.etag:
                return 206, int(wanted.removeprefix("bytes=").rstrip("-"))
            return 200, 0

        def _send(self, status: int, start: int) -> None:
            total = len(told.content)
            self.send_response(told.status or status)
            self.send_header("ETag", told.etag)
            self.send_header("Content-Length", str(total - start))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()
            body = told.content[start : told.cut_after]
            self.wfile.write(body[: len(body) // 2])
            told.halfway.set()
            told.hold.wait()
            self.wfile.write(body[len(body) // 2 :])
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the overridden method's name for it
            """Keep quiet."""

    return Handler
