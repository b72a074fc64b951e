"""The hot routes: a request to a model from its body to the last byte of its answer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aigw_daemon.gateway.attempt import Streamed, attempt
from aigw_daemon.gateway.cached import Cached, serve
from aigw_daemon.gateway.call import CLIENT_LEFT_STATUS, Call
from aigw_daemon.gateway.chain import Chain
from aigw_daemon.gateway.controls import read_controls
from aigw_daemon.gateway.failures import AttemptFailed, out_of_time
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.relay import relay, respond
from aigw_daemon.gateway.reporter import Reporter
from aigw_daemon.gateway.requests import THREAD_BYTES, Facts, parse_facts, read_large
from aigw_daemon.gateway.server.exchange import Exchange, Interruption
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.link.messages import STREAMED, Started


@dataclass(frozen=True)
class Desk:
    """What all hot routes share."""

    live: Live
    chain: Chain
    cached: Cached
    reporter: Reporter
    request_id: Callable[[], bytes]


class Completions:
    """Answers one endpoint."""

    def __init__(self, endpoint: str, desk: Desk) -> None:
        self._endpoint = endpoint
        self._streams = endpoint in STREAMED
        self._live = desk.live
        self._chain = desk.chain
        self._cached = desk.cached
        self._reporter = desk.reporter
        self._request_id = desk.request_id

    def at_once(self, exchange: Exchange) -> bool:
        """Answer from the cache what has been answered from it before; whether that can be done again."""
        heard = self._cached.heard(self._endpoint, exchange)
        if heard is None:
            return False
        call = Call(self._request_id(), self._endpoint, exchange.body, exchange)
        self._begin(call, heard.facts)
        serve(call, heard.hit)
        self._reporter.finish(call)
        return True

    async def __call__(self, exchange: Exchange) -> None:
        """Answer, and leave a record of it on every path."""
        call, chain = Call(self._request_id(), self._endpoint, exchange.body, exchange), self._chain
        try:
            body = call.body
            self._begin(call, parse_facts(body) if len(body) <= THREAD_BYTES else await _read_aside(call))
            cached = self._cached
            question = cached.question(call)
            if question is not None and (cached.hit(call, question) or await cached.answer(call, question)):
                return
            if (hop := chain.usual(call)) is None:
                answer = await chain.walk(call)
            else:
                permit = hop.breaker.permit
                try:
                    answer = await attempt(chain.upstream, call, hop, permit)
                except AttemptFailed as failure:
                    answer = await chain.go_on(call, hop, permit, failure)
                else:
                    chain.succeeded()
            if isinstance(answer, Streamed):
                await relay(call, answer)
            else:
                respond(call, answer)
        except ApiError as error:
            call.fail(error)
        except asyncio.CancelledError:
            if exchange.interruption is None:
                raise
            self._interrupted(call, exchange.interruption)
        except Exception as error:
            # The server answers; the record says what became of the request all the same.
            call.status = call.status or 500
            call.error = f"internal_error: {type(error).__name__}"
            raise
        finally:
            self._reporter.finish(call)

    def _begin(self, call: Call, facts: Facts) -> None:
        call.facts = facts
        call.model = facts.model
        call.stream = facts.stream is True and self._streams
        said = call.clock.controls
        if said is not None:
            call.controls = read_controls(said)
        reporter = self._reporter
        if reporter.tailing:
            reporter.started(Started(call.id.decode(), call.at, call.model, None, call.endpoint))

    def _interrupted(self, call: Call, reason: Interruption) -> None:
        match reason:
            case Interruption.CLIENT_LEFT | Interruption.STALLED:
                call.status = call.status or CLIENT_LEFT_STATUS
                # Many clients hang up as soon as they have read the last event.
                call.error = None if call.exchange.handed else f"client_left: {reason}"
                call.exchange.abort()
            case _ if call.exchange.handed:
                # The engine goes on holding a stream that has ended.
                call.exchange.finish()
            case Interruption.DEADLINE:
                call.fail(out_of_time(call.allowed or self._live.gateway.request_timeout, call.decision, call.met))
            case Interruption.SHUTDOWN:
                call.fail(ApiError(503, "the gateway is shutting down", retry_after=1))


async def _read_aside(call: Call) -> Facts:
    facts, call.wanted = await read_large(call.endpoint, call.body)
    return facts
