"""What an attempt met, and what the client is told once the chain is spent. Pure.

503 when nothing could be reached, 504 when time ran out, 429 when all were full or limited, 500 when engines failed:
each says what each attempt met (rules B2, B6).
"""

from collections.abc import Sequence
from enum import StrEnum

from aigw_daemon.gateway.routing import Decision, Readiness
from aigw_daemon.gateway.wire import ApiError

RETRY_AFTER_SECONDS = 2
"""When nothing could be reached: a restart takes about this long."""


class Kind(StrEnum):
    """What went wrong, as far as it decides the status."""

    UNREACHABLE = "unreachable"
    LIMITED = "limited"
    FAILED = "failed"


class AttemptFailed(Exception):
    """One candidate gave no answer, and nothing has reached the client: the next one may try."""

    def __init__(self, kind: Kind, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after


Met = tuple[str, AttemptFailed]
"""A backend's name and how it failed."""

_RELAYED = frozenset({400, 405, 406, 409, 411, 413, 414, 415, 416, 422, 424, 451})


def is_clients_fault(status: int) -> bool:
    """Whether an upstream's status is relayed.

    401, 403 and 404 are the operator's fault and never relayed as the client's (the design's *Fallback*).
    """
    return status in _RELAYED


def failed_status(status: int, message: str | None, retry_after: str) -> AttemptFailed:
    """An upstream's answer that is neither an answer nor the client's fault."""
    said = f"it answered {status}: {message}" if message else f"it answered {status}"
    seconds = int(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
    match status:
        case 429:
            return AttemptFailed(Kind.LIMITED, said, seconds)
        case 503:
            return AttemptFailed(Kind.UNREACHABLE, said, seconds)
        case _:
            return AttemptFailed(Kind.FAILED, said)


def unknown_model(decision: Decision) -> ApiError:
    """404, with the nearest names."""
    message = f"Model {decision.model!r} not found"
    if decision.nearest:
        message += f"; the nearest names are {', '.join(decision.nearest)}"
    return ApiError(404, message, code="model_not_found", param="model")


def spent(decision: Decision, met: Sequence[Met]) -> ApiError:
    """Every candidate was tried or skipped."""
    story = _story(decision, met)
    kinds = {failure.kind for _, failure in met}
    waits = [failure.retry_after for _, failure in met if failure.retry_after is not None]
    retry_after = min(waits) if waits else RETRY_AFTER_SECONDS
    if Kind.FAILED in kinds:
        return ApiError(500, f"every provider of {decision.model!r} failed: {story}")
    if kinds == {Kind.LIMITED}:
        return ApiError(429, f"every provider of {decision.model!r} is limited: {story}", retry_after=retry_after)
    return ApiError(503, f"no provider of {decision.model!r} can be reached: {story}", retry_after=retry_after)


def out_of_time(seconds: float, decision: Decision | None, met: Sequence[Met]) -> ApiError:
    """The one deadline of a request passed."""
    message = f"there was no answer within {seconds:g} s"
    if decision is not None and (story := _story(decision, met)):
        message += f": {story}"
    return ApiError(504, message)


def _story(decision: Decision, met: Sequence[Met]) -> str:
    tried = [f"{name}: {failure.detail}" for name, failure in met]
    skipped = [
        f"{found.backend}: {found.reason}" for found in decision.candidates if found.readiness != Readiness.READY
    ]
    return "; ".join(tried + skipped)
