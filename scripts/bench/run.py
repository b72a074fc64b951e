"""The gateway's overhead: all proxies in one run, in turns, on the same core, before the same upstream.

`scripts/bench/overhead` starts it. Rounds go A B C A B C, so that a slow minute of the machine hits all alike.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from scripts.bench import machine, measure, report
from scripts.bench.answers import EVENTS_PER_SECOND
from scripts.bench.machine import BenchError, Cores
from scripts.bench.measure import Figures
from scripts.bench.proxies import ALL, FixedUpstream, Proxy, StreamUpstream

Measurement = Callable[[Proxy, int, int, Figures], None]
Results = dict[str, Figures]

_progress = Console(stderr=True)


def main() -> int:
    """Runs what the options ask for. Exit code 1 when a proxy could not be measured, 2 when nothing could."""
    options = _options()
    try:
        machine.check_tools()
        cores = machine.cores()
        described = machine.describe()
        with tempfile.TemporaryDirectory(prefix="aigw-bench-") as base:
            results = _measure_all(Path(base), cores, options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    # The file the table goes to may be no terminal; lines must not be cut there.
    Console(width=None if sys.stdout.isatty() else 160).print(report.table(results))
    if options.json:
        settings = {"rounds": options.rounds, "seconds": options.seconds}
        options.json.write_text(json.dumps(report.data(described, settings, results), indent=2) + "\n")
    failed = {name: figures.failed for name, figures in results.items() if figures.failed}
    for name, why in failed.items():
        print(f"{name}: {why}", file=sys.stderr)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    names = [proxy.name for proxy in ALL]
    parser = argparse.ArgumentParser(prog="scripts/bench/overhead", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="measure only this proxy; can be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="how many turns each proxy gets (default 3)")
    parser.add_argument("--seconds", type=int, default=4, help="how long each turn is (default 4)")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args()


def _measure_all(base: Path, cores: Cores, options: argparse.Namespace) -> Results:
    chosen = [proxy for proxy in ALL if not options.only or proxy.name in options.only]
    results = {proxy.name: Figures() for proxy in chosen}
    proxies = [proxy(base / proxy.__name__, cores.proxy) for proxy in chosen]
    turns = (options.rounds, options.seconds, cores.load)
    fixed = FixedUpstream(base / "fixed-upstream", cores.upstream)
    with _before(fixed, proxies, results) as running:
        _in_turns("requests per second", measure.requests, running, turns, results)
        _in_turns("latency", measure.latency, running, turns, results)
    stream = StreamUpstream(base / "stream-upstream", cores.upstream, options.seconds * EVENTS_PER_SECOND)
    streamed = [proxy for proxy in proxies if not results[proxy.name].failed]
    with _before(stream, streamed, results) as running:
        _in_turns("streams", measure.streams, running, turns, results)
    return results


@contextmanager
def _before(upstream: Proxy, proxies: list[Proxy], results: Results) -> Iterator[list[Proxy]]:
    """Starts the upstream and the proxies in front of it; one that doesn't start is out of the run."""
    upstream.start(0)
    running: list[Proxy] = []
    try:
        for proxy in proxies:
            try:
                proxy.start(upstream.port)
                running.append(proxy)
            except BenchError as error:
                results[proxy.name].failed = str(error)
        yield running
    finally:
        for proxy in running:
            proxy.stop()
        upstream.stop()


def _in_turns(
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
                measurement(proxy, core, seconds, figures)
            except BenchError as error:
                figures.failed = str(error)


if __name__ == "__main__":
    sys.exit(main())
