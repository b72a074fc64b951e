"""The hot routes: a request to a model from its body to the last byte of its answer."""

import asyncio
from collections.abc import Callable

from aigw_daemon.gateway.attempt import Whole
from aigw_daemon.gateway.call import CLIENT_LEFT_STATUS, Call
from aigw_daemon.gateway.chain import Chain
from aigw_daemon.gateway.controls import read_controls
from aigw_daemon.gateway.failures import out_of_time
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.relay import relay
from aigw_daemon.gateway.reporter import Reporter
from aigw_daemon.gateway.requests import THREAD_BYTES, parse_facts, read_facts
from aigw_daemon.gateway.server.exchange import Exchange, Interruption
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.link.messages import Started


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
        call = Call(self._request_id(), self._endpoint, exchange)
        try:
            body = exchange.body
            facts = parse_facts(body) if len(body) <= THREAD_BYTES else await read_facts(body)
            call.model = facts.model
            call.stream = facts.stream is True
            if exchange.controls is not None:
                call.controls = read_controls(exchange.controls)
            if self._reporter.asleep:
                self._reporter.stir()
            if self._reporter.tailing:
                self._reporter.started(Started(call.id.decode(), call.at, call.model, None, call.endpoint))
            answer = await self._chain.answer(call, facts, body)
            if isinstance(answer, Whole):
                _respond(call, answer)
            else:
                await relay(call, answer)
        except ApiError as error:
            call.fail(error)
        except asyncio.CancelledError:
            if exchange.interruption is None:
                raise
            self._interrupted(call, exchange.interruption)
        finally:
            if call.heartbeat is not None:
                call.heartbeat.stop()
            self._reporter.finish(call)

    def _interrupted(self, call: Call, reason: Interruption) -> None:
        match reason:
            case Interruption.CLIENT_LEFT | Interruption.STALLED:
                call.status = call.status or CLIENT_LEFT_STATUS
                call.error = f"client_left: {reason}"
                call.exchange.abort()
            case Interruption.DEADLINE:
                call.fail(out_of_time(call.allowed or self._live.gateway.request_timeout, call.decision, call.met))
            case Interruption.SHUTDOWN:
                call.fail(ApiError(503, "the gateway is shutting down", retry_after=1))


def _respond(call: Call, answer: Whole) -> None:
    if call.exchange.streaming:
        # A sign of life has promised a stream already, and this engine doesn't stream.
        name = answer.hop.candidate.backend
        raise ApiError(500, f"{name} answered in one piece, though a stream was asked for")
    call.exchange.respond(call.answer_head(answer.content_type, answer.hop), answer.body)
