"""What the benchmark makes of its figures."""

import json

import pytest
from rich.console import Console

from scripts.bench import ratios, report
from scripts.bench.figures import Figures
from scripts.bench.ratios import YARDSTICK

RESULTS = {
    "direct": Figures(requests_32=[60_000, 50_000, 70_000], p50_ms=[0.03, 0.05, 0.04], p99_ms=[0.1, 0.1, 0.2]),
    "nginx": Figures(requests_32=[20_000, 30_000, 10_000], p50_ms=[0.14, 0.1, 0.2], cpu_us_per_event=[15.0]),
    YARDSTICK: Figures(requests_32=[10_000], p50_ms=[0.24], p99_ms=[0.5], cpu_us_per_event=[30.0]),
    "bare relay on uvicorn": Figures(requests_32=[5_000]),
    "vllm-router": Figures(requests_32=[4_000]),
    "litellm": Figures(failed="it can't be installed: cannot reach the package index"),
    "aigw": Figures(
        requests_32=[6_500],
        p50_ms=[0.34],
        cpu_us_per_event=[48.0],
        started_mb=[80.0],
        streaming_mb=[90.0],
        streaming_rss_mb=[120.0],
        lost_idle_streams=500,
    ),
}


def test_the_yardstick_is_the_relay_on_the_gateways_own_server() -> None:
    assert YARDSTICK == "bare relay"
    assert all(YARDSTICK in verdict for verdict in ratios.verdicts(RESULTS)[:-1])


def test_ratios_are_of_the_medians_of_one_run() -> None:
    rate = ratios.typical("requests_32")
    assert {pair: ratios.ratio(RESULTS, pair, rate) for pair in ratios.PAIRS} == pytest.approx(
        {
            ("aigw", "bare relay"): 0.65,
            ("bare relay", "nginx"): 0.5,
            ("aigw", "nginx"): 0.325,
            ("aigw", "vllm-router"): 1.625,
            ("aigw", "bare relay on uvicorn"): 1.3,
        }
    )


def test_what_a_proxy_adds_is_what_it_takes_beyond_direct() -> None:
    added = ratios.added("p50_ms")
    assert added(RESULTS, "aigw") == pytest.approx(0.3)
    assert added(RESULTS, "direct") is None
    assert added({"aigw": RESULTS["aigw"]}, "aigw") is None


def test_each_floor_is_said_to_be_met_or_missed() -> None:
    assert ratios.verdicts(RESULTS) == [
        "requests per second on 32 connections: 0.65 of the bare relay's; floor at least 0.60: met",
        "CPU time per streamed event: 1.60 of the bare relay's; floor at most 1.50: MISSED",
        "added p50 on one connection: 1.50 of the bare relay's; floor at most 2.00: met",
        "requests per second on 32 connections: 1.62 of vllm-router's; the aim is to be ahead",
    ]


def test_nothing_is_said_of_what_was_not_measured() -> None:
    alone = {"nginx": RESULTS["nginx"]}
    assert ratios.verdicts(alone) == []
    assert [topic.title for topic in report.topics(alone)] == [
        "Requests, by connections",
        "100 streams of 100 events a second",
    ]


def test_memory_of_a_stream_is_shared_among_those_that_were_open() -> None:
    assert ratios.per_stream_kb(RESULTS, "aigw") == pytest.approx(20.0)
    assert ratios.per_stream_kb(RESULTS, "nginx") is None


def test_the_tables_for_a_terminal_and_for_a_page_say_the_same() -> None:
    console = Console(width=200)
    with console.capture() as shown:
        for topic in report.topics(RESULTS):
            console.print(report.table(topic))
    page = report.page({"cores": 2}, {"rounds": 3}, RESULTS)
    cells = [cell for topic in report.topics(RESULTS) for row in topic.rows for cell in row]
    assert "6,500" in cells
    assert all(cell in shown.get() and cell in page for cell in cells)


def test_a_page_holds_one_table_per_topic() -> None:
    lines = report.page({"cores": 2}, {"rounds": 3}, RESULTS).splitlines()
    assert lines[0] == "cores 2, rounds 3."
    titles = [line.removeprefix("### ") for line in lines if line.startswith("### ")]
    assert titles == [topic.title for topic in report.topics(RESULTS)]
    assert "| aigw | - | 6,500 | - | - |" in lines


def test_a_proxy_that_was_left_out_is_named_with_the_reason() -> None:
    assert report.notes(RESULTS)[-1] == "LEFT OUT: litellm: it can't be installed: cannot reach the package index"


def test_the_data_holds_every_round_and_is_plain_json() -> None:
    written = json.loads(json.dumps(report.data({"cores": 2}, {"rounds": 3}, RESULTS)))
    assert written["proxies"]["nginx"]["requests_32"] == [20_000, 30_000, 10_000]
    assert written["ratios"]["aigw / bare relay"]["requests/s, 32"] == pytest.approx(0.65)
