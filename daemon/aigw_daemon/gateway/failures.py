"""What an attempt met, and what the client is told once the chain is spent. Pure.

503 when nothing could be reached, 504 when time ran out, 429 when all were full or limited, 500 when engines failed:
each says what each attempt met (rules B2, B6).
"""

import math
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

from aigw_daemon.gateway.breaker import Failure
from aigw_daemon.gateway.decision import Decision, Readiness
from aigw_daemon.gateway.upstream.base import BodyTooLarge, ConnectFailed, ProtocolViolation, Truncated, UpstreamError
from aigw_daemon.gateway.wire import ApiError

RETRY_AFTER_SECONDS = 2
"""When nothing could be reached: a restart takes about this long."""
ENGINE_DIED: Final = "engine_died"
"""The code of the error for a request that is likely to kill engines."""
_LONGEST_NAME = 200


class Kind(StrEnum):
    """What went wrong, as far as it decides the status."""

    UNREACHABLE = "unreachable"
    LIMITED = "limited"
    TIMED_OUT = "timed out"
    FAILED = "failed"


class AttemptFailed(Exception):
    """One candidate gave no answer, and nothing has reached the client: the next one may try."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        retry_after: float | None = None,
        *,
        counts: Failure | None = None,
        passing: bool = False,
        lost: bool = False,
        sent: bool = True,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after
        self.counts = counts
        """As what it counts against the backend; None for what isn't its fault."""
        self.passing = passing
        """Whether the same candidate may well answer a moment later."""
        self.lost = lost
        """Whether the connection broke or nobody listens: the engine's process may have died."""
        self.sent = sent
        """Whether the request may have reached the engine."""


class TooLong(AttemptFailed):
    """The prompt is longer than the model's context: the route may have a chain for that, else the client hears it."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(Kind.FAILED, error.message)
        self.error = error


Met = tuple[str, AttemptFailed]
"""A backend's name and how it failed."""

_RELAYED: Final = frozenset({400, 405, 406, 409, 411, 413, 414, 415, 416, 422, 424, 451})
_PASSING: Final = frozenset({502, 503, 504, 529})
_DYING: Final = re.compile(
    "EngineDead|EngineCore encountered an issue"
    "|runner process has terminated|model runner has unexpectedly stopped|process no longer running"
)
"""How vLLM and Ollama say that a process of theirs has died under the request: they answer before they end, or load the
model anew with the next request."""


def is_clients_fault(status: int) -> bool:
    """Whether an upstream's status is relayed.

    401, 403 and 404 are the operator's fault and never relayed as the client's (the design's *Fallback*).
    """
    return status in _RELAYED


def is_dying(message: str | None) -> bool:
    """Whether an engine says that a process of its own has died under the request."""
    return message is not None and _DYING.search(message) is not None


def failed_status(
    status: int, message: str | None, retry_after: float | None, *, limited: bool = False
) -> AttemptFailed:
    """An upstream's answer that is neither an answer nor the client's fault. ``retry_after`` is in seconds.

    ``limited``: its words say what 429 would.
    """
    said = f"it answered {status}: {message}" if message else f"it answered {status}"
    if status == 429 or limited:  # noqa: PLR2004  # a status says more than a name for it
        return AttemptFailed(Kind.LIMITED, said, retry_after, passing=retry_after is not None)
    if status == 407:  # noqa: PLR2004
        return AttemptFailed(Kind.UNREACHABLE, "the proxy asks for a user and a password (407)", retry_after)
    # 501 says what the engine never does, such as vectors, and nothing about how it is.
    counts = Failure.SERVER_ERROR if status >= 500 and status != 501 else None  # noqa: PLR2004
    kind = Kind.UNREACHABLE if status == 503 else Kind.FAILED  # noqa: PLR2004
    dying = counts is not None and is_dying(message)
    return AttemptFailed(kind, said, retry_after, counts=counts, passing=dying or status in _PASSING, lost=dying)


def failed_exchange(error: UpstreamError) -> AttemptFailed:
    """The exchange with the upstream broke."""
    match error:
        case ConnectFailed():
            counts = Failure.REFUSED if error.refused else Failure.UNREACHABLE
            return AttemptFailed(Kind.UNREACHABLE, str(error), counts=counts, lost=error.gone, sent=error.after_stale)
        case Truncated():
            return AttemptFailed(Kind.FAILED, str(error), counts=Failure.RESET, passing=True, lost=True)
        case ProtocolViolation():
            return AttemptFailed(Kind.FAILED, str(error), counts=Failure.BAD_ANSWER)
        case BodyTooLarge():
            return AttemptFailed(Kind.FAILED, str(error))
        case _:
            return AttemptFailed(Kind.FAILED, str(error), counts=Failure.RESET, lost=True)


