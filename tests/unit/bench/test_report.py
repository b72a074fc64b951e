"""What the benchmark makes of its figures."""

import json

import pytest
from rich.console import Console

from scripts.bench import answers, measure, report
from scripts.bench.machine import BenchError
from scripts.bench.measure import Figures

RESULTS = {
    "direct": Figures([60_000, 50_000, 70_000], [], [0.03, 0.05, 0.04], [0.1, 0.1, 0.2]),
    "nginx": Figures([20_000, 30_000, 10_000], [20.0, 30.0, 40.0], [0.14, 0.1, 0.2], [0.3, 0.3, 0.3], [15.0]),
    "bare relay": Figures([8_000], [70.0], [0.24], [0.5], [30.0]),
    "aigw": Figures(failed="aigw up failed with exit code 3: no such engine\nand more"),
}


def test_ratios_and_additions_are_of_the_medians() -> None:
    relay = report.summary(RESULTS, "bare relay")
    assert relay == pytest.approx(
        {
            "requests_per_second": 8_000,
            "of_nginx": 0.4,
            "of_bare_relay": 1.0,
            "cpu_us_per_request": 70.0,
            "added_p50_ms": 0.2,
            "added_p99_ms": 0.4,
            "cpu_us_per_event": 30.0,
        }
    )


def test_what_was_not_measured_is_left_open() -> None:
    alone = report.summary({"nginx": RESULTS["nginx"]}, "nginx")
    assert (alone["of_nginx"], alone["of_bare_relay"], alone["added_p50_ms"]) == (1.0, None, None)


def test_the_table_says_why_a_proxy_has_no_figures() -> None:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(report.table(RESULTS))
    assert "aigw up failed with exit code 3: no such engine" in " ".join(shown.get().split())
    assert "8,000" in shown.get()


def test_the_data_holds_every_round_and_is_plain_json() -> None:
    written = json.loads(json.dumps(report.data({"cores": 2}, {"rounds": 3}, RESULTS)))
    assert written["proxies"]["nginx"]["rounds"]["requests_per_second"] == [20_000, 30_000, 10_000]
    assert written["proxies"]["aigw"]["rounds"]["failed"].startswith("aigw up failed")


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


def test_output_that_wrk_never_had_is_an_error() -> None:
    with pytest.raises(BenchError, match="wrk said something unexpected"):
        measure._percentile(50, "wrk: unable to connect")


def test_each_counted_event_holds_its_mark_once() -> None:
    assert answers.EVENT.count(answers.EVENT_MARK) == 1
    assert all(answers.EVENT_MARK not in other for other in (answers.LAST_EVENT, answers.USAGE_EVENT, answers.DONE))
    assert 350 <= len(answers.ANSWER) <= 450
