"""The order of equal targets, per request. Pure; the caller brings the load and the dice."""

from collections.abc import Callable, Mapping, Sequence

from aigw_daemon.gateway.decision import Candidate, Readiness


def ordered(
    candidates: Sequence[Candidate], policy: str, in_flight: Mapping[str, int], random: Callable[[], float]
) -> Sequence[int]:
    """The positions of ``candidates`` in the order to try them.

    Equal are a route's own targets that are ready: with ``order`` they stay as they are, with ``least_busy`` the one
    with the fewest requests per weight comes first, with ``weighted`` each comes first in proportion to its weight.
    Then come those that must start, then the fallback, both in their order. ``in_flight`` counts requests by backend;
    ``random`` gives numbers from 0 up to, not including, 1.
    """
    if policy == "order" or len(candidates) < 2:  # noqa: PLR2004  # two is the least number that has an order
        return range(len(candidates))
    equal = [place for place, candidate in enumerate(candidates) if _is_equal(candidate)]
    if policy == "least_busy":
        equal.sort(key=lambda place: in_flight.get(candidates[place].backend, 0) / candidates[place].weight)
    else:
        # Efraimidis and Spirakis: the largest of u ** (1 / weight) is a draw by weight, and so is each one after it.
        drawn = {place: random() ** (1 / candidates[place].weight) for place in equal}
        equal.sort(key=drawn.__getitem__, reverse=True)
    return [*equal, *(place for place, candidate in enumerate(candidates) if not _is_equal(candidate))]


def _is_equal(candidate: Candidate) -> bool:
    return candidate.readiness is Readiness.READY and not candidate.fallback
