"""What Prometheus reads: every name, every label, and what each says."""

import re
from pathlib import Path
from typing import Final

import msgspec
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_of
from prometheus_client.parser import text_string_to_metric_families as plain_text

from aigw_daemon.gateway.cache.cache import CacheReport
from aigw_daemon.gateway.cache.statistics import RedisCounts
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.metrics import Readings, Standing, exposition, readings
from aigw_daemon.link.caching import CacheCounts
from aigw_daemon.link.messages import CacheView, Secret
from aigw_daemon.version import AIGW_VERSION
from aigw_daemon.words import State
from tests.support.gateway import backend, snapshot

ROOT = Path(__file__).parents[3]
OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0"
COUNTS = CacheCounts(
    hits=70, misses=25, coalesced=5, stored=24, stored_bytes=48_000, saved_tokens=15_000, saved_seconds=192.5
)
REPORT = CacheReport({"llama": COUNTS}, 24, 73_000, RedisCounts(unanswered=2, unstored=3), redis_up=True)
VIEW = CacheView(memory=64_000_000, redis=Secret("redis://user:hidden@127.0.0.1/0"), redis_wanted=True)
READINGS = Readings((backend("coder", 1, state=State.DEGRADED),), {"coder": Standing(3, 2, True)}, REPORT, VIEW)

PAGE = f"""\
# HELP aigw_build_info 1; the version that runs is its label.
# TYPE aigw_build_info gauge
aigw_build_info{{version="{AIGW_VERSION}"}} 1.0
# HELP aigw_backend_up Whether it takes requests.
# TYPE aigw_backend_up gauge
aigw_backend_up{{backend="coder",engine="llamacpp"}} 1.0
# HELP aigw_backend_state 1 for the state that it is in, 0 for the others.
# TYPE aigw_backend_state gauge
aigw_backend_state{{backend="coder",state="stopped"}} 0.0
aigw_backend_state{{backend="coder",state="starting"}} 0.0
aigw_backend_state{{backend="coder",state="ready"}} 0.0
aigw_backend_state{{backend="coder",state="degraded"}} 1.0
aigw_backend_state{{backend="coder",state="sleeping"}} 0.0
aigw_backend_state{{backend="coder",state="draining"}} 0.0
aigw_backend_state{{backend="coder",state="stopping"}} 0.0
aigw_backend_state{{backend="coder",state="backoff"}} 0.0
aigw_backend_state{{backend="coder",state="failed"}} 0.0
aigw_backend_state{{backend="coder",state="unreachable"}} 0.0
# HELP aigw_backend_requests_in_flight Requests that it is answering.
# TYPE aigw_backend_requests_in_flight gauge
aigw_backend_requests_in_flight{{backend="coder"}} 3.0
# HELP aigw_backend_requests_waiting Requests that wait for a place at it.
# TYPE aigw_backend_requests_waiting gauge
aigw_backend_requests_waiting{{backend="coder"}} 2.0
# HELP aigw_backend_circuit_open Whether its failures keep requests away from it.
# TYPE aigw_backend_circuit_open gauge
aigw_backend_circuit_open{{backend="coder"}} 1.0
# HELP aigw_cache_requests_total Requests that the cache was asked for, by what came of it.
# TYPE aigw_cache_requests_total counter
aigw_cache_requests_total{{model="llama",result="hit"}} 70.0
aigw_cache_requests_total{{model="llama",result="miss"}} 25.0
aigw_cache_requests_total{{model="llama",result="coalesced"}} 5.0
# HELP aigw_cache_stored_total Answers that were kept.
# TYPE aigw_cache_stored_total counter
aigw_cache_stored_total{{model="llama"}} 24.0
# HELP aigw_cache_stored_bytes_total Bytes of the answers that were kept.
# TYPE aigw_cache_stored_bytes_total counter
aigw_cache_stored_bytes_total{{model="llama"}} 48000.0
# HELP aigw_cache_saved_tokens_total Prompt and completion tokens of hits, which no engine had to handle.
# TYPE aigw_cache_saved_tokens_total counter
aigw_cache_saved_tokens_total{{model="llama"}} 15000.0
# HELP aigw_cache_saved_seconds_total Seconds that engines took for the answers of hits.
# TYPE aigw_cache_saved_seconds_total counter
aigw_cache_saved_seconds_total{{model="llama"}} 192.5
# HELP aigw_cache_memory_answers Answers in the worker's process.
# TYPE aigw_cache_memory_answers gauge
aigw_cache_memory_answers 24.0
# HELP aigw_cache_memory_bytes Bytes that they take.
# TYPE aigw_cache_memory_bytes gauge
aigw_cache_memory_bytes 73000.0
# HELP aigw_cache_memory_limit_bytes Bytes that they may take.
# TYPE aigw_cache_memory_limit_bytes gauge
aigw_cache_memory_limit_bytes 6.4e+07
# HELP aigw_cache_redis_up Whether the cache's Redis can be asked.
# TYPE aigw_cache_redis_up gauge
aigw_cache_redis_up 1.0
# HELP aigw_cache_redis_unanswered_total Looks that got no reply in time.
# TYPE aigw_cache_redis_unanswered_total counter
aigw_cache_redis_unanswered_total 2.0
# HELP aigw_cache_redis_unstored_total Answers that could not be put into it.
# TYPE aigw_cache_redis_unstored_total counter
aigw_cache_redis_unstored_total 3.0
"""


