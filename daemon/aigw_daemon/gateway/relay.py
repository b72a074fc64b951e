"""Passes a stream on as it arrives. After its first byte nothing falls back: it ends whole, or with one error event."""

import asyncio
from time import monotonic

from aigw_daemon.gateway.attempt import STREAM_LINES, STREAM_TYPE, Streamed
from aigw_daemon.gateway.call import Call
from aigw_daemon.gateway.server.exchange import Exchange
from aigw_daemon.gateway.upstream.base import Response, UpstreamError
from aigw_daemon.gateway.wire import ApiError


async def relay(call: Call, answer: Streamed) -> None:
    """Everything of a stream that has begun, to its end."""
    exchange, scan = call.exchange, answer.scan
    cut: str | None = None
    ended = False
    try:
        if not exchange.streaming:
            exchange.start(call.answer_head(STREAM_TYPE, answer.hop) + STREAM_LINES)
        if answer.first:
            exchange.write(answer.first)
        await _pump(exchange, answer)
        if rest := scan.end():
            exchange.write(rest)
        ended = True
    except UpstreamError as error:
        cut = str(error)
        ended = True
    finally:
        answer.close(cut=ended and not (scan.finished and scan.error is None))
        call.usage = scan.usage
        call.finish_reason = scan.finish_reason
    _end(call, answer, cut)


async def _pump(exchange: Exchange, answer: Streamed) -> None:
    gap = answer.hop.gap_timeout
    if gap is None:
        await _pass_on(exchange, answer, None)
        return
    watch = _GapWatch(exchange, answer.response, gap)
    try:
        await _pass_on(exchange, answer, watch)
    except UpstreamError as error:
        if watch.late:
            raise UpstreamError(f"nothing came for {gap:g} s") from error
        raise
    finally:
        watch.stop()


async def _pass_on(exchange: Exchange, answer: Streamed, watch: "_GapWatch | None") -> None:
    scan, response, lane = answer.scan, answer.response, answer.hop.lane
    while scan.error is None and (chunk := await response.chunk()) is not None:
        lane.relayed += 1
        if watch is not None:
            watch.last = monotonic()
        if passed := scan.feed(chunk):
            exchange.write(passed)
        if exchange.write_paused:
            await _until_taken(exchange, answer)


class _GapWatch:
    """Ends a stream in which nothing comes for too long. One timer that looks now and then: none for each piece."""

    def __init__(self, exchange: Exchange, response: Response, gap: float) -> None:
        self.last = monotonic()
        """When the last piece came."""
        self.late = False
        self._exchange = exchange
        self._response = response
        self._gap = gap
        self._timer = asyncio.get_running_loop().call_later(gap, self._look)

    def stop(self) -> None:
        """The stream is over."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._exchange.write_paused:
            # It is the client who holds it up.
            self.last = monotonic()
        left = self._gap - (monotonic() - self.last)
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._look)
        else:
            self.late = True
            self._response.close()


async def _until_taken(exchange: Exchange, answer: Streamed) -> None:
    """Wait for a slow client; the engine, which is held up by it, must not be taken for a hung one."""
    answer.hop.lane.held += 1
    try:
        await exchange.drain()
    finally:
        answer.hop.lane.held -= 1


def _end(call: Call, answer: Streamed, cut: str | None) -> None:
    """A stream is whole when every choice has finished, however the connection ended (rule B17)."""
    scan, hop, name = answer.scan, answer.hop, answer.hop.candidate.backend
    if scan.error is not None:
        call.fail(ApiError(500, f"{name} failed in mid-stream: {hop.redacted(scan.error)}"))
    elif not scan.finished:
        detail = cut or "it ended without a finish_reason"
        call.fail(ApiError(500, f"the stream of {name} was cut: {detail}", code="stream_cut"))
    else:
        call.exchange.finish()
