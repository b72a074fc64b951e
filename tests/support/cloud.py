"""A stand-in for a cloud: lists its models, answers every question, and keeps what it was asked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Cloud:
    """What it is, and what came."""

    models: list[str]
    url: str = ""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """The path below ``/v1/`` and the body of each question."""
    refuses: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Status and message for these models."""
    listing: tuple[int, Any] | None = None
    """Status and content of its list of models; None: as OpenAI does it."""


@contextmanager
def cloud_server(*models: str, port: int = 0) -> Iterator[Cloud]:
    """It, while it serves."""
    cloud = Cloud(list(models))
    with ThreadingHTTPServer(("127.0.0.1", port), _handler(cloud)) as server:
        cloud.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield cloud
        finally:
            server.shutdown()
            thread.join()


def _handler(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if cloud.listing is not None:
                self._answer(*cloud.listing)
                return
            listed = [{"id": model, "object": "model", "created": 1_700_000_000} for model in cloud.models]
            self._answer(200, {"object": "list", "data": listed})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            cloud.asked.append((self.path.removeprefix("/v1/"), body))
            if refused := cloud.refuses.get(body["model"]):
                self._answer(refused[0], {"error": {"message": refused[1], "code": "context_length_exceeded"}})
            elif self.path.endswith("embeddings"):
                self._answer(
                    200, {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "model": body["model"]}
                )
            else:
                message = {"role": "assistant", "content": "Hi."}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                self._answer(200, {"object": "chat.completion", "model": body["model"], "choices": [choice]})

        def _answer(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the base class names it so
            """Says nothing: the tests look at the answers."""

    return Handler
