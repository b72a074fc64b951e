"""What the proxies relay to: one upstream with a fixed answer, and one that streams, busily or hardly at all."""

import sys
from pathlib import Path

from scripts.bench.answers import ANSWER, MODELS
from scripts.bench.proxy import HERE, ProcessProxy, nginx_command


class FixedUpstream(ProcessProxy):
    """nginx that answers by itself: what the request benchmark relays to."""

    name = "fixed upstream"

    def command(self, upstream_port: int) -> list[str]:  # noqa: ARG002  the end of the chain has no upstream
        values = {"PORT": str(self.port), "ANSWER": ANSWER, "MODELS": MODELS}
        return nginx_command(self.folder, HERE / "upstream.conf", values)


class StreamUpstream(ProcessProxy):
    """What the stream benchmarks relay to: so many events per second in each stream."""

    name = "stream upstream"

    def __init__(self, folder: Path, core: int, events_per_second: float) -> None:
        super().__init__(folder, core)
        self._events_per_second = events_per_second

    def command(self, upstream_port: int) -> list[str]:  # noqa: ARG002  the end of the chain has no upstream
        options = ["--port", str(self.port), "--events-per-second", str(self._events_per_second)]
        return [sys.executable, "-m", "scripts.bench.stream_upstream", *options]
