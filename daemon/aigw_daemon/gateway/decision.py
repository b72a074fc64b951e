"""The words of routing: what is asked, under which conditions, and what is decided, with a reason for every target."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from aigw_daemon.link.messages import CHAT, ParamsView

NOBODY: Final = "-"
"""Stands for the backend of a model that no backend lists; no backend can have this name."""


class Readiness(StrEnum):
    """Whether a candidate can answer now, can be waited for, or neither."""

    READY = "ready"
    COLD = "cold"
    SKIPPED = "skipped"


class Ask(msgspec.Struct, frozen=True):
    """What a request asks for, as far as it decides who can answer."""

    model: str
    endpoint: str = CHAT
    """One of `ENDPOINTS`."""
    needs: frozenset[str] = frozenset()
    """Of vision and tools."""
    tokens: int = 0
    """Of the prompt, at least; 0 when nobody has counted."""


class Conditions(msgspec.Struct, frozen=True):
    """What is known at this moment beside the snapshot, by the name of the backend."""

    assume_down: frozenset[str] = frozenset()
    """Treat these as down."""
    broken: Mapping[str, str] = {}
    """Their circuit is open, with the reason (rule B7)."""
    in_flight: Mapping[str, int] = {}
    """Requests that they are answering."""
    waiting: Mapping[str, int] = {}
    """Requests that wait for a place at them."""


CALM: Final = Conditions()
"""Nothing beside the snapshot. Pass this very object where that is so: decisions under it are kept."""


class Candidate(msgspec.Struct, frozen=True):
    """A target that was considered. ``reason`` says why it was kept or skipped, in a few words."""

    backend: str
    model: str
    readiness: Readiness
    reason: str
    fallback: bool = False
    """Whether it comes from the profile's fallback rather than the route."""
    weight: int = 1
    """Its share, see `balance.ordered`."""
    fit: bool = True
    """Whether it could answer such a request at all, as far as is known, however its backend stands."""
    returning: bool = False
    """Whether it is skipped only while aigw replaces its process: waited for when nobody else answers."""

    @property
    def kept(self) -> bool:
        """Whether it may be tried."""
        return self.readiness is not Readiness.SKIPPED


class Decision(msgspec.Struct, frozen=True):
    """What a name resolves to; ``matched`` is None for an unknown name."""

    model: str
    matched: str | None
    """How the name was found: route, alias, direct, listed, cloud, pattern or capability."""
    route: str | None
    """The route's name, where a route matched."""
    candidates: tuple[Candidate, ...]
    cold: str = "wait"
    """While a candidate starts: wait for it, bridge with the next, or reject."""
    nearest: tuple[str, ...] = ()
    """Names that are near an unknown one."""
    endpoint: str = CHAT
    overflow: str = "queue"
    """While a candidate's places are taken: queue for one, or spill over to the next."""
    balance: str = "order"
    """Among the route's own targets that serve: order, least_busy or weighted. See `balance.ordered`."""
    params: ParamsView | None = None
    """What is done to the request's fields. See `parameters.apply`."""
    on_context_overflow: tuple[Candidate, ...] = ()
    """Who is asked when the engine says that the prompt is too long."""
    instead: tuple[str, ...] | None = None
    """Set when no candidate speaks the endpoint (501): names of models that do, perhaps none."""
    first_token_timeout: float | None = None
    """Seconds, in place of each backend's; None: the backend's."""
    request_timeout: float | None = None
    """Seconds, in place of the gateway's; None: the gateway's."""
    cache: str | None = None
    """Which answers are kept: on, deterministic or off; None: as the cache's mode says."""
    cache_ttl: float | None = None
    """Seconds that they are kept; None: the cache's."""

    @property
    def kept(self) -> tuple[Candidate, ...]:
        """The candidates that may be tried, in order."""
        return tuple(candidate for candidate in self.candidates if candidate.kept)

    @property
    def returning(self) -> tuple[Candidate, ...]:
        """The candidates that may be waited for when no other is left, in order."""
        return tuple(candidate for candidate in self.candidates if candidate.returning)
