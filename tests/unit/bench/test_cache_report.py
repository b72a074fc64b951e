"""What the benchmark of kept answers makes of its figures."""

from scripts.bench import cache_report
from scripts.bench.cache_run import NAMES
from scripts.bench.figures import Figures

RESULTS = {
    "direct": Figures(requests_32=[50_000]),
    "bare relay": Figures(requests_32=[20_000, 10_000, 30_000], cpu_us_per_request=[50.0], p50_ms=[0.3], p99_ms=[1.0]),
    "aigw, in process": Figures(requests_32=[25_000], cpu_us_per_request=[40.0], p50_ms=[0.1], p99_ms=[0.5]),
    "aigw, Redis by TCP": Figures(requests_32=[6_000], p50_ms=[1.2]),
    "litellm, Redis": Figures(failed="it can't be installed"),
}


def test_every_floor_that_was_measured_is_said_to_be_met_or_missed() -> None:
    assert cache_report.notes(RESULTS) == [
        "aigw, in process, requests per second: 1.25; floor at least 1.00 of the bare relay's: met",
        "aigw, Redis by TCP, requests per second: 0.30; floor at least 0.33 of the bare relay's: MISSED",
        "aigw, in process, p50 on one connection in ms: 0.10; floor below 1: met",
        "aigw, Redis by TCP, p50 on one connection in ms: 1.20; floor below 1: MISSED",
        "LEFT OUT: litellm, Redis: it can't be installed",
    ]


def test_a_page_has_the_machine_a_row_for_each_and_the_floors() -> None:
    page = cache_report.page({"cpu": "X"}, {"rounds": 3}, RESULTS)
    assert page.startswith("cpu X, rounds 3.")
    assert "| aigw, in process | 25,000 | 1.25 | 40.0 | 0.100 | 0.500 |" in page
    assert "| litellm, Redis |" not in page
    assert "- aigw, in process, requests per second: 1.25;" in page


def test_each_floor_is_of_somebody_who_is_measured() -> None:
    assert set(cache_report.FLOORS) <= set(NAMES)
