"""Turns the figures into a table for people and plain data for programs. Pure."""

from dataclasses import asdict
from typing import Any

from rich.table import Table

from scripts.bench.measure import Figures

_NOTHING = "-"


def table(results: dict[str, Figures]) -> Table:
    """One row per proxy. Ratios are to the same run's nginx and bare relay."""
    rows = Table(title="one core; median of the rounds")
    rows.add_column("proxy")
    for title in (
        "requests/s", "of nginx", "of bare relay", "CPU µs/request", "added p50 ms", "added p99 ms",
        "CPU µs/event", "lost streams",
    ):  # fmt: skip
        rows.add_column(title, justify="right")
    for name, figures in results.items():
        if figures.failed:
            rows.add_row(name, f"[red]{figures.failed.splitlines()[0]}[/red]")
            continue
        numbers = summary(results, name)
        rows.add_row(
            name,
            _show(numbers["requests_per_second"], ",.0f"),
            _show(numbers["of_nginx"], ".2f"),
            _show(numbers["of_bare_relay"], ".2f"),
            _show(numbers["cpu_us_per_request"], ".1f"),
            _show(numbers["added_p50_ms"], ".2f"),
            _show(numbers["added_p99_ms"], ".2f"),
            _show(numbers["cpu_us_per_event"], ".1f"),
            str(figures.lost_streams),
        )
    return rows


def data(machine: dict[str, Any], settings: dict[str, Any], results: dict[str, Figures]) -> dict[str, Any]:
    """All that was measured, with every round."""
    proxies = {name: {**summary(results, name), "rounds": asdict(figures)} for name, figures in results.items()}
    return {"machine": machine, "settings": settings, "proxies": proxies}


def summary(results: dict[str, Figures], name: str) -> dict[str, float | None]:
    """The medians of one proxy, what it adds to `direct`, and its ratios."""
    figures = results[name]
    rate = figures.typical("requests_per_second")
    return {
        "requests_per_second": rate,
        "of_nginx": _ratio(rate, results.get("nginx")),
        "of_bare_relay": _ratio(rate, results.get("bare relay")),
        "cpu_us_per_request": figures.typical("cpu_us_per_request"),
        "added_p50_ms": _added(figures, results.get("direct"), "p50_ms"),
        "added_p99_ms": _added(figures, results.get("direct"), "p99_ms"),
        "cpu_us_per_event": figures.typical("cpu_us_per_event"),
    }


def _ratio(rate: float | None, other: Figures | None) -> float | None:
    base = other.typical("requests_per_second") if other else None
    return rate / base if rate and base else None


def _added(figures: Figures, direct: Figures | None, name: str) -> float | None:
    own = figures.typical(name)
    base = direct.typical(name) if direct else None
    return None if own is None or base is None else own - base


def _show(number: float | None, form: str) -> str:
    return _NOTHING if number is None else format(number, form)
