"""A stand-in for the program ``ollama``: ``serve`` answers, spawns, dies and pulls as captures of the real one show.

Its runner is a child process in its own session, which writes words in place of a model. It pulls from a registry
over HTTP, as the real one does. `tests/contract/test_ollama.py` holds both to the same assertions. Two variables are
its own: OLLAMA_STANDIN_WORD_SECONDS (between two words) and OLLAMA_STANDIN_NO_RUNNER (a broken install).
"""

import hashlib
import itertools
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TRAINED = 8192
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "134.52M",
    "quantization_level": "Q4_1",
}
NO_RUNNER = "error starting llama-server: llama-server binary not found (checked: lib/ollama/llama-server)"
RUNNER_DIED = "an error was encountered while running the model: unexpected EOF"
REPORT_SECONDS = 0.06
DEFAULT_WORDS = 24
JSON_UTF8 = "application/json; charset=utf-8"


class Failed(Exception):
    """An answer that is an error: HTTP status, OpenAI's type, message."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


def full_name(name: str) -> str:
    name = name.removeprefix("http://").removeprefix("https://")
    return name if ":" in name.rpartition("/")[2] else name + ":latest"


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z"


# --- the runner


class Words(socketserver.StreamRequestHandler):
    """Writes as many words as it is asked for, one per line, and then ``end``."""

    def handle(self) -> None:
        pause = float(os.environ.get("OLLAMA_STANDIN_WORD_SECONDS", "0.005"))
        for number in range(int(self.rfile.readline())):
            self.wfile.write(f" word{number}\n".encode())
            time.sleep(pause)
        self.wfile.write(b"end\n")

    def finish(self) -> None:
        """The leader may have left in mid answer."""


class Quiet(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Whoever left is not told."""


def run_runner() -> None:
    with Quiet(("127.0.0.1", 0), Words) as server:
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever()


