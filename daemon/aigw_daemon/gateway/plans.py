"""A decision made ready to be asked: addresses, finished request heads, finished header lines of answers. Pure.

It holds everything that doesn't change between two requests for the same model, so that a request only looks it up.
"""

import sys
from collections.abc import Iterable

import msgspec

from aigw_daemon.gateway.admission import Lane
from aigw_daemon.gateway.breaker import Breaker
from aigw_daemon.gateway.cache.key import KeySpace
from aigw_daemon.gateway.cache.policy import Terms, usual_terms
from aigw_daemon.gateway.needs import room
from aigw_daemon.gateway.requests import COUNTED_BYTES
from aigw_daemon.gateway.routing import Candidate, Decision, Readiness, RoutingTable
from aigw_daemon.gateway.standing import Standings
from aigw_daemon.gateway.upstream.base import Address, request_head
from aigw_daemon.gateway.usage_support import UsageSupport
from aigw_daemon.gateway.wire import NO_STORE, header, status_line
from aigw_daemon.link.messages import ENDPOINTS, BackendView, CacheView, ParamsView, Secret
from aigw_daemon.network.dialing import proxy_authorization
from aigw_daemon.version import AIGW_VERSION

_OK = status_line(200)
_JSON_TYPE = b"application/json"


class Hop(msgspec.Struct, frozen=True):
    """A kept candidate with all that asking it takes."""

    candidate: Candidate
    model: str
    """Its name there."""
    params: ParamsView | None
    """What the route does to a request's fields."""
    as_it_is: str | None
    """The model's name in a request that can be passed on unchanged; None where the route changes each."""
    cold: bool
    """Whether it must start first, or come back."""
    pid: int | None
    """Of the process that is asked; None while it is cold, and for one that aigw doesn't run."""
    lane: Lane
    breaker: Breaker
    usage: UsageSupport
    address: Address
    request_head: bytes
    answer_lines: bytes
    """Header lines of every answer that this hop gives."""
    plain_head: bytes
    """The head of the usual answer, finished: JSON, at the first attempt."""
    secret: Secret | None
    first_token_timeout: float | None
    gap_timeout: float | None
    cold_timeout: float
    space: KeySpace
    """Under which its own answers are kept."""

    def answer_head(self, content_type: bytes, attempts: int) -> bytes:
        """Status line and header lines of a 200 that this hop gives."""
        if attempts == 1 and content_type == _JSON_TYPE:
            return self.plain_head
        return _answer_head(content_type, self.answer_lines, attempts)

    def redacted(self, text: str | None) -> str | None:
        """What its engine says, without the key that some repeat in their errors (rule S12)."""
        return text.replace(self.secret.value, "***") if text and self.secret and self.secret.value else text


class Caching(msgspec.Struct, frozen=True):
    """What the cache may do for the requests of a plan."""

    usual: Terms
    """For a request that asks for nothing special."""
    deterministic: bool
    """Whether only requests count that would be answered the same again."""
    space: KeySpace
    """Of the first configured candidate that is able to, whether it can answer now or not: a hit wakes nobody."""


class Plan(msgspec.Struct, frozen=True):
    """A decision, and its kept candidates made ready to be asked."""

    decision: Decision
    hops: tuple[Hop, ...]
    overflow: tuple[Hop, ...]
    """Who is asked when the engine says that the prompt is too long."""
    returning: tuple[Hop, ...]
    """Who of the usual candidates is waited for when no other answers: aigw is replacing its process."""
    overflow_returning: tuple[Hop, ...]
    """The same of those for long prompts."""
    first: Hop | None
    """The one to ask without further thought: ready, first whatever the load, the request's fields left alone."""
    caching: Caching | None
    """None where answers are not kept."""
    room: int
    """Size in bytes up to which any body's prompt fits every candidate's context."""
    epoch: int
    """When it was made: in a later one it is out of date."""

    @property
    def deserted(self) -> bool:
        """Whether nobody can answer, and nobody is on the way."""
        return not (self.hops or self.overflow or self.returning or self.overflow_returning)


