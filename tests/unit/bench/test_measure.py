"""How the benchmark reads its tools, and the load and the upstream of its streams."""

import asyncio
import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.bench import answers, measure
from scripts.bench.figures import Figures
from scripts.bench.machine import BenchError, memory_mb, until_at_rest
from scripts.bench.proxies import ALL
from scripts.bench.proxy import SLOW_SECONDS, Direct
from scripts.bench.run import before
from scripts.bench.upstreams import StreamUpstream

WRK = """Running 4s test @ http://127.0.0.1:1/v1/chat/completions
  Latency Distribution
     50%  240.00us
     75%    0.90ms
     90%    1.10s
     99%    5.79ms
  9693 requests in 4.10s, 4.05MB read
Requests/sec:   2364.65
"""


@pytest.mark.parametrize(("percent", "milliseconds"), [(50, 0.24), (75, 0.9), (90, 1100.0), (99, 5.79)])
def test_latencies_are_read_in_whatever_unit_wrk_chose(percent: int, milliseconds: float) -> None:
    assert measure._percentile(percent, WRK) == pytest.approx(milliseconds)


def test_a_proxy_that_goes_on_working_after_its_turn_is_waited_for() -> None:
    burn = "import time; end = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        assert until_at_rest([busy.pid])
        assert select.select([busy.stdout], [], [], 0)[0], "it has done its work"
        busy.communicate(b"\n")


def test_the_rate_is_read() -> None:
    assert measure._rate(WRK) == pytest.approx(2364.65)


def test_output_that_wrk_never_had_is_an_error() -> None:
    with pytest.raises(BenchError, match="wrk said something unexpected"):
        measure._percentile(50, "wrk: unable to connect")


def test_each_counted_event_holds_its_mark_once() -> None:
    assert answers.EVENT.count(answers.EVENT_MARK) == 1
    assert all(answers.EVENT_MARK not in other for other in (answers.LAST_EVENT, answers.USAGE_EVENT, answers.DONE))
    assert 350 <= len(answers.ANSWER) <= 450


def test_slow_proxies_get_fewer_seconds(tmp_path: Path) -> None:
    turns = {proxy.name: proxy(tmp_path, 0).seconds(10) for proxy in ALL}
    assert {name for name, seconds in turns.items() if seconds == SLOW_SECONDS} == {"litellm", "portkey"}
    assert turns["aigw"] == 10


def test_a_proxy_that_does_not_start_is_left_out_with_its_reason(tmp_path: Path) -> None:
    class Absent(Direct):
        name = "absent"

        def start(self, upstream_port: int) -> None:
            raise BenchError("it can't be installed: cannot reach the package index")

    results = {"direct": Figures(), "absent": Figures()}
    with before(Direct(tmp_path, 0), [Absent(tmp_path, 0), Direct(tmp_path, 0)], results) as running:
        assert [proxy.name for proxy in running] == ["direct"]
    assert results["absent"].failed == "it can't be installed: cannot reach the package index"


@contextmanager
def streaming(tmp_path: Path, events_per_second: float) -> Iterator[int]:
    """The port of a stream upstream."""
    upstream = StreamUpstream(tmp_path, 0, events_per_second)
    upstream.start(0)
    try:
        yield upstream.port
    finally:
        upstream.stop()


def test_every_stream_gets_the_events_that_it_asks_for(tmp_path: Path) -> None:
    with streaming(tmp_path, 100.0) as port:
        direct = Direct(tmp_path, 0)
        direct.port = port
        command = measure._stream_load(direct, 0, streams=20, events=15, timeout=30)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"events": 300, "whole": 20}


async def test_idle_streams_stay_open_until_they_are_let_go(tmp_path: Path) -> None:
    with streaming(tmp_path, answers.IDLE_EVENTS_PER_SECOND) as port:
        direct = Direct(tmp_path, 0)
        direct.port = port
        command = [*measure._stream_load(direct, 0, streams=20, events=1_000, timeout=30), "--hold"]
        load = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert load.stdin is not None
        assert load.stdout is not None
        assert json.loads(await load.stdout.readline()) == {"open": 20}
        assert load.returncode is None
        load.stdin.close()
        assert await load.wait() == 0


def test_memory_is_taken_of_all_processes_together() -> None:
    pipe, waits = subprocess.PIPE, "print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", waits], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        other.stdout.readline()
        alone = memory_mb([other.pid])
        twice = memory_mb([other.pid, other.pid])
        other.communicate(b"\n")
    assert 0 < alone.pss <= alone.rss
    assert twice.rss == pytest.approx(2 * alone.rss, rel=0.2)