class Runner:
    """A loaded model."""

    def __init__(self, model: str, context: int) -> None:
        self.model = model
        self.context = context
        command = [sys.executable, "-S", __file__, "runner"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def words(self, count: int) -> Iterator[str]:
        """The answer, word by word. Raises Failed when the runner dies in the middle."""
        try:
            with socket.create_connection(("127.0.0.1", self.port)) as connection, connection.makefile("rw") as file:
                file.write(f"{count}\n")
                file.flush()
                for line in file:
                    if line == "end\n":
                        return
                    yield line.removesuffix("\n")
        except OSError as error:
            raise Failed(500, "api_error", RUNNER_DIED) from error
        raise Failed(500, "api_error", RUNNER_DIED)


# --- models


class Store:
    """The models folder and what of it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.blobs = folder / "blobs"
        self.index = folder / "manifests.json"
        self.runners: dict[str, Runner] = {}
        self.lock = threading.RLock()
        self.downloads: dict[str, threading.Lock] = {}
        self.blobs.mkdir(parents=True, exist_ok=True)

    def models(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.index.read_text()) if self.index.exists() else {}

    def change(self, name: str, entry: dict[str, Any] | None) -> None:
        with self.lock:
            models = {known: value for known, value in self.models().items() if known != name}
            self.index.write_text(json.dumps({name: entry, **models} if entry else models))

    def find(self, name: object, *, tagged: bool = False) -> tuple[str, dict[str, Any]]:
        whole = full_name(str(name))
        entry = self.models().get(whole)
        if entry is None:
            raise Failed(404, "not_found_error", f"model '{whole if tagged else name}' not found")
        return whole, entry

    def load(self, name: object) -> Runner:
        whole, _ = self.find(name)
        if os.environ.get("OLLAMA_STANDIN_NO_RUNNER"):
            raise Failed(500, "api_error", NO_RUNNER)
        with self.lock:
            runner = self.runners.get(whole)
            if runner is None or runner.process.poll() is not None:
                context = min(int(os.environ.get("OLLAMA_CONTEXT_LENGTH", "4096")), TRAINED)
                runner = self.runners[whole] = Runner(whole, context)
            return runner

    def unload(self, name: object) -> None:
        runner = self.runners.pop(full_name(str(name)), None)
        if runner is not None:
            runner.process.kill()
            runner.process.wait()

    def tags(self) -> dict[str, Any]:
        details = {**DETAILS, "context_length": TRAINED, "embedding_length": 576}
        return {
            "models": [
                {"name": name, "model": name, **entry, "details": details, "capabilities": ["completion"]}
                for name, entry in self.models().items()
            ]
        }

    def ps(self) -> dict[str, Any]:
        found = self.models()
        entries = [
            {
                "name": runner.model,
                "model": runner.model,
                "size": 210_690_374,
                "digest": found[runner.model]["digest"],
                "details": DETAILS,
                "expires_at": now(),
                "size_vram": 0,
                "context_length": runner.context,
            }
            for runner in self.runners.values()
        ]
        return {"models": entries}


# --- pulling


def pull(store: Store, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of a pull. A failure is a line, too."""
    yield {"status": "pulling manifest"}
    try:
        name = full_name(body["model"])
        host, namespace, rest = name.split("/") if name.count("/") == 2 else ("registry.invalid", "library", name)
        model, _, tag = rest.partition(":")
        base = f"{'http' if body.get('insecure') else 'https'}://{host}/v2/{namespace}/{model}"
        manifest = fetch_manifest(f"{base}/manifests/{tag}")
        layers = [*manifest["layers"], manifest["config"]]
        for layer in layers:
            # Two pulls share one download, also when the first is only just noticing that its client has left.
            with store.downloads.setdefault(layer["digest"], threading.Lock()):
                yield from pull_layer(store, base, layer["digest"], layer["size"])
        yield {"status": "verifying sha256 digest"}
        for layer in layers:
            verify(store, layer["digest"])
        yield {"status": "writing manifest"}
        digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
        size = sum(layer["size"] for layer in layers)
        store.change(name, {"modified_at": now(), "size": size, "digest": digest})
        yield {"status": "success"}
    except Failed as failure:
        yield {"error": str(failure)}


def fetch_manifest(url: str) -> Any:
    try:
        with urllib.request.urlopen(url) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        raise Failed(500, "api_error", "pull model manifest: file does not exist") from error
    except OSError as error:
        where = urlsplit(url).netloc
        text = f'pull model manifest: Get "{url}": dial tcp {where}: connect: connection refused'
        raise Failed(500, "api_error", text) from error


def pull_layer(store: Store, base: str, digest: str, total: int) -> Iterator[dict[str, Any]]:
    line = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": total}
    blob = store.blobs / digest.replace(":", "-")
    partial = blob.with_name(blob.name + "-partial")
    if not blob.exists():
        done = partial.stat().st_size if partial.exists() else 0
        yield {**line, "completed": done} if done else line
        request = urllib.request.Request(f"{base}/blobs/{digest}", headers={"Range": f"bytes={done}-"})
        said = time.monotonic()
        with urllib.request.urlopen(request) as answer, partial.open("ab") as file:
            while block := answer.read1(65536):
                file.write(block)
                file.flush()
                done += len(block)
                if time.monotonic() - said > REPORT_SECONDS:
                    said = time.monotonic()
                    yield {**line, "completed": done}
        partial.rename(blob)
    yield {**line, "completed": total}


def verify(store: Store, digest: str) -> None:
    blob = store.blobs / digest.replace(":", "-")
    with blob.open("rb") as file:
        found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if found != digest:
        blob.unlink()
        text = f"digest mismatch, file must be downloaded again: want {digest}, got {found}"
        raise Failed(500, "api_error", text)


# --- HTTP


class Handler(BaseHTTPRequestHandler):
    """Ollama's routes."""

    protocol_version = "HTTP/1.1"
    store: Store
    ending = False
    numbers = itertools.count(1)

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "/api/version": lambda: {"version": "0.0.0"},
            "/api/tags": self.store.tags,
            "/api/ps": self.store.ps,
            "/v1/models": self.list_models,
        }
        if self.path == "/":
            self.text(200, "Ollama is running")
        elif self.path in answers:
            self.answer(200, answers[self.path]())
        else:
            self.text(404, "404 page not found")

    def do_POST(self) -> None:
        routes = {
            "/api/show": self.show,
            "/api/generate": self.generate,
            "/api/pull": self.pull,
            "/v1/chat/completions": self.chat,
            "/v1/completions": self.complete,
            "/v1/embeddings": self.embed,
        }
        content = self.rfile.read(int(self.headers.get("content-length", "0")))
        if self.path not in routes:
            self.text(404, "404 page not found")
            return
        try:
            routes[self.path](json.loads(content or b"{}"))
        except (Failed, json.JSONDecodeError) as error:
            failure = error if isinstance(error, Failed) else Failed(400, "invalid_request_error", str(error))
            self.fail(failure)
        except OSError:
            self.close_connection = True

    def do_DELETE(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))) or b"{}")
        if self.path != "/api/delete":
            self.text(405, "405 method not allowed")
            return
        try:
            name, _ = self.store.find(body.get("model"))
        except Failed as failure:
            self.fail(failure)
            return
        self.store.unload(name)
        self.store.change(name, None)
        self.answer(200, {})

    def list_models(self) -> dict[str, Any]:
        data = [
            {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "library"}
            for name in self.store.models()
        ]
        return {"object": "list", "data": data}

    def show(self, body: dict[str, Any]) -> None:
        self.store.find(body.get("model"), tagged=True)
        self.answer(200, {"details": DETAILS, "model_info": {"llama.context_length": TRAINED}})

    def generate(self, body: dict[str, Any]) -> None:
        """Only what loads and unloads: a request without a prompt."""
        if body.get("keep_alive") == 0:
            self.store.find(body.get("model"))
            self.store.unload(body["model"])
            reason = "unload"
        else:
            self.store.load(body.get("model"))
            reason = "load"
        self.answer(200, {"model": body["model"], "response": "", "done": True, "done_reason": reason})

    def pull(self, body: dict[str, Any]) -> None:
        name = str(body.get("model", ""))
        if not name or " " in name:
            raise Failed(400, "invalid_request_error", "invalid model name")
        self.begin("application/x-ndjson")
        for line in pull(self.store, body):
            self.chunk(json.dumps(line) + "\n")
        self.chunk("")

    def embed(self, body: dict[str, Any]) -> None:
        self.store.find(body.get("model"))
        text = "This server does not support embeddings. Start it with `--embeddings`"
        raise Failed(501, "api_error", text)

    def chat(self, body: dict[str, Any]) -> None:
        if not body.get("messages"):
            raise Failed(400, "invalid_request_error", "[] is too short - 'messages'")
        self.complete_with(body, "chatcmpl", "chat.completion")

    def complete(self, body: dict[str, Any]) -> None:
        if not body.get("prompt"):
            self.store.load(body.get("model"))
            choice = {"text": "", "index": 0, "finish_reason": "load"}
            self.answer(200, {**self.head(body, "cmpl", "text_completion"), "choices": [choice]})
            return
        self.complete_with(body, "cmpl", "text_completion")

    def complete_with(self, body: dict[str, Any], prefix: str, kind: str) -> None:
        limit = body.get("max_tokens")
        count = min(int(limit), 4000) if limit else DEFAULT_WORDS
        finish = "length" if limit else "stop"
        words = self.store.load(body["model"]).words(count)
        usage = {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": 10 + count}
        if body.get("stream"):
            self.stream(body, words, self.head(body, prefix, kind), finish, usage)
            return
        text = "".join(words)
        said = {"message": {"role": "assistant", "content": text}} if prefix == "chatcmpl" else {"text": text}
        choices = [{"index": 0, **said, "finish_reason": finish}]
        self.answer(200, {**self.head(body, prefix, kind), "choices": choices, "usage": usage})

    def stream(
        self, body: dict[str, Any], words: Iterator[str], head: dict[str, Any], finish: str, usage: dict[str, int]
    ) -> None:
        chat = head["object"] == "chat.completion"
        head = {**head, "object": "chat.completion.chunk"} if chat else head

        def event(text: str | None, reason: str | None, model: str = body["model"]) -> None:
            piece = {"delta": {} if text is None else {"content": text}} if chat else {"text": text or ""}
            choices = [{"index": 0, **piece, "finish_reason": reason}]
            self.chunk(f"data: {json.dumps({**head, 'model': model, 'choices': choices})}\n\n")

        self.begin("text/event-stream")
        try:
            for word in words:
                event(word, None)
        except Failed:
            if self.ending:
                self.close_connection = True
                return
            # The trap: a dead runner ends the stream in order, without a finish_reason and without an error.
            event("", None, model="")
            self.chunk("")
            return
        event(None, finish)
        if (body.get("stream_options") or {}).get("include_usage"):
            self.chunk(f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n")
        self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def head(self, body: dict[str, Any], prefix: str, kind: str) -> dict[str, Any]:
        number = next(self.numbers)
        return {
            "id": f"{prefix}-{number}",
            "object": kind,
            "created": int(time.time()),
            "model": body["model"],
            "system_fingerprint": "fp_ollama",
        }

    # --- bytes

    def fail(self, failure: Failed) -> None:
        if self.path.startswith("/v1/"):
            error = {"message": str(failure), "type": failure.kind, "param": None, "code": None}
            self.answer(failure.status, {"error": error}, "application/json")
        else:
            self.answer(failure.status, {"error": str(failure)})

    def answer(self, status: int, content: object, kind: str = JSON_UTF8) -> None:
        self.send(status, kind, json.dumps(content).encode())

    def text(self, status: int, content: str) -> None:
        self.send(status, "text/plain", content.encode())

    def send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def chunk(self, content: str) -> None:
        """One chunk; an empty one ends the body."""
        data = content.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Say nothing."""


def serve() -> None:
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
    folder = Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models")
    try:
        server = ThreadingHTTPServer((host, int(port)), Handler)
    except OSError:
        sys.exit(f"Error: listen tcp {host}:{port}: bind: address already in use")
    Handler.store = Store(folder)

    def end(*_: object) -> None:
        # As captured: at once, running streams are cut, the runners are gone.
        Handler.ending = True
        for name in list(Handler.store.runners):
            Handler.store.unload(name)
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    sys.stderr.write(f"Listening on {host}:{port} (stand-in)\n")
    sys.stderr.flush()
    server.serve_forever()


def install(folder: Path) -> Path:
    """A program ``ollama`` in ``folder`` that runs this file."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "ollama"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{Path(__file__).resolve()}" "$@"\n')
    program.chmod(0o755)
    return program


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["runner"]:
            run_runner()
        case _:
            sys.exit("the stand-in knows 'serve' only")
