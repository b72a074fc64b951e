"""The words that every part of aigw shares: states of a backend, kinds of engine, the mark of a regular expression.

One table for the code, the status, the metrics and the documentation. Nothing but words lives here, so every layer
may import it.
"""

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a backend stands. Adopting counts as ``starting``, killing as ``stopping``."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    SLEEPING = "sleeping"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


def in_words(state: str) -> str:
    """A state as the verb of a sentence: ``has failed``, ``is in backoff``, ``is unreachable``."""
    match state:
        case State.FAILED:
            return "has failed"
        case State.BACKOFF:
            return "is in backoff"
        case _:
            return f"is {state}"


SERVING: frozenset[State] = frozenset({State.READY, State.DEGRADED})
"""States in which a backend takes requests."""


class EngineKind(StrEnum):
    """A kind of backend."""

    OLLAMA = "ollama"
    VLLM = "vllm"
    LLAMACPP = "llamacpp"
    OPENAI = "openai"
    COMMAND = "command"
    REDIS = "redis"
    """The one that aigw runs for its cache; no profile declares it, and nothing is routed to it."""


GATEWAY: Final = "gateway"
"""The gateway worker's name, beside those of backends: of its process and its log."""

REGEX_MARK: Final = "~"
"""A route's name that starts with it is a regular expression for the whole name that is asked for."""
