"""A registry of models over plain HTTP on the loopback, as Ollama pulls from: small, slow or wrong on demand."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODEL = "application/vnd.ollama.image.model"
BLOCK = 64 * 1024


class Registry:
    """What is offered, and what was asked for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, dict[str, Any]] = {}
        self.bytes_per_second: float | None = None
        """How fast the blobs are sent, each; None: as fast as it goes."""
        self.ranges: list[str] = []
        """The ranges that were asked for."""

    def name(self, model: str) -> str:
        """The whole name under which a model here is pulled and listed."""
        return f"127.0.0.1:{self.port}/library/{model}"

    def offer(self, model: str, *contents: bytes, wrong: bool = False) -> str:
        """Offer a model with these layers; ``wrong``: their bytes don't match their digests. Gives its whole name."""
        config = json.dumps({"model_format": "gguf", "model_family": "llama", "model_type": "1M"}).encode()
        layers = [self._layer(content, MODEL, wrong=wrong) for content in contents]
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": self._layer(config, "application/vnd.docker.container.image.v1+json"),
            "layers": layers,
        }
        name, _, tag = model.partition(":")
        self.manifests[f"/v2/library/{name}/manifests/{tag}"] = manifest
        return self.name(model)

    def offer_file(self, model: str, path: Path) -> str:
        """Offer a GGUF file as a model that can be run."""
        return self.offer(model, path.read_bytes())

    def _layer(self, content: bytes, kind: str, *, wrong: bool = False) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = bytes(len(content)) if wrong else content
        return {"mediaType": kind, "digest": digest, "size": len(content)}


@contextmanager
def serving() -> Iterator[Registry]:
    """A registry on a free port."""

    class Bound(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    Bound.registry = Registry(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Bound.registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def do_HEAD(self) -> None:
        self._begin(self._find())

    def do_GET(self) -> None:
        if "/blobs/" in self.path:
            self._redirect(f"http://localhost:{self.registry.port}/{self.path.rpartition('/')[2]}")
            return
        content = self._find()
        part = self._begin(content)
        if content is not None:
            self._send(memoryview(content)[part])

    def _redirect(self, url: str) -> None:
        """Bytes come from another host's name: a registry that sends them itself is one that Ollama can't use."""
        self.send_response(307)
        self.send_header("location", url)
        self.send_header("content-length", "0")
        self.end_headers()

    def _find(self) -> bytes | None:
        if self.path in self.registry.manifests:
            return json.dumps(self.registry.manifests[self.path]).encode()
        return self.registry.blobs.get(self.path.rpartition("/")[2])

    def _begin(self, content: bytes | None) -> slice:
        """Send status and headers; gives the part that follows."""
        size, wanted = len(content or b""), self.headers.get("range")
        first, last = 0, size - 1
        if content is not None and wanted is not None:
            self.registry.ranges.append(wanted)
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
            self.send_response(206)
            self.send_header("content-range", f"bytes {first}-{last}/{size}")
        else:
            self.send_response(404 if content is None else 200)
        self.send_header("content-length", str(last - first + 1))
        self.end_headers()
        return slice(first, last + 1)

    def _send(self, content: memoryview) -> None:
        speed = self.registry.bytes_per_second
        block = int(speed / 20) if speed else BLOCK
        try:
            for start in range(0, len(content), block):
                self.wfile.write(content[start : start + block])
                if speed:
                    time.sleep(1 / 20)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Say nothing."""