def page(found: Readings, accept: str | None = None) -> str:
    return exposition(found, accept)[0].decode()


def open_metrics(text: str) -> list[Metric]:
    """Families of the other format."""
    return list(open_metrics_of(text))  # type: ignore[no-untyped-call]  # this reader bears no types


def own_names(found: Readings) -> set[str]:
    """The families that are aigw's own."""
    return {family.name for family in plain_text(page(found)) if family.name.startswith("aigw_")}


def test_the_page_says_all_that_is_counted() -> None:
    own, process, _ = page(READINGS).partition("# HELP process_")
    assert own == PAGE
    assert process


def test_the_processs_own_memory_time_and_descriptors_are_told() -> None:
    names = {family.name for family in plain_text(page(READINGS)) if family.name.startswith("process_")}
    assert names >= {"process_resident_memory_bytes", "process_cpu_seconds", "process_open_fds"}


def test_whoever_prefers_open_metrics_gets_them() -> None:
    body, content_type = exposition(READINGS, OPEN_METRICS)
    assert content_type.startswith("application/openmetrics-text")
    assert {family.name for family in open_metrics(body.decode())} >= own_names(READINGS)


@pytest.mark.parametrize("accept", [None, "", "*/*", "text/plain", "text/html,application/xhtml+xml;q=0.9"])
def test_everybody_else_gets_plain_text(accept: str | None) -> None:
    assert exposition(READINGS, accept)[1].startswith("text/plain; version=")


def test_a_name_with_quotes_and_line_breaks_stays_one_label() -> None:
    odd = 'say "hi"\nand\\go {x="1"} 2'
    found = msgspec.structs.replace(READINGS, cache=msgspec.structs.replace(REPORT, models={odd: COUNTS}))
    for families in (plain_text(page(found)), open_metrics(page(found, OPEN_METRICS))):
        (stored,) = (family for family in families if family.name == "aigw_cache_stored")
        assert [sample.labels for sample in stored.samples] == [{"model": odd}]


def test_without_a_redis_nothing_is_said_of_one() -> None:
    found = msgspec.structs.replace(READINGS, view=CacheView())
    assert not [name for name in own_names(found) if "redis" in name]


@pytest.mark.parametrize("view", [VIEW, CacheView(redis_wanted=True)], ids=["never reached", "failed"])
def test_a_redis_that_the_profile_wants_and_that_is_not_there_is_down(view: CacheView) -> None:
    report = msgspec.structs.replace(REPORT, redis=None, redis_up=False)
    text = page(msgspec.structs.replace(READINGS, cache=report, view=view))
    assert "aigw_cache_redis_up 0.0" in text
    assert "hidden" not in text


def test_the_documentation_names_each_metric_and_no_other() -> None:
    told = {name for family in plain_text(page(READINGS)) for name in {sample.name for sample in family.samples}}
    named = re.findall(r"`((?:aigw|process)_[a-z_]+)`", (ROOT / "docs" / "metrics.md").read_text())
    assert sorted(named) == sorted(told)


def test_readings_are_those_of_the_lanes_and_circuits() -> None:
    live = Live()
    assert readings(live, REPORT) == Readings((), {}, REPORT, CacheView())
    told = snapshot(backend("one", 1), backend("two", 2), cache=VIEW)
    live.replace(told)
    live.standings.lane("one").in_flight += 1
    assert readings(live, REPORT) == Readings(
        told.backends, {"one": Standing(1, 0, False), "two": Standing(0, 0, False)}, REPORT, VIEW
    )
