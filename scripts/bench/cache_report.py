"""What the figures of kept answers say: one table, and whether the floors are met. Pure."""

from typing import Any, Final

from scripts.bench.cache_proxies import AigwInProcess, AigwRedisSocket, AigwRedisTcp
from scripts.bench.figures import Results
from scripts.bench.ratios import YARDSTICK, ratio, typical
from scripts.bench.report import Column, Topic, markdown, topic_of

FLOORS: Final = {AigwInProcess.name: 1.0, AigwRedisTcp.name: 0.33, AigwRedisSocket.name: 0.33}
"""Of the yardstick's requests per second on 32 connections, at least."""
MOST_MS: Final = 1.0
"""Of each of them: the p50 on one connection."""

_rate = typical("requests_32")
_p50 = typical("p50_ms")
_COLUMNS = (
    Column("requests/s, 32", ",.0f", _rate),
    Column("of the bare relay", ".2f", lambda results, name: ratio(results, (name, YARDSTICK), _rate)),
    Column("CPU µs/request, 32", ".1f", typical("cpu_us_per_request")),
    Column("p50 ms, 1", ".3f", _p50),
    Column("p99 ms, 1", ".3f", typical("p99_ms")),
)


def topic(results: Results) -> Topic:
    """Requests per second and latency of each."""
    return topic_of("Kept answers, and the same answer relayed", _COLUMNS, results)


def notes(results: Results) -> list[str]:
    """One sentence for each floor that was measured, and who was left out."""
    said = [
        _verdict(f"{name}, requests per second", found, f"at least {least:.2f} of the {YARDSTICK}'s", found >= least)
        for name, least in FLOORS.items()
        if (found := ratio(results, (name, YARDSTICK), _rate)) is not None
    ]
    said += [
        _verdict(f"{name}, p50 on one connection in ms", found, f"below {MOST_MS:g}", found < MOST_MS)
        for name in FLOORS
        if (found := _p50(results, name)) is not None
    ]
    return said + [f"LEFT OUT: {name}: {figures.failed}" for name, figures in results.items() if figures.failed]


def page(machine: dict[str, Any], settings: dict[str, Any], results: Results) -> str:
    """All of it in Markdown, for docs/performance.md."""
    head = ", ".join(f"{name} {value}" for name, value in (machine | settings).items()) + "."
    return "\n\n".join([head, markdown(topic(results)), "\n".join(f"- {note}" for note in notes(results))]) + "\n"


def _verdict(what: str, found: float, floor: str, met: bool) -> str:
    return f"{what}: {found:.2f}; floor {floor}: {'met' if met else 'MISSED'}"
