"""The measurements: requests per second, latency of one request at a time, CPU time per event, memory of streams."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scripts.bench.answers import EVENTS_PER_SECOND
from scripts.bench.figures import IDLE_STREAMS, STREAMS, Figures
from scripts.bench.machine import BenchError, cpu_seconds, memory_mb, pinned
from scripts.bench.proxy import HERE, Proxy

Measurement = Callable[[Proxy, int, int, Figures], None]
"""Of a proxy, with the load on this core, for so many seconds, into these figures. Raises BenchError."""

_PATIENCE_SECONDS = 180
"""How long a slow proxy may take for the events of its streams, beyond the time that they are sent in."""
_IDLE_PATIENCE_SECONDS = 60
"""How long 1,000 streams may take to begin."""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def requests(proxy: Proxy, core: int, seconds: int, figures: Figures) -> None:
    """Requests per second on 32 connections, and what each costs."""
    pids = proxy.pids()
    before = cpu_seconds(pids)
    report = _wrk(proxy, core, seconds, 32)
    spent = cpu_seconds(pids) - before
    figures.requests_32.append(_rate(report))
    if pids:
        figures.cpu_us_per_request.append(spent * 1e6 / _number(r"(\d+) requests in", report))


def crowd(proxy: Proxy, core: int, seconds: int, figures: Figures) -> None:
    """Requests per second on 256 connections."""
    figures.requests_256.append(_rate(_wrk(proxy, core, seconds, 256)))


def latency(proxy: Proxy, core: int, seconds: int, figures: Figures) -> None:
    """One request at a time: how many a second, and how long they take."""
    report = _wrk(proxy, core, seconds, 1)
    figures.requests_1.append(_rate(report))
    figures.p50_ms.append(_percentile(50, report))
    figures.p99_ms.append(_percentile(99, report))


def streams(proxy: Proxy, core: int, seconds: int, figures: Figures) -> None:
    """100 streams at once, of 100 events a second each."""
    pids = proxy.pids()
    before = cpu_seconds(pids)
    command = _stream_load(proxy, core, STREAMS, seconds * EVENTS_PER_SECOND, seconds + _PATIENCE_SECONDS)
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the stream load failed on {proxy.name}: {done.stderr[-300:]}")
    spent = cpu_seconds(pids) - before
    came = json.loads(done.stdout)
    figures.lost_streams += STREAMS - came["whole"]
    expected = STREAMS * seconds * EVENTS_PER_SECOND
    if came["events"] < expected // 2:
        raise BenchError(f"{proxy.name} lost most events: {came['events']} of {expected} came")
    if pids:
        figures.cpu_us_per_event.append(spent * 1e6 / came["events"])


def memory(proxy: Proxy, core: int, _seconds: int, figures: Figures) -> None:
    """What it takes at its start, and with 1,000 streams open that wait for their next event."""
    if proxy.pids():
        figures.started_mb.append(memory_mb(proxy.pids()).pss)
    with _idle_streams(proxy, core) as came:
        figures.lost_idle_streams += IDLE_STREAMS - came
        if proxy.pids():
            taken = memory_mb(proxy.pids())
            figures.streaming_mb.append(taken.pss)
            figures.streaming_rss_mb.append(taken.rss)


@contextmanager
def _idle_streams(proxy: Proxy, core: int) -> Iterator[int]:
    """Holds the streams open; yields how many have begun."""
    command = [*_stream_load(proxy, core, IDLE_STREAMS, IDLE_STREAMS, _IDLE_PATIENCE_SECONDS), "--hold"]
    with subprocess.Popen(
        command, cwd=HERE.parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as load:
        try:
            line = load.stdout.readline() if load.stdout else ""
            if not line:
                raise BenchError(f"the stream load failed on {proxy.name}: it could not open {IDLE_STREAMS} streams")
            yield json.loads(line)["open"]
        finally:
            # Its standard input ends here, and with that the streams.
            load.communicate()


def _stream_load(proxy: Proxy, core: int, streams: int, events: int, timeout: int) -> list[str]:
    options = {"--port": proxy.port, "--streams": streams, "--events": events, "--timeout": timeout}
    arguments = [part for name, value in options.items() for part in (name, str(value))]
    headers = [f"--header={name}: {value}" for name, value in proxy.headers.items()]
    return pinned(core, sys.executable, "-m", "scripts.bench.stream_load", *arguments, *headers)


def _wrk(proxy: Proxy, core: int, seconds: int, connections: int) -> str:
    url = f"http://127.0.0.1:{proxy.port}/v1/chat/completions"
    # A slow proxy keeps the last of 256 connections waiting for longer than wrk's two seconds.
    options = [
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "60s",
        "--latency",
        "-s",
        str(HERE / "post.lua"),
    ]
    headers = [part for name, value in proxy.headers.items() for part in ("-H", f"{name}: {value}")]
    done = subprocess.run(pinned(core, "wrk", *options, *headers, url), capture_output=True, text=True, check=True)
    if refused := re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout):
        raise BenchError(f"{proxy.name} answered {refused[1]} requests with an error")
    if broken := re.search(r"Socket errors: .*", done.stdout):
        raise BenchError(f"{proxy.name}: {broken[0]}")
    return done.stdout


def _rate(report: str) -> float:
    return _number(r"Requests/sec:\s+([\d.]+)", report)


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
