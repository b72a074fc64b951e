"""Asks candidates in order until one answers; nothing has reached the client yet, so any failure may fall back.

One attempt ends in an answer, in `AttemptFailed` (the next candidate may try) or in `ApiError` (the client's fault:
nobody else is asked). Cancelling closes the upstream connection at once (rule B12).
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from time import perf_counter
from typing import NoReturn

import msgspec

from aigw_daemon.gateway.answers import decode_answer
from aigw_daemon.gateway.call import Call
from aigw_daemon.gateway.failures import AttemptFailed, Kind, failed_status, is_clients_fault, spent, unknown_model
from aigw_daemon.gateway.live import Hop, Live, Plan
from aigw_daemon.gateway.reporter import Flow, Reporter
from aigw_daemon.gateway.requests import Facts, rewritten
from aigw_daemon.gateway.routing import Candidate, Readiness
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


class Whole(msgspec.Struct):
    """A complete answer."""

    hop: Hop
    flow: Flow
    body: bytes
    content_type: bytes


class Streamed(msgspec.Struct):
    """A stream that has begun: its first events, and where the rest comes from."""

    hop: Hop
    flow: Flow
    response: Response
    scan: StreamScan
    first: bytes


class Chain:
    """The candidates of a request, asked one after the other."""

    def __init__(self, live: Live, upstream: Upstream, reporter: Reporter, send: Callable[[Up], None]) -> None:
        self._live = live
        self._upstream = upstream
        self._reporter = reporter
        self._send = send

    async def answer(self, call: Call, facts: Facts, body: bytes) -> Whole | Streamed:
        """The first answer that some candidate gives; its backend stays counted as in flight until `leave`.

        Raises ApiError when there is none. A cold candidate is demanded; then its route's policy says whether to wait
        for it, to bridge with the next one meanwhile (and wait only when no other is left), or to reject.
        """
        failed: list[Candidate] = []
        while True:
            plan = self._plan(call, facts.model)
            cold: Hop | None = None
            for hop in plan.hops:
                if hop.candidate.readiness is Readiness.COLD:
                    self._demand(hop)
                    cold = cold or hop
                    if plan.decision.cold == "wait":
                        break
                elif hop.candidate not in failed:
                    try:
                        return await self._attempt(call, hop, facts, body)
                    except AttemptFailed as failure:
                        failed.append(hop.candidate)
                        call.met.append((hop.candidate.backend, failure))
            if cold is None or plan.decision.cold == "reject":
                raise spent(plan.decision, call.met)
            await self._next_snapshot(call)

    def leave(self, answer: Whole | Streamed) -> None:
        """The answer has been given, or can't be: the backend is free of it."""
        if isinstance(answer, Streamed):
            answer.response.close()
        self._reporter.leave(answer.flow)

    def _plan(self, call: Call, model: str) -> Plan:
        plan = self._live.plan(call.endpoint, model)
        if plan is None:
            raise ApiError(503, "the gateway has not heard from its daemon yet", retry_after=1)
        if not plan.decision.candidates:
            raise unknown_model(plan.decision)
        call.decision = plan.decision
        return plan

    async def _attempt(self, call: Call, hop: Hop, facts: Facts, body: bytes) -> Whole | Streamed:
        add_usage = facts.stream is True and not facts.usage_asked
        if add_usage or hop.candidate.model != facts.model:
            body = await rewritten(body, facts, hop.candidate.model, add_usage=add_usage)
        flow = self._reporter.enter(hop.candidate.backend)
        began = call.begin_attempt(hop)
        try:
            return await self._ask(call, hop, flow, facts, body, add_usage=add_usage)
        except UpstreamError as error:
            self._reporter.leave(flow)
            kind = Kind.UNREACHABLE if isinstance(error, ConnectFailed) else Kind.FAILED
            raise AttemptFailed(kind, str(error)) from error
        except BaseException:
            self._reporter.leave(flow)
            raise
        finally:
            call.end_wait(began)

    async def _ask(
        self, call: Call, hop: Hop, flow: Flow, facts: Facts, body: bytes, *, add_usage: bool
    ) -> Whole | Streamed:
        response = await self._upstream.request(hop.address, hop.request_head, body)
        call.first_byte()
        flow.relayed += 1
        try:
            if response.status != HTTPStatus.OK:
                await _refuse(hop, response)
            if facts.stream and response.content_type == STREAM_TYPE:
                return await _begin_stream(hop, flow, response, StreamScan(drop_usage=add_usage, choices=facts.n or 1))
            return await _read_whole(call, hop, flow, response)
        except BaseException:
            response.close()
            raise

    def _demand(self, hop: Hop) -> None:
        if self._live.needs_start(hop.candidate.backend):
            self._send(Demand(hop.candidate.backend, hop.candidate.model))

    async def _next_snapshot(self, call: Call) -> None:
        """Wait for a change, or as long as a demand is believed to be on its way."""
        began = perf_counter()
        try:
            async with asyncio.timeout(REPEAT_DEMAND_SECONDS):
                await self._live.changed()
        except TimeoutError:
            pass  # the caller looks again, and demands once more
        finally:
            call.end_wait(began)


async def _refuse(hop: Hop, response: Response) -> NoReturn:
    said = _said(hop, await response.read(MAX_ERROR_BYTES))
    if is_clients_fault(response.status):
        raise relayed_error(response.status, said)
    retry_after = (response.header(b"retry-after") or b"").decode("latin-1")
    raise failed_status(response.status, said.message, retry_after)


def _said(hop: Hop, body: bytes) -> Said:
    return Said(*(hop.redacted(part) for part in upstream_error(body)))


async def _read_whole(call: Call, hop: Hop, flow: Flow, response: Response) -> Whole:
    content = response.body_if_complete()
    if content is None:
        content = await response.read(MAX_ANSWER_BYTES)
    _check_whole(call, hop, content)
    return Whole(hop, flow, content, response.header(b"content-type") or b"application/json")


async def _begin_stream(hop: Hop, flow: Flow, response: Response, scan: StreamScan) -> Streamed:
    """Read up to the first event with data, so that an error in its place can still fall back (rule B2)."""
    first = b""
    while not scan.begun:
        chunk = await response.chunk()
        if chunk is None:
            break
        flow.relayed += 1
        first += scan.feed(chunk)
        if scan.error is not None:
            break
    if scan.begun:
        return Streamed(hop, flow, response, scan, first)
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
    if answer.is_error:
        raise AttemptFailed(Kind.FAILED, f"its answer is an error: {_said(hop, content).message}")
    call.usage = answer.usage
    call.finish_reason = answer.finish_reason
