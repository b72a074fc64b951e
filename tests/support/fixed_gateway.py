"""An OpenAI-compatible endpoint that gives one fixed answer to every question.

`python -m tests.support.fixed_gateway NAME` runs it as a program of its own until it is killed; it prints its port.
NAME does nothing but show up in the process list, as a daemon's name does.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

ANSWER = (
    'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n'
    'data: {"choices":[{"delta":{"content":"It speaks"}}]}\n\n'
    'data: {"choices":[{"delta":{"content":" plainly."},"finish_reason":"stop"}]}\n\n'
    'data: {"choices":[],"usage":{"completion_tokens":2}}\n\n'
    "data: [DONE]\n\n"
)


def fixed_server(status: int, body: str) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the base class names it so)
            """Says nothing: the tests look at the answers."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextmanager
def fixed_gateway(status: int = 200, body: str = ANSWER) -> Iterator[str]:
    """The endpoint's base URL, while it serves."""
    with fixed_server(status, body) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    with fixed_server(200, ANSWER) as forever:
        sys.stdout.write(f"{forever.server_port}\n")
        sys.stdout.flush()
        forever.serve_forever()
