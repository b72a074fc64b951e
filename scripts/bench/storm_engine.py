"""The storm's engine: its answer can be told from the prompt alone, takes its time, and a child of it has to live.

``python storm_engine.py HOST PORT MODEL``. Like engines with worker processes it ends when its child does.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECES = 8
PIECE_SECONDS = 0.08
FIRST_SECONDS = 0.3


def pieces(prompt: str) -> list[str]:
    """The answer to a prompt, piece by piece."""
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    return [f"{number}:{digest[number * 6 : number * 6 + 6]} " for number in range(PIECES)]


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model = ""

    def do_GET(self) -> None:
        listed = {"object": "list", "data": [{"id": self.model, "object": "model", "created": 1}]}
        self._answer(listed if self.path.endswith("/models") else {"status": "ok"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = pieces(asked["messages"][-1]["content"])
        time.sleep(FIRST_SECONDS)
        if asked.get("stream"):
            self._stream(answer)
            return
        time.sleep(PIECES * PIECE_SECONDS)
        message = {"role": "assistant", "content": "".join(answer)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._answer({"id": "c", "object": "chat.completion", "created": 1, "model": self.model, "choices": [choice]})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Say nothing."""

    def _stream(self, answer: list[str]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in answer:
            self._event({"content": piece}, None)
            time.sleep(PIECE_SECONDS)
        self._event({}, "stop")
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, delta: dict[str, str], finish: str | None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": self.model, "choices": [choice]}
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until the child is gone."""
    host, port, _Handler.model = sys.argv[1:]
    # In a session of its own, as engines' workers sit: ending it with its leader is for aigw to do.
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1e6)"], start_new_session=True)
    threading.Thread(target=lambda: (child.wait(), os._exit(1)), daemon=True).start()
    _Server((host, int(port)), _Handler).serve_forever()


if __name__ == "__main__":
    main()
