"""The hot routes: a chat or completion request from its body to the last byte of its answer."""

import asyncio
from collections.abc import Callable

from aigw_daemon.gateway.attempt import STREAM_TYPE, Chain, Streamed
from aigw_daemon.gateway.call import CLIENT_LEFT_STATUS, Call
from aigw_daemon.gateway.failures import out_of_time
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.reporter import Flow, Reporter
from aigw_daemon.gateway.requests import THREAD_BYTES, parse_facts, read_facts
from aigw_daemon.gateway.server.exchange import Exchange, Interruption
from aigw_daemon.gateway.upstream.base import UpstreamError
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.link.messages import Started

_STREAM_LINES = b"x-accel-buffering: no\r\n"
"""Else a proxy in front holds events back."""


class Completions:
    """Answers one endpoint."""

    def __init__(
        self, endpoint: str, live: Live, chain: Chain, reporter: Reporter, request_id: Callable[[], bytes]
    ) -> None:
        self._endpoint = endpoint
        self._live = live
        self._chain = chain
        self._reporter = reporter
        self._request_id = request_id

    async def __call__(self, exchange: Exchange) -> None:
        """Answer, and leave a record of it on every path."""
        call = Call(self._request_id(), self._endpoint, exchange.client)
        try:
            body = exchange.body
            facts = parse_facts(body) if len(body) <= THREAD_BYTES else await read_facts(body)
            call.model = facts.model
            call.stream = facts.stream is True
            if self._reporter.tailing:
                self._reporter.started(Started(call.id.decode(), call.at, call.model, None, call.endpoint))
            answer = await self._chain.answer(call, facts, body)
            if isinstance(answer, Streamed):
                await _relay(exchange, call, answer)
            else:
                exchange.respond(call.answer_head(answer.content_type, answer.hop), answer.body)
        except ApiError as error:
            _fail(exchange, call, error)
        except asyncio.CancelledError:
            if exchange.interruption is None:
                raise
            self._interrupted(exchange, call, exchange.interruption)
        finally:
            self._reporter.finish(call)

    def _interrupted(self, exchange: Exchange, call: Call, reason: Interruption) -> None:
        match reason:
            case Interruption.CLIENT_LEFT | Interruption.STALLED:
                call.status = call.status or CLIENT_LEFT_STATUS
                call.error = f"client_left: {reason}"
                exchange.abort()
            case Interruption.DEADLINE:
                _fail(exchange, call, out_of_time(self._live.gateway.request_timeout, call.decision, call.met))
            case Interruption.SHUTDOWN:
                _fail(exchange, call, ApiError(503, "the gateway is shutting down", retry_after=1))


async def _relay(exchange: Exchange, call: Call, answer: Streamed) -> None:
    """Pass the stream on as it arrives. After its first byte nothing falls back: it ends whole, or with one error."""
    scan, response, flow = answer.scan, answer.response, answer.hop.flow
    cut: str | None = None
    try:
        exchange.start(call.answer_head(STREAM_TYPE, answer.hop) + _STREAM_LINES)
        if answer.first:
            exchange.write(answer.first)
        while scan.error is None and (chunk := await response.chunk()) is not None:
            flow.relayed += 1
            if passed := scan.feed(chunk):
                exchange.write(passed)
            if exchange.write_paused:
                await _until_taken(exchange, flow)
        if rest := scan.end():
            exchange.write(rest)
    except UpstreamError as error:
        cut = str(error)
    finally:
        answer.close()
        call.usage = scan.usage
        call.finish_reason = scan.finish_reason
    _end_stream(exchange, call, answer, cut)


async def _until_taken(exchange: Exchange, flow: Flow) -> None:
    """Wait for a slow client; the engine, which is held up by it, must not be taken for a hung one."""
    flow.held += 1
    try:
        await exchange.drain()
    finally:
        flow.held -= 1


def _end_stream(exchange: Exchange, call: Call, answer: Streamed, cut: str | None) -> None:
    """A stream is whole when every choice has finished, however the connection ended (rule B17)."""
    scan, hop, name = answer.scan, answer.hop, answer.hop.candidate.backend
    if scan.error is not None:
        _fail(exchange, call, ApiError(500, f"{name} failed in mid-stream: {hop.redacted(scan.error)}"))
    elif not scan.finished:
        detail = cut or "it ended without a finish_reason"
        _fail(exchange, call, ApiError(500, f"the stream of {name} was cut: {detail}", code="stream_cut"))
    else:
        exchange.finish()


def _fail(exchange: Exchange, call: Call, error: ApiError) -> None:
    """An error answer, or where a stream has begun, one error event and no ``[DONE]``."""
    call.error = error.summary()
    if exchange.streaming:
        exchange.write(error.event())
        exchange.finish()
    elif not exchange.complete:
        call.status = error.status
        exchange.respond(error.head() + call.own_lines(), error.body())
