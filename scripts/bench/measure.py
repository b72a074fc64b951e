"""The three measurements: requests per second, latency of one request at a time, CPU time per streamed event."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from statistics import median

from scripts.bench.answers import EVENTS_PER_SECOND
from scripts.bench.machine import BenchError, cpu_seconds, pinned
from scripts.bench.proxies import HERE, Proxy

CONNECTIONS = 32
STREAMS = 64
_GRACE_SECONDS = 15
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass
class Figures:
    """What was measured of one proxy, one entry per round."""

    requests_per_second: list[float] = field(default_factory=list)
    cpu_us_per_request: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_us_per_event: list[float] = field(default_factory=list)
    lost_streams: int = 0
    failed: str = ""

    def typical(self, name: str) -> float | None:
        """The median over the rounds, or None where there is none."""
        values: list[float] = getattr(self, name)
        return median(values) if values else None


def requests(proxy: Proxy, core: int, seconds: int, figures: Figures) -> None:
    """One round of requests per second at 32 connections."""
    pids = proxy.pids()
    before = cpu_seconds(pids)
    report = _wrk(proxy, core, seconds, CONNECTIONS)
    spent = cpu_seconds(pids) - before
    figures.requests_per_second.append(_number(r"Requests/sec:\s+([\d.]+)", report))
    if pids:
        figures.cpu_us_per_request.append(spent * 1e6 / _number(r"(\d+) requests in", report))


def latency(proxy: Proxy, core: int, seconds: int, figures: Figures) -> None:
    """One round of one request at a time."""
    report = _wrk(proxy, core, seconds, 1)
    figures.p50_ms.append(_percentile(50, report))
    figures.p99_ms.append(_percentile(99, report))


def streams(proxy: Proxy, core: int, seconds: int, figures: Figures) -> None:
    """One round of 64 streams at once, of 100 events a second each."""
    pids = proxy.pids()
    before = cpu_seconds(pids)
    options = ["--port", str(proxy.port), "--streams", str(STREAMS), "--timeout", str(seconds + _GRACE_SECONDS)]
    command = pinned(core, sys.executable, "-m", "scripts.bench.stream_load", *options)
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the stream load failed on {proxy.name}: {done.stderr[-300:]}")
    spent = cpu_seconds(pids) - before
    came = json.loads(done.stdout)
    figures.lost_streams += STREAMS - came["whole"]
    if came["events"] < STREAMS * seconds * EVENTS_PER_SECOND // 2:
        raise BenchError(f"{proxy.name} lost most events: {came['events']} of {STREAMS * seconds * EVENTS_PER_SECOND}")
    if pids:
        figures.cpu_us_per_event.append(spent * 1e6 / came["events"])


def _wrk(proxy: Proxy, core: int, seconds: int, connections: int) -> str:
    url = f"http://127.0.0.1:{proxy.port}/v1/chat/completions"
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(HERE / "post.lua")]
    done = subprocess.run(pinned(core, "wrk", *options, url), capture_output=True, text=True, check=True)
    if refused := re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout):
        raise BenchError(f"{proxy.name} answered {refused[1]} requests with an error")
    if broken := re.search(r"Socket errors: .*", done.stdout):
        raise BenchError(f"{proxy.name}: {broken[0]}")
    return done.stdout


def _number(pattern: str, report: str) -> float:
    found = re.search(pattern, report)
    if found is None:
        raise BenchError(f"wrk said something unexpected:\n{report}")
    return float(found[1])


def _percentile(percent: int, report: str) -> float:
    found = re.search(rf"\b{percent}%\s+([\d.]+)(us|ms|s)", report)
    if found is None:
        raise BenchError(f"wrk said something unexpected:\n{report}")
    return float(found[1]) * _UNITS[found[2]]
