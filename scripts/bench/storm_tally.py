"""What the clients of a storm saw, counted. Pure.

A stream that has begun can't be taken over by another engine: cut, it must say so. Everything else has to be answered,
but for what a gateway worker had in flight when it was killed.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class End(StrEnum):
    """How a request ended."""

    RIGHT = "answered"
    CUT = "cut in mid-stream, and told so"
    WORKER = "lost with the gateway worker that was killed, or met no gateway"
    FAILED = "failed"
    SHORT = "truncated, and looked whole"
    WRONG = "wrong answer"


INHERENT: Final = frozenset({End.RIGHT, End.CUT, End.WORKER})
"""Ends that no gateway could avoid; all others should be 0."""
WORKER_SECONDS: Final = 0.5
"""How long after its worker's death a client may notice."""

Outage = tuple[float, float]
"""From the death of a worker to the first answer of the next one; when the daemon dies as well, nobody listens then."""


@dataclass(frozen=True)
class Asked:
    """One request. Times in monotonic seconds."""

    retries: int
    began: float
    ended: float
    expected: str
    got: str
    """What arrived of the answer."""
    finished: bool
    """Whether it ended like a whole answer."""
    error: str | None = None
    told: bool = False
    """Whether the error is the gateway's own word, rather than a connection that was lost or refused."""


def outages(everything: Sequence[Asked], worker_deaths: Iterable[float]) -> list[Outage]:
    """When there was no gateway."""
    answered = sorted(asked.ended for asked in everything if asked.finished)
    return [(death, next((end for end in answered if end > death), math.inf)) for death in worker_deaths]


def judge(asked: Asked, without_gateway: Sequence[Outage]) -> End:
    """How it ended, given when there was no gateway."""
    if asked.finished and asked.error is None:
        if asked.got == asked.expected:
            return End.RIGHT
        return End.SHORT if asked.expected.startswith(asked.got) else End.WRONG
    if not asked.expected.startswith(asked.got):
        return End.WRONG
    met = any(asked.began <= back and death <= asked.ended + WORKER_SECONDS for death, back in without_gateway)
    if met and not asked.told:
        return End.WORKER
    return End.CUT if asked.got else End.FAILED


def table(everything: Iterable[Asked], without_gateway: Sequence[Outage]) -> dict[int, Counter[End]]:
    """Counts by the client's own retries."""
    found: dict[int, Counter[End]] = {}
    for asked in everything:
        found.setdefault(asked.retries, Counter())[judge(asked, without_gateway)] += 1
    return found


def lines(counts: dict[int, Counter[End]]) -> list[str]:
    """For a terminal and for a page."""
    columns = sorted(counts)
    head = "| clients | " + " | ".join("no retries" if not each else f"{each} retries" for each in columns) + " |"
    rows = [head, "|---|" + "---|" * len(columns)]
    rows.append("| requests | " + " | ".join(str(counts[each].total()) for each in columns) + " |")
    rows += [f"| {end} | " + " | ".join(str(counts[each][end]) for each in columns) + " |" for end in End]
    return rows


def is_clean(counts: dict[int, Counter[End]]) -> bool:
    """Whether nothing happened that should not."""
    return all(end in INHERENT for counter in counts.values() for end, count in counter.items() if count)
