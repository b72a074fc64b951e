"""How often all traffic together may ask the same engine again, and how long to pause before it does. Pure.

Without an end to it, trying again is what keeps an overloaded engine down. Two limits hold at once (rule B4): extra
attempts in flight, as Envoy counts them, and a bucket of tokens that failing extra attempts empty (gRPC A6).
An extra attempt asks a process that the same request has asked before. A fallback to another backend, or to the next
process of one that died, is none: there the backend's lane bounds what it gets.
"""

from typing import Final

MAX_EXTRA_PER_REQUEST: Final = 2
LEAST_EXTRA: Final = 3
EXTRA_PERCENT: Final = 20
BUCKET: Final = 100
"""Tenths of a token, so that nothing is ever rounded: 10 tokens."""
FAILURE_COSTS: Final = 10
"""Tenths. A success gives back one."""

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 8.0


class RetryBudget:
    """All traffic's. The hot path asks ``if budget.spent: budget.succeeded()`` after an answer: all is well at 0.

    ``spent`` is what is missing in the bucket, in tenths of a token; ``extra`` how many extra attempts are in flight.
    """

    __slots__ = ("extra", "spent")

    def __init__(self) -> None:
        self.spent = 0
        self.extra = 0

    def refusal(self, active: int) -> str | None:
        """Why there may be no extra attempt now, while ``active`` requests are in flight; None when there may.

        While half of the bucket is gone one still goes at a time: where every first attempt fails, nothing else could
        ever fill it again.
        """
        most = max(LEAST_EXTRA, active * EXTRA_PERCENT // 100)
        if self.extra >= most:
            return f"the retry budget is spent: {self.extra} extra attempts are in flight, at most {most}"
        if self.extra and self.spent * 2 >= BUCKET:
            return "the retry budget is spent: most extra attempts fail, so only one at a time is made"
        return None

    def begin(self) -> None:
        """An extra attempt goes out, after `refusal` said None."""
        self.extra += 1

    def end(self, *, failed: bool) -> None:
        """It is over, in whatever way; a cancelled one has not failed."""
        self.extra -= 1
        if failed:
            self.spent = min(BUCKET, self.spent + FAILURE_COSTS)

    def succeeded(self) -> None:
        """A request was answered, by its first attempt or an extra one."""
        if self.spent:
            self.spent -= 1


def pause(extra: int, remaining: float, retry_after: float | None, random: float) -> float | None:
    """Seconds to wait before asking the same candidate again, as extra attempt 1, 2 …; None to let it be (rule B5).

    Grows from 0.5 s to 8 s with full jitter: ``random`` is from 0 to 1. ``remaining`` seconds are left to the request.
    An upstream's ``retry_after`` is never undercut: where it is above 8 s, or doesn't fit, asking again is no use.
    """
    # The exponent is bounded first: a high number of attempts would overflow a float.
    drawn = random * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(extra - 1, 10))
    if retry_after is not None and retry_after > LONGEST_PAUSE:
        return None
    wait = max(drawn, retry_after or 0.0)
    return wait if wait < remaining else None
