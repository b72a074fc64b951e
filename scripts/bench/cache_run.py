"""Kept answers: how fast each tier gives them, beside relays of the same answer and LiteLLM's Redis cache, in one run.

`scripts/bench/cache` starts it. Everybody runs on one core, Redis and the upstream on the others, and turns go A B C A
B C, as in `run`. Exit code 1 when somebody could not be measured, 2 when nobody could.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console

from scripts.bench import cache_report, machine, measure, report
from scripts.bench.cache_proxies import AigwInProcess, AigwRedisSocket, AigwRedisTcp, LiteLlmRedis, Redis
from scripts.bench.figures import Figures, Results
from scripts.bench.machine import BenchError, Cores
from scripts.bench.measure import Measurement
from scripts.bench.proxies import BareRelay, Nginx
from scripts.bench.proxy import Direct, Proxy
from scripts.bench.run import before, in_turns
from scripts.bench.upstreams import FixedUpstream

ALONE: Final = (Direct, Nginx, BareRelay, AigwInProcess)
WITH_REDIS: Final = (AigwRedisTcp, AigwRedisSocket, LiteLlmRedis)
NAMES: Final = [proxy.name for proxy in (*ALONE, *WITH_REDIS)]
_WIDTH = 140


def main() -> int:
    """Runs what the options ask for."""
    options = _options()
    try:
        machine.check_tools()
        described = machine.describe()
        with tempfile.TemporaryDirectory(prefix="aigw-bench-") as base:
            results = _measure(Path(base), machine.cores(), options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(report.table(cache_report.topic(results)))
    for note in cache_report.notes(results):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if options.markdown:
        settings = {"rounds": options.rounds, "seconds": options.seconds}
        options.markdown.write_text(cache_report.page(described, settings, results))
    return 1 if any(figures.failed for figures in results.values()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench/cache", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, help="measure only this; can be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="how many turns each gets (default 3)")
    parser.add_argument("--seconds", type=int, default=4, help="how long each turn is (default 4)")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file, for a page")
    return parser.parse_args()


def _measure(base: Path, cores: Cores, options: argparse.Namespace) -> Results:
    redis = Redis(base / "redis", cores.upstream)
    redis.start(0)
    try:
        made = _proxies(base, cores.proxy, redis)
        proxies = [proxy for proxy in made if not options.only or proxy.name in options.only]
        results = {proxy.name: Figures() for proxy in proxies}
        turns = (options.rounds, options.seconds, cores.load)
        with before(FixedUpstream(base / "upstream", cores.upstream), proxies, results) as running:
            in_turns("32 connections", _confirmed(measure.requests), running, turns, results)
            in_turns("one connection", _confirmed(measure.latency), running, turns, results)
        return results
    finally:
        redis.stop()


def _proxies(base: Path, core: int, redis: Redis) -> list[Proxy]:
    return [
        *(proxy(base / proxy.__name__, core) for proxy in ALONE),
        *(proxy(base / proxy.__name__, core, redis) for proxy in WITH_REDIS),
    ]


def _confirmed(measurement: Measurement) -> Measurement:
    """The measurement, of kept answers only."""

    def measured(proxy: Proxy, core: int, seconds: int, figures: Figures) -> None:
        measurement(proxy, core, seconds, figures)
        if isinstance(proxy, AigwInProcess | LiteLlmRedis):
            proxy.confirm()

    return measured


if __name__ == "__main__":
    sys.exit(main())
