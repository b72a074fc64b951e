"""Turns the figures into one table per topic, for a terminal and for a page, and into plain data. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

from rich.table import Table

from scripts.bench.figures import IDLE_STREAMS, STREAMS, Results
from scripts.bench.ratios import PAIRS, YARDSTICK, added, per_stream_kb, ratio, typical, verdicts

_NOTHING = "-"
_YARDSTICK_NOTE = (
    f"The yardstick is the {YARDSTICK!r}: the gateway's own server, dispatcher and upstream client, no features."
    " No floor is measured by the 'bare relay on uvicorn', which is shown beside it."
)
Read = Callable[[Results, str], float | None]


class Column(NamedTuple):
    """A figure of each proxy, and how it is written."""

    title: str
    form: str
    read: Read


class Topic(NamedTuple):
    """A table, ready to be shown: a title, column titles, and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


_TOPICS: tuple[tuple[str, tuple[Column, ...]], ...] = (
    (
        "Requests, by connections",
        (
            Column("requests/s, 1", ",.0f", typical("requests_1")),
            Column("requests/s, 32", ",.0f", typical("requests_32")),
            Column("requests/s, 256", ",.0f", typical("requests_256")),
            Column("CPU µs/request, 32", ".1f", typical("cpu_us_per_request")),
        ),
    ),
    (
        "Latency that is added to the upstream's, one request at a time",
        (Column("added p50 ms", ".3f", added("p50_ms")), Column("added p99 ms", ".3f", added("p99_ms"))),
    ),
    (
        f"{STREAMS} streams of 100 events a second",
        (
            Column("CPU µs/event", ".1f", typical("cpu_us_per_event")),
            Column("lost streams", ".0f", lambda results, name: _lost(results, name, "cpu_us_per_event")),
        ),
    ),
    (
        f"Memory of the process tree with {IDLE_STREAMS:,} idle streams",
        (
            Column("started, PSS MB", ".0f", typical("started_mb")),
            Column("streaming, PSS MB", ".0f", typical("streaming_mb")),
            Column("streaming, RSS MB", ".0f", typical("streaming_rss_mb")),
            Column("KB/stream", ".1f", per_stream_kb),
            Column("lost streams", ".0f", lambda results, name: _lost(results, name, "streaming_mb")),
        ),
    ),
)
_COMPARED = (
    Column("requests/s, 1", ".2f", typical("requests_1")),
    Column("requests/s, 32", ".2f", typical("requests_32")),
    Column("requests/s, 256", ".2f", typical("requests_256")),
    Column("CPU/request", ".2f", typical("cpu_us_per_request")),
    Column("added p50", ".2f", added("p50_ms")),
    Column("CPU/event", ".2f", typical("cpu_us_per_event")),
    Column("memory, streaming", ".2f", typical("streaming_mb")),
)


def topics(results: Results) -> list[Topic]:
    """The tables of what was measured, and last that of the ratios. Topics without a figure are left out."""
    made = [topic_of(title, columns, results) for title, columns in _TOPICS]
    return [topic for topic in (*made, _ratios(results)) if topic.rows]


def notes(results: Results) -> list[str]:
    """What must be read beside the tables: the yardstick, the floors, and which proxy was left out, and why."""
    left_out = (f"LEFT OUT: {name}: {figures.failed}" for name, figures in results.items() if figures.failed)
    return [_YARDSTICK_NOTE, *verdicts(results), *left_out]


def table(topic: Topic) -> Table:
    """For a terminal."""
    made = Table(title=topic.title, title_justify="left")
    for number, title in enumerate(topic.columns):
        made.add_column(title, justify="right" if number else "left")
    for row in topic.rows:
        made.add_row(*row)
    return made


def page(machine: dict[str, Any], settings: dict[str, Any], results: Results) -> str:
    """All of it in Markdown, for docs/performance.md."""
    parts = [
        ", ".join(f"{name} {value}" for name, value in (machine | settings).items()) + ".",
        *(markdown(topic) for topic in topics(results)),
        "\n".join(f"- {note}" for note in notes(results)),
    ]
    return "\n\n".join(parts) + "\n"


def data(machine: dict[str, Any], settings: dict[str, Any], results: Results) -> dict[str, Any]:
    """All that was measured, with every round."""
    compared = {
        f"{pair[0]} / {pair[1]}": {column.title: ratio(results, pair, column.read) for column in _COMPARED}
        for pair in PAIRS
    }
    return {
        "machine": machine,
        "settings": settings,
        "yardstick": YARDSTICK,
        "ratios": compared,
        "notes": notes(results),
        "proxies": {name: asdict(figures) for name, figures in results.items()},
    }


def topic_of(title: str, columns: tuple[Column, ...], results: Results) -> Topic:
    """A table with a row for each proxy of which something was measured."""
    rows = ((name, *(_show(column.read(results, name), column.form) for column in columns)) for name in results)
    return Topic(title, ("proxy", *(column.title for column in columns)), _filled(rows))


def _ratios(results: Results) -> Topic:
    rows = (
        (f"{pair[0]} / {pair[1]}", *(_show(ratio(results, pair, column.read), column.form) for column in _COMPARED))
        for pair in PAIRS
    )
    title = f"Ratios of this run; the yardstick is the {YARDSTICK}"
    return Topic(title, ("ratio", *(column.title for column in _COMPARED)), _filled(rows))


def _filled(rows: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(row for row in rows if any(cell != _NOTHING for cell in row[1:]))


def _lost(results: Results, name: str, measured: str) -> float | None:
    figures = results[name]
    if not getattr(figures, measured):
        return None
    return figures.lost_streams if measured == "cpu_us_per_event" else figures.lost_idle_streams


def markdown(topic: Topic) -> str:
    """For a page."""
    lines = [topic.columns, ("---", *("---:" for _ in topic.columns[1:])), *topic.rows]
    return "\n".join([f"### {topic.title}\n", *("| " + " | ".join(line) + " |" for line in lines)])


def _show(number: float | None, form: str) -> str:
    return _NOTHING if number is None else format(number, form)
