"""The gateway's overhead: all proxies in one run, in turns, on the same core, before the same upstream.

`scripts/bench/overhead` starts it. Rounds go A B C A B C, so that a slow minute of the machine hits all alike. Slow
proxies get two seconds of each turn.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from scripts.bench import machine, measure, report
from scripts.bench.answers import EVENTS_PER_SECOND, IDLE_EVENTS_PER_SECOND
from scripts.bench.figures import Figures, Results
from scripts.bench.machine import BenchError, Cores
from scripts.bench.measure import Measurement
from scripts.bench.proxies import ALL
from scripts.bench.proxy import Proxy
from scripts.bench.upstreams import FixedUpstream, StreamUpstream

TOPICS = ("requests", "streams", "memory")
_WIDTH = 160

_progress = Console(stderr=True)


def main() -> int:
    """Runs what the options ask for. Exit code 1 when a proxy could not be measured, 2 when nothing could."""
    options = _options()
    try:
        machine.check_tools()
        machine.allow_many_files()
        cores = machine.cores()
        described = machine.describe()
        with tempfile.TemporaryDirectory(prefix="aigw-bench-") as base:
            results = _measure_all(Path(base), cores, options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    _tell(options, described, results)
    return 1 if any(figures.failed for figures in results.values()) else 0


def _tell(options: argparse.Namespace, described: dict[str, str | int | float], results: Results) -> None:
    # The file the tables go to may be no terminal; lines must not be cut there.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for topic in report.topics(results):
        console.print(report.table(topic))
    for note in report.notes(results):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    settings = {"rounds": options.rounds, "seconds": options.seconds}
    if options.json:
        options.json.write_text(json.dumps(report.data(described, settings, results), indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(report.page(described, settings, results))


def _options() -> argparse.Namespace:
    names = [proxy.name for proxy in ALL]
    parser = argparse.ArgumentParser(prog="scripts/bench/overhead", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="measure only this proxy; can be repeated")
    parser.add_argument("--topic", action="append", choices=TOPICS, help="measure only this; can be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="how many turns each proxy gets (default 3)")
    parser.add_argument("--seconds", type=int, default=4, help="how long each turn is (default 4)")
    parser.add_argument("--json", type=Path, help="also write everything, every round too, to this file")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file, for a page")
    return parser.parse_args()


def _measure_all(base: Path, cores: Cores, options: argparse.Namespace) -> Results:
    chosen = [proxy for proxy in ALL if not options.only or proxy.name in options.only]
    results = {proxy.name: Figures() for proxy in chosen}
    proxies = [proxy(base / proxy.__name__, cores.proxy) for proxy in chosen]
    turns = (options.rounds, options.seconds, cores.load)
    wanted = options.topic or TOPICS
    if "requests" in wanted:
        with before(FixedUpstream(base / "fixed-upstream", cores.upstream), proxies, results) as running:
            in_turns("32 connections", measure.requests, running, turns, results)
            in_turns("256 connections", measure.crowd, running, turns, results)
            in_turns("one connection", measure.latency, running, turns, results)
    if "streams" in wanted:
        busy = StreamUpstream(base / "stream-upstream", cores.upstream, EVENTS_PER_SECOND)
        with before(busy, proxies, results) as running:
            in_turns("streams", measure.streams, running, turns, results)
    if "memory" in wanted:
        idle = StreamUpstream(base / "idle-upstream", cores.upstream, IDLE_EVENTS_PER_SECOND)
        # Once is enough: memory hardly varies, and what earlier rounds leave behind would count.
        with before(idle, proxies, results) as running:
            in_turns("idle streams", measure.memory, running, (1, *turns[1:]), results)
    return results


@contextmanager
def before(upstream: Proxy, proxies: list[Proxy], results: Results) -> Iterator[list[Proxy]]:
    """Starts the upstream and the proxies in front of it; one that doesn't start is out of the run."""
    running: list[Proxy] = []
    try:
        upstream.start(0)
        for proxy in proxies:
            if results[proxy.name].failed:
                continue
            _progress.print(f"start {proxy.name}", highlight=False)
            try:
                proxy.start(upstream.port)
                running.append(proxy)
            except BenchError as error:
                _leave_out(proxy, error, results)
        yield running
    finally:
        for proxy in running:
            proxy.stop()
        upstream.stop()


def in_turns(
    title: str, measurement: Measurement, proxies: list[Proxy], turns: tuple[int, int, int], results: Results
) -> None:
    rounds, seconds, core = turns
    for number in range(rounds):
        for proxy in proxies:
            figures = results[proxy.name]
            if figures.failed:
                continue
            _progress.print(f"{title}: round {number + 1} of {rounds}, {proxy.name}", highlight=False)
            try:
                measurement(proxy, core, proxy.seconds(seconds), figures)
                if not machine.until_at_rest(proxy.pids()):
                    _progress.print(f"{proxy.name} goes on working after its turn; the next one may suffer from it")
            except BenchError as error:
                _leave_out(proxy, error, results)


def _leave_out(proxy: Proxy, error: BenchError, results: Results) -> None:
    results[proxy.name].failed = str(error)
    _progress.print(f"{proxy.name} is left out from here on: {error}", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
