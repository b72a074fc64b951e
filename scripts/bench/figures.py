"""What was measured of one proxy. Plain data, one entry per round."""

from dataclasses import dataclass, field
from statistics import median

CONNECTIONS = (1, 32, 256)
"""How many connections the requests come on."""
STREAMS = 100
IDLE_STREAMS = 1_000


def _none() -> list[float]:
    return []


@dataclass
class Figures:
    """One list per figure; empty where it was not measured or has no meaning."""

    requests_1: list[float] = field(default_factory=_none)
    """Requests per second on one connection; likewise below."""
    requests_32: list[float] = field(default_factory=_none)
    requests_256: list[float] = field(default_factory=_none)
    cpu_us_per_request: list[float] = field(default_factory=_none)
    """At 32 connections."""
    p50_ms: list[float] = field(default_factory=_none)
    """Latency on one connection, the upstream's own included."""
    p99_ms: list[float] = field(default_factory=_none)
    cpu_us_per_event: list[float] = field(default_factory=_none)
    started_mb: list[float] = field(default_factory=_none)
    """PSS of the process tree before any stream."""
    streaming_mb: list[float] = field(default_factory=_none)
    """PSS while the idle streams are open."""
    streaming_rss_mb: list[float] = field(default_factory=_none)
    lost_streams: int = 0
    """Of the busy ones: without their end."""
    lost_idle_streams: int = 0
    """Of the idle ones: without their first event."""
    failed: str = ""
    """Why it was left out, from then on."""

    def typical(self, name: str) -> float | None:
        """The median over the rounds, or None where there is none."""
        values: list[float] = getattr(self, name)
        return median(values) if values else None


Results = dict[str, Figures]
"""By the proxy's name, in the order of the report."""