def unknown_model(decision: Decision) -> ApiError:
    """404, with the nearest names."""
    message = f"Model {_shown(decision)} not found"
    if decision.nearest:
        message += f"; the nearest names are {', '.join(decision.nearest)}"
    return ApiError(404, message, code="model_not_found", param="model")


def not_spoken(decision: Decision) -> ApiError:
    """501: nobody who serves the model speaks the endpoint; with the names of models that could serve it."""
    instead = decision.instead or ()
    others = f"models that do are {', '.join(instead)}" if instead else "no model of this gateway does"
    reasons = "; ".join(f"{found.backend}: {found.reason}" for found in decision.candidates)
    message = f"{_shown(decision)} does not do {decision.endpoint} ({reasons}); {others}"
    return ApiError(501, message, param="model")


def unable(decision: Decision, needs: Iterable[str]) -> ApiError:
    """400: those who serve the model lack what the request needs, so no later time will help."""
    wanted = " and ".join(sorted(needs))
    return ApiError(400, f"no provider of {_shown(decision)} has {wanted}: {_story(decision, ())}", param="model")


def foreign_backend(decision: Decision, backend: str) -> ApiError:
    """400: the client wants a backend that has nothing to do with the model."""
    choices = ", ".join(dict.fromkeys(candidate.backend for candidate in decision.candidates))
    message = f"x-aigw-backend names {backend[:_LONGEST_NAME]!r}, which does not serve {_shown(decision)}"
    return ApiError(400, f"{message}; choose from {choices}", code="invalid_header", param="x-aigw-backend")


def spent(decision: Decision, met: Sequence[Met], why: str | None = None, *, later: bool = False) -> ApiError:
    """Every candidate was tried or skipped; or no more may be, and ``why``. ``later``: more may be in a while."""
    story, name = _story(decision, met), _shown(decision)
    if why is not None:
        story += f"; {why}"
    kinds = {failure.kind for _, failure in met}
    waits = [failure.retry_after for _, failure in met if failure.retry_after is not None]
    # Rounded up, as the header is whole seconds: a client that comes too early would be refused again.
    retry_after = math.ceil(min(waits)) if waits else RETRY_AFTER_SECONDS
    if Kind.FAILED in kinds:
        again = later or may_recover(decision, met)
        message = f"every provider of {name} failed: {story}"
        return ApiError(500, message, retry_after=retry_after if again else None, should_retry=again)
    if Kind.TIMED_OUT in kinds:
        return ApiError(504, f"no provider of {name} answered in time: {story}", should_retry=False)
    if kinds == {Kind.LIMITED}:
        return ApiError(429, f"every provider of {name} is full or limited: {story}", retry_after=retry_after)
    return ApiError(503, f"no provider of {name} can be reached: {story}", retry_after=retry_after)


def may_recover(decision: Decision, met: Sequence[Met]) -> bool:
    """Whether another try can help (rule B6): some candidate's last word says nothing against this very request.

    It could not be reached, had no room, or its process died and comes back. Where all have answered with a failure, or
    broke off each time they were asked, asking again would end the same way.
    """
    last = dict(met).values()
    waited_for = any(candidate.returning for candidate in decision.candidates)
    return waited_for or any(each.lost or each.kind in {Kind.UNREACHABLE, Kind.LIMITED} for each in last)


def likely_killer(decision: Decision, backend: str, met: Sequence[Met]) -> ApiError:
    """500: the same engine died twice with the request in flight, so the request is the likely cause."""
    message = f"{backend} died twice while it was answering this request for {_shown(decision)}, "
    message += f"so the request is the likely cause and is not tried again: {_story(decision, met)}"
    return ApiError(500, message, code=ENGINE_DIED, should_retry=False)


def out_of_time(seconds: float, decision: Decision | None, met: Sequence[Met]) -> ApiError:
    """The one deadline of a request passed."""
    message = f"there was no answer within {seconds:g} s"
    if decision is not None and (story := _story(decision, met)):
        message += f": {story}"
    return ApiError(504, message, should_retry=False)


def _shown(decision: Decision) -> str:
    return repr(decision.model[:_LONGEST_NAME])


def _story(decision: Decision, met: Sequence[Met]) -> str:
    tried = [f"{name}: {failure.detail}" for name, failure in met]
    skipped = [
        f"{found.backend}: {found.reason}" for found in decision.candidates if found.readiness != Readiness.READY
    ]
    return "; ".join(tried + skipped)