def compile_plan(table: RoutingTable, standings: Standings, decision: Decision, cache: CacheView, epoch: int) -> Plan:
    """Everything that asking the kept candidates of a decision takes."""

    def hops_of(candidates: Iterable[Candidate]) -> tuple[Hop, ...]:
        return tuple(_hop(table, standings, decision, candidate, cache) for candidate in candidates)

    hops, longer = hops_of(decision.kept), decision.on_context_overflow
    plain = hops and not hops[0].cold and decision.balance == "order" and decision.params is None
    # A deadline of the route's own is a walk's to set.
    plain = plain and decision.request_timeout is None
    return Plan(
        decision=decision,
        hops=hops,
        overflow=hops_of(candidate for candidate in longer if candidate.kept),
        returning=hops_of(decision.returning),
        overflow_returning=hops_of(candidate for candidate in longer if candidate.returning),
        first=hops[0] if plain else None,
        caching=_caching(table, decision, cache),
        room=_room(table, decision),
        epoch=epoch,
    )


def _room(table: RoutingTable, decision: Decision) -> int:
    views = map(table.view, decision.candidates)
    contexts = [view.context for view in views if view is not None and view.context is not None]
    return max(COUNTED_BYTES, room(decision.endpoint, min(contexts))) if contexts else sys.maxsize


def _caching(table: RoutingTable, decision: Decision, cache: CacheView) -> Caching | None:
    mode = decision.cache or cache.mode
    if mode == "off" or not decision.candidates:
        return None
    ttl = decision.cache_ttl if decision.cache_ttl is not None else cache.ttl
    first = next((candidate for candidate in decision.candidates if candidate.fit), decision.candidates[0])
    return Caching(usual_terms(ttl), mode == "deterministic", _space(table, decision, first, cache))


def _space(table: RoutingTable, decision: Decision, candidate: Candidate, cache: CacheView) -> KeySpace:
    view, backend = table.view(candidate), table.backends.get(candidate.backend)
    return KeySpace(
        decision.endpoint,
        candidate.backend,
        candidate.model,
        view.digest if view is not None else None,
        revision=backend.revision if backend is not None else "",
        split_by=cache.split_by,
        params=decision.params,
    )


def _hop(table: RoutingTable, standings: Standings, decision: Decision, candidate: Candidate, cache: CacheView) -> Hop:
    backend = table.backends[candidate.backend]
    address = Address(backend.host, backend.port, backend.tls, backend.egress)
    path = upstream_path(backend.base_path, decision.endpoint)
    if address.is_forwarded:
        path = f"http://{address.authority}{path}"
    lines = header("x-aigw-backend", backend.name) + header("x-aigw-model", candidate.model)
    lines = NO_STORE + lines
    return Hop(
        candidate=candidate,
        model=candidate.model,
        params=decision.params,
        as_it_is=candidate.model if decision.params is None else None,
        cold=candidate.readiness is not Readiness.READY,
        pid=backend.pid if candidate.readiness is Readiness.READY else None,
        lane=standings.lane(backend.name),
        breaker=standings.breaker(backend.name),
        usage=standings.usage(backend.name),
        address=address,
        request_head=request_head("POST", path, address.authority, _headers(backend, address)),
        answer_lines=lines,
        plain_head=_answer_head(_JSON_TYPE, lines, 1),
        secret=backend.api_key,
        first_token_timeout=decision.first_token_timeout or backend.first_token_timeout,
        gap_timeout=backend.gap_timeout,
        cold_timeout=backend.cold_timeout,
        space=_space(table, decision, candidate, cache),
    )


def upstream_path(base_path: str, endpoint: str) -> str:
    """The path on the engine. Raises ValueError for one that isn't allowed (rule S4)."""
    if endpoint not in ENDPOINTS:
        raise ValueError(f"{endpoint!r} is not an upstream path; the paths are {', '.join(sorted(ENDPOINTS))}")
    return f"{base_path.rstrip('/')}/{endpoint}"


def _answer_head(content_type: bytes, lines: bytes, attempts: int) -> bytes:
    return b"%bcontent-type: %b\r\n%bx-aigw-attempts: %d\r\n" % (_OK, content_type, lines, attempts)


def _headers(backend: BackendView, address: Address) -> list[tuple[str, str]]:
    """Ours alone: nothing of the client's headers goes upstream, least of all its Authorization (rule S11)."""
    headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "identity"),
        ("user-agent", f"aigw/{AIGW_VERSION}"),
    ]
    if backend.api_key is not None:
        headers.append(("authorization", f"Bearer {backend.api_key.value}"))
    proxy = backend.egress.proxy
    if address.is_forwarded and proxy is not None and (credentials := proxy_authorization(proxy)) is not None:
        headers.append(("proxy-authorization", credentials))
    return headers
