"""The snapshot that the worker routes on now, compiled for the hot path.

A plan per model holds everything that doesn't change between two requests: addresses, finished request heads, finished
header lines of answers. A new snapshot throws all plans away.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from aigw_daemon.gateway.hosts import HostPolicy
from aigw_daemon.gateway.reporter import Flow
from aigw_daemon.gateway.routing import Candidate, Decision, Readiness, RoutingTable, resolve
from aigw_daemon.gateway.upstream.base import Address, request_head
from aigw_daemon.gateway.wire import NO_STORE, header, status_line
from aigw_daemon.link.messages import BackendView, GatewayView, Secret, Snapshot
from aigw_daemon.version import AIGW_VERSION
from aigw_daemon.words import State

CHAT: Final = "chat/completions"
COMPLETIONS: Final = "completions"
ENDPOINTS = frozenset({CHAT, COMPLETIONS})
"""The only upstream paths that are ever asked (rule S4), below the backend's base path."""

_OK = status_line(200)
_JSON_TYPE = b"application/json"
_PLANS_KEPT = 4_096
"""Clients choose names that a pattern matches, so there must be an end."""


class Hop(msgspec.Struct, frozen=True):
    """A kept candidate with all that asking it takes."""

    candidate: Candidate
    cold: bool
    """Whether it must start first."""
    flow: Flow
    address: Address
    request_head: bytes
    answer_lines: bytes
    """Header lines of every answer that this hop gives."""
    plain_head: bytes
    """The head of the usual answer, finished: JSON, at the first attempt."""
    secret: Secret | None

    def answer_head(self, content_type: bytes, attempts: int) -> bytes:
        """Status line and header lines of a 200 that this hop gives."""
        if attempts == 1 and content_type == _JSON_TYPE:
            return self.plain_head
        return _answer_head(content_type, self.answer_lines, attempts)

    def redacted(self, text: str | None) -> str | None:
        """What its engine says, without the key that some repeat in their errors (rule S12)."""
        return text.replace(self.secret.value, "***") if text and self.secret and self.secret.value else text


class Plan(msgspec.Struct, frozen=True):
    """A decision, and its kept candidates made ready to be asked."""

    decision: Decision
    hops: tuple[Hop, ...]


class Live:
    """Holds the present snapshot; everything derived from it is replaced with it."""

    def __init__(self, flow: Callable[[str], Flow]) -> None:
        self._flow = flow
        self.snapshot: Snapshot | None = None
        self.gateway = GatewayView()
        self.hosts = HostPolicy()
        self._table: RoutingTable | None = None
        self.plans: dict[tuple[str, str], Plan] = {}
        """Those made so far, by endpoint and model: a look that spares the call of `plan`."""
        self._changed: asyncio.Future[None] | None = None

    def replace(self, snapshot: Snapshot) -> None:
        """Route on this from now on, and wake whoever waits for a change."""
        gateway = snapshot.gateway
        if (gateway.allowed_hosts, gateway.cors_origins) != (self.gateway.allowed_hosts, self.gateway.cors_origins):
            self.hosts = HostPolicy(gateway.allowed_hosts, gateway.cors_origins)
        self.snapshot = snapshot
        self.gateway = gateway
        self._table = RoutingTable(snapshot)
        self.plans = {}
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None

    async def changed(self) -> None:
        """Wait for the next snapshot."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        # Shielded: one waiter that gives up must not cancel the others' future.
        await asyncio.shield(self._changed)

    @property
    def table(self) -> RoutingTable | None:
        """The compiled snapshot; None before the first."""
        return self._table

    def plan(self, endpoint: str, model: str) -> Plan | None:
        """How to answer ``model`` on ``endpoint``; None before the first snapshot."""
        if plan := self.plans.get((endpoint, model)):
            return plan
        if self._table is None:
            return None
        plan = self._compile(self._table, endpoint, resolve(self._table, model))
        if plan.decision.candidates:
            if len(self.plans) >= _PLANS_KEPT:
                self.plans.clear()
            self.plans[endpoint, model] = plan
        return plan

    def needs_start(self, backend: str) -> bool:
        """Whether somebody must ask for this backend before it comes."""
        view = self._table.backends.get(backend) if self._table is not None else None
        return view is not None and view.state in {State.STOPPED, State.SLEEPING}

    def _compile(self, table: RoutingTable, endpoint: str, decision: Decision) -> Plan:
        return Plan(decision, tuple(self._hop(table, endpoint, candidate) for candidate in decision.kept))

    def _hop(self, table: RoutingTable, endpoint: str, candidate: Candidate) -> Hop:
        backend = table.backends[candidate.backend]
        address = Address(backend.host, backend.port, backend.tls)
        path = upstream_path(backend.base_path, endpoint)
        lines = header("x-aigw-backend", backend.name) + header("x-aigw-model", candidate.model)
        lines = NO_STORE + lines + b"x-aigw-cache: off\r\n"
        return Hop(
            candidate=candidate,
            cold=candidate.readiness is Readiness.COLD,
            flow=self._flow(backend.name),
            address=address,
            request_head=request_head("POST", path, address.authority, _headers(backend)),
            answer_lines=lines,
            plain_head=_answer_head(_JSON_TYPE, lines, 1),
            secret=backend.api_key,
        )


def upstream_path(base_path: str, endpoint: str) -> str:
    """The path on the engine. Raises ValueError for one that isn't allowed (rule S4)."""
    if endpoint not in ENDPOINTS:
        raise ValueError(f"{endpoint!r} is not an upstream path; the paths are {', '.join(sorted(ENDPOINTS))}")
    return f"{base_path.rstrip('/')}/{endpoint}"


def _answer_head(content_type: bytes, lines: bytes, attempts: int) -> bytes:
    return b"%bcontent-type: %b\r\n%bx-aigw-attempts: %d\r\n" % (_OK, content_type, lines, attempts)


def _headers(backend: BackendView) -> list[tuple[str, str]]:
    """Ours alone: nothing of the client's headers goes upstream, least of all its Authorization (rule S11)."""
    headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "identity"),
        ("user-agent", f"aigw/{AIGW_VERSION}"),
    ]
    if backend.api_key is not None:
        headers.append(("authorization", f"Bearer {backend.api_key.value}"))
    return headers
