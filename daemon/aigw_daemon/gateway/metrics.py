"""What Prometheus reads at ``/metrics``: what the worker counts and knows anyway, at the moment that it is asked for.

Nothing is counted for this page alone, so it costs a request nothing. `readings` copies what there is, on the event
loop; `exposition` writes it down, which takes a while where there are many models and belongs into a thread.

Names follow Prometheus's rules: base units, ``_total`` for what only grows. What grows begins at 0 with the worker, as
``rate()`` expects of it. Labels are bounded: backends are the profile's, models those of `Statistics`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aigw_daemon.gateway.cache.cache import CacheReport
from aigw_daemon.gateway.live import Live
from aigw_daemon.link.messages import BackendView, CacheView
from aigw_daemon.version import AIGW_VERSION
from aigw_daemon.words import SERVING, State

Sample = tuple[tuple[str, ...], float]
"""The labels' values, and the metric's."""

_OF_STANDINGS: Final = {
    "in_flight": ("aigw_backend_requests_in_flight", "Requests that it is answering."),
    "waiting": ("aigw_backend_requests_waiting", "Requests that wait for a place at it."),
    "broken": ("aigw_backend_circuit_open", "Whether its failures keep requests away from it."),
}
"""What is told of a `Standing`: what each field is called, and what it says."""
_RESULTS: Final = {"hit": "hits", "miss": "misses", "coalesced": "coalesced"}
"""The words of ``x-aigw-cache`` that are counted, and the counter of each."""
_OF_MODELS: Final = {
    "stored": ("aigw_cache_stored", "Answers that were kept."),
    "stored_bytes": ("aigw_cache_stored_bytes", "Bytes of the answers that were kept."),
    "saved_tokens": ("aigw_cache_saved_tokens", "Prompt and completion tokens of hits, which no engine had to handle."),
    "saved_seconds": ("aigw_cache_saved_seconds", "Seconds that engines took for the answers of hits."),
}
"""The other counters of a model, likewise."""


class Standing(msgspec.Struct, frozen=True):
    """How a backend stands with this worker."""

    in_flight: int
    waiting: int
    broken: bool
    """Whether its circuit keeps requests away from it."""


class Readings(msgspec.Struct, frozen=True):
    """All that is told, as it was at one moment."""

    backends: tuple[BackendView, ...]
    standings: Mapping[str, Standing]
    """By backend."""
    cache: CacheReport
    view: CacheView
    """What the cache was told to do."""


def readings(live: Live, cache: CacheReport) -> Readings:
    """What there is now. To be called on the event loop, where all of it changes."""
    snapshot, standings = live.snapshot, live.standings
    broken = standings.broken()
    found = {lane.backend: Standing(lane.in_flight, lane.waiting, lane.backend in broken) for lane in standings}
    if snapshot is None:
        return Readings((), found, cache, CacheView())
    return Readings(snapshot.backends, found, cache, snapshot.cache)


def exposition(found: Readings, accept: str | None) -> tuple[bytes, str]:
    """The page and its content type: Prometheus's text, or OpenMetrics for whom ``accept`` says so."""
    encode, content_type = choose_encoder(accept or "")
    registry = CollectorRegistry()
    registry.register(_Worker(found))
    ProcessCollector(registry=registry)
    return encode(registry), content_type


class _Worker(Collector):
    def __init__(self, found: Readings) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        yield _gauge("aigw_build_info", "1; the version that runs is its label.", [((AIGW_VERSION,), 1)], "version")
        yield from _of_backends(self._found)
        yield from _of_cached_models(self._found.cache)
        yield from _of_tiers(self._found.cache, self._found.view)


def _of_backends(found: Readings) -> Iterator[Metric]:
    views = found.backends
    yield _gauge(
        "aigw_backend_up",
        "Whether it takes requests.",
        [((view.name, view.engine), view.state in SERVING) for view in views],
        *("backend", "engine"),
    )
    yield _gauge(
        "aigw_backend_state",
        "1 for the state that it is in, 0 for the others.",
        [((view.name, state), view.state is state) for view in views for state in State],
        *("backend", "state"),
    )
    stands = found.standings.items()
    for field, (metric, text) in _OF_STANDINGS.items():
        yield _gauge(metric, text, [((backend,), getattr(one, field)) for backend, one in stands], "backend")


def _of_cached_models(cache: CacheReport) -> Iterator[Metric]:
    models = cache.models.items()
    yield _counter(
        "aigw_cache_requests",
        "Requests that the cache was asked for, by what came of it.",
        [((name, word), getattr(counts, field)) for name, counts in models for word, field in _RESULTS.items()],
        *("model", "result"),
    )
    for field, (metric, text) in _OF_MODELS.items():
        yield _counter(metric, text, [((name,), getattr(counts, field)) for name, counts in models], "model")


def _of_tiers(cache: CacheReport, view: CacheView) -> Iterator[Metric]:
    for name, text, value in (
        ("answers", "Answers in the worker's process.", cache.entries),
        ("bytes", "Bytes that they take.", cache.bytes),
        ("limit_bytes", "Bytes that they may take.", view.memory),
    ):
        yield _gauge(f"aigw_cache_memory_{name}", text, [((), value)])
    if not view.redis_wanted:
        return
    yield _gauge("aigw_cache_redis_up", "Whether the cache's Redis can be asked.", [((), cache.redis_up)])
    if (counts := cache.redis) is not None:
        unanswered, unstored = counts.unanswered, counts.unstored
        yield _counter("aigw_cache_redis_unanswered", "Looks that got no reply in time.", [((), unanswered)])
        yield _counter("aigw_cache_redis_unstored", "Answers that could not be put into it.", [((), unstored)])


def _gauge(name: str, text: str, samples: Iterable[Sample], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, samples: Iterable[Sample], *labels: str) -> Metric:
    """``name`` is without ``_total``."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
