"""Asks candidates in order until one answers; nothing has reached the client yet, so any failure may fall back.

One attempt ends in an answer, in `AttemptFailed` (the next candidate may try) or in `ApiError` (the client's fault:
nobody else is asked). Cancelling closes the upstream connection at once (rule B12).
"""

import asyncio
from collections.abc import Callable
from typing import NoReturn

import msgspec

from aigw_daemon.gateway.answers import decode_answer
from aigw_daemon.gateway.call import Call
from aigw_daemon.gateway.failures import AttemptFailed, Kind, failed_status, is_clients_fault, spent, unknown_model
from aigw_daemon.gateway.live import Hop, Live, Plan
from aigw_daemon.gateway.reporter import Reporter
from aigw_daemon.gateway.requests import Facts, rewritten
from aigw_daemon.gateway.routing import Candidate
from aigw_daemon.gateway.streaming import StreamScan
from aigw_daemon.gateway.upstream.base import ConnectFailed, Response, Upstream, UpstreamError
from aigw_daemon.gateway.wire import BAD_JSON, ApiError, Said, relayed_error, upstream_error
from aigw_daemon.link.messages import Demand, Up

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A whole answer is held until it is complete, so that a truncated one can still fall back."""
MAX_ERROR_BYTES = 256 * 1024
REPEAT_DEMAND_SECONDS = 5.0
"""A demand may be lost with a daemon that dies; it is repeated while the backend stays down."""
STREAM_TYPE = b"text/event-stream"

_OK = 200
# A number, and booleans in the hop: looking up a member of an enum costs more than the comparison (Python 3.11).


class Whole(msgspec.Struct):
    """A complete answer."""

    hop: Hop
    body: bytes
    content_type: bytes


class Streamed(msgspec.Struct):
    """A stream that has begun: its first events, and where the rest comes from."""

    hop: Hop
    response: Response
    scan: StreamScan
    first: bytes

    def close(self) -> None:
        """The stream has been passed on, or can't be: the backend is free of it."""
        self.response.close()
        self.hop.flow.in_flight -= 1


class Chain:
    """The candidates of a request, asked one after the other."""

    def __init__(self, live: Live, upstream: Upstream, reporter: Reporter, send: Callable[[Up], None]) -> None:
        self._live = live
        self._upstream = upstream
        self._reporter = reporter
        self._send = send

    async def answer(self, call: Call, facts: Facts, body: bytes) -> Whole | Streamed:
        """The first answer that some candidate gives; a stream keeps its backend busy until `Streamed.close`.

        Raises ApiError when there is none. A cold candidate is demanded; then its route's policy says whether to wait
        for it, to bridge with the next one meanwhile (and wait only when no other is left), or to reject.
        """
        failed: list[Candidate] = []
        while True:
            plan = self._live.plans.get((call.endpoint, facts.model)) or self._plan(call, facts.model)
            call.decision = plan.decision
            cold: Hop | None = None
            for hop in plan.hops:
                if hop.cold:
                    self._demand(hop)
                    cold = cold or hop
                    if plan.decision.cold == "wait":
                        break
                elif hop.candidate not in failed:
                    try:
                        return await self._ask(call, hop, facts, body)
                    except AttemptFailed as failure:
                        failed.append(hop.candidate)
                        call.met += ((hop.candidate.backend, failure),)
            if cold is None or plan.decision.cold == "reject":
                raise spent(plan.decision, call.met)
            await self._next_snapshot(call)

    def _plan(self, call: Call, model: str) -> Plan:
        plan = self._live.plan(call.endpoint, model)
        if plan is None:
            raise ApiError(503, "the gateway has not heard from its daemon yet", retry_after=1)
        if not plan.decision.candidates:
            raise unknown_model(plan.decision)
        return plan

    async def _ask(self, call: Call, hop: Hop, facts: Facts, body: bytes) -> Whole | Streamed:
        """One attempt, in one coroutine: each further one would cost every request as much as a parsed header."""
        add_usage = facts.stream is True and not facts.usage_asked
        if add_usage or hop.candidate.model != facts.model:
            body = await rewritten(body, facts, hop.candidate.model, add_usage=add_usage)
        flow = hop.flow
        flow.in_flight += 1
        if self._reporter.asleep:
            self._reporter.stir()
        call.ask(hop)
        response: Response | None = None
        try:
            response = await self._upstream.request(hop.address, hop.request_head, body)
            call.first_byte()
            flow.relayed += 1
            if response.status != _OK:
                await _refuse(hop, response)
            if facts.stream and response.content_type == STREAM_TYPE:
                return await _begin_stream(call, hop, response, StreamScan(drop_usage=add_usage, choices=facts.n or 1))
            content = response.body_if_complete()
            if content is None:
                content = await response.read(MAX_ANSWER_BYTES)
                call.end_wait()
            _check_whole(call, hop, content)
        except BaseException as error:
            call.end_wait()
            flow.in_flight -= 1
            if response is not None:
                response.close()
            if isinstance(error, UpstreamError):
                kind = Kind.UNREACHABLE if isinstance(error, ConnectFailed) else Kind.FAILED
                raise AttemptFailed(kind, str(error)) from error
            raise
        flow.in_flight -= 1
        return Whole(hop, content, response.header(b"content-type") or b"application/json")

    def _demand(self, hop: Hop) -> None:
        if self._live.needs_start(hop.candidate.backend):
            self._send(Demand(hop.candidate.backend, hop.candidate.model))

    async def _next_snapshot(self, call: Call) -> None:
        """Wait for a change, or as long as a demand is believed to be on its way."""
        call.begin_wait()
        try:
            async with asyncio.timeout(REPEAT_DEMAND_SECONDS):
                await self._live.changed()
        except TimeoutError:
            pass  # the caller looks again, and demands once more
        finally:
            call.end_wait()


async def _refuse(hop: Hop, response: Response) -> NoReturn:
    said = _said(hop, await response.read(MAX_ERROR_BYTES))
    if is_clients_fault(response.status):
        raise relayed_error(response.status, said)
    retry_after = (response.header(b"retry-after") or b"").decode("latin-1")
    raise failed_status(response.status, said.message, retry_after)


def _said(hop: Hop, body: bytes) -> Said:
    return Said(*(hop.redacted(part) for part in upstream_error(body)))


async def _begin_stream(call: Call, hop: Hop, response: Response, scan: StreamScan) -> Streamed:
    """Read up to the first event with data, so that an error in its place can still fall back (rule B2)."""
    first = b""
    while not scan.begun:
        chunk = await response.chunk()
        if chunk is None:
            break
        hop.flow.relayed += 1
        first += scan.feed(chunk)
        if scan.error is not None:
            break
    call.end_wait()
    if scan.begun:
        return Streamed(hop, response, scan, first)
    if scan.error is not None:
        raise AttemptFailed(Kind.FAILED, f"its stream began with an error: {hop.redacted(scan.error)}")
    raise AttemptFailed(Kind.FAILED, "its stream ended without an answer")


def _check_whole(call: Call, hop: Hop, content: bytes) -> None:
    """An empty answer or an error inside a 200 is a failure (rule B2); what else it says is noted."""
    try:
        answer = decode_answer(content)
    except BAD_JSON as error:
        what = "is empty" if not content.strip() else f"is not an answer ({error})"
        raise AttemptFailed(Kind.FAILED, f"its answer {what}") from error
    if answer.error is not None:
        raise AttemptFailed(Kind.FAILED, f"its answer is an error: {_said(hop, content).message}")
    call.usage = answer.usage
    for choice in answer.choices or ():
        call.finish_reason = call.finish_reason or choice.finish_reason
