"""Requests whose answer may be kept: answered from the cache, or by one upstream call for all who ask the same.

`Cached.terms` says at once, for any request, whether the cache has to do with it. If so, `Cached.answer` looks in the
cache; then it joins the call that somebody else's equal request has begun, or begins one. Such a call belongs to no
client: whoever leaves takes nobody along, and what it brings is kept if it may be.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from functools import lru_cache
from importlib import import_module
from itertools import count
from time import time
from typing import Any, ParamSpec, TypeVar

from aigw_daemon.gateway.account import Account
from aigw_daemon.gateway.attempt import Streamed, Whole
from aigw_daemon.gateway.cache.cache import Cache, Hit, Question
from aigw_daemon.gateway.cache.entry import Origin
from aigw_daemon.gateway.cache.flight import Flight, Flights, GoAlone, Rider
from aigw_daemon.gateway.cache.key import COMMON_SCOPE, Keys
from aigw_daemon.gateway.cache.memory import MemoryTier
from aigw_daemon.gateway.cache.policy import Terms, is_deterministic, parse_field, terms
from aigw_daemon.gateway.call import Call
from aigw_daemon.gateway.chain import Chain
from aigw_daemon.gateway.controls import NONE
from aigw_daemon.gateway.decision import Ask
from aigw_daemon.gateway.failures import out_of_time, unstreamed
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.plans import Caching, Hop
from aigw_daemon.gateway.relay import pump
from aigw_daemon.gateway.requests import THREAD_BYTES, asks, is_special
from aigw_daemon.gateway.sharing import ClientSink, FlightSink, Landing, Seat, SharedAccount, SharedClock
from aigw_daemon.gateway.upstream.base import UpstreamError
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.link.messages import CacheView

P = ParamSpec("P")
T = TypeVar("T")

_API_KEYS = (b"authorization", b"x-api-key")
_SCOPES_KEPT = 1_024

_log = logging.getLogger(__name__)


@lru_cache(maxsize=1_024)
def _terms_by_header(usual: Terms, cache_control: str | None, bypass: str | None) -> Terms:
    return terms(usual, cache_control=cache_control, bypass=bypass)


class Cached:
    """The cache, and the upstream calls that are made for it."""

    def __init__(self, live: Live, chain: Chain) -> None:
        self._live = live
        self._chain = chain
        self._view = CacheView()
        self._keys = Keys(os.urandom(32))
        self._scopes: dict[bytes, bytes] = {}
        self._flights: Flights[Landing] = Flights(self._spawn)
        self._accounts: dict[Flight[Landing], SharedAccount] = {}
        """Of the flights that can be joined."""
        self._lone = count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._redis_task: asyncio.Task[None] | None = None
        self.cache = Cache(MemoryTier(self._view.memory), None, self._view.max_answer)

    def update(self, view: CacheView) -> None:
        """What the snapshot says of the cache. What this process keeps stays, unless its size or secret changes."""
        before, self._view = self._view, view
        if view.secret != before.secret:
            self._keys = Keys(bytes.fromhex(view.secret.value) if view.secret is not None else os.urandom(32))
            self._scopes.clear()
        if (view.memory, view.max_answer) != (before.memory, before.max_answer):
            self.cache.resize(MemoryTier(view.memory), view.max_answer)
        if (view.redis, view.max_answer) != (before.redis, before.max_answer):
            if self._redis_task is not None:
                self._redis_task.cancel()
            self.cache.redis = self._redis_task = None
            if view.redis is not None:
                self._redis_task = self._spawn(self._use_redis(view.redis.value, view.max_answer))

    async def _use_redis(self, url: str, max_answer: int) -> None:
        # Imported when it is wanted, and aside: it takes longer than the rest of the worker together.
        redis = await asyncio.to_thread(import_module, "aigw_daemon.gateway.cache.redis_tier")
        try:
            self.cache.redis = redis.RedisTier(url, max_answer)
            await self.cache.redis.run()
        except Exception:  # noqa: BLE001  a bug in here must not go unseen: nobody awaits this task
            _log.exception("the cache's Redis is left out")
            self.cache.redis = None

    async def aclose(self) -> None:
        """End what still runs: nobody waits for it any more."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def terms(self, call: Call) -> Terms | None:
        """What the cache may do for this request; None when it has nothing to do with it."""
        if call.controls.bypass:
            call.mark("bypass")
            return None
        caching = self._caching(call)
        if caching is None:
            return None
        found = self._asked(call, caching)
        if found.look_up or found.store:
            call.caching = caching
            return found
        call.mark(found.word)
        return None

    def _caching(self, call: Account) -> Caching | None:
        """What the cache may do for such requests, under the first configured candidate that is able to answer them."""
        endpoint, model = call.endpoint, call.model
        plan = self._live.plans.get((endpoint, model)) or self._live.plan(Ask(model, endpoint))
        if plan is None or plan.caching is None:
            return None
        if len(plan.decision.candidates) > 1 and is_special(call.facts, call.body):
            plan = self._live.plan(asks(endpoint, call.facts, call.body)) or plan
        return plan.caching

    def _asked(self, call: Call, caching: Caching) -> Terms:
        controls, found = call.controls, caching.usual
        if call.facts.has_cache_field:
            field = parse_field(call.facts.cache)
            found = terms(found, cache_control=controls.cache_control, bypass=controls.cache, field=field)
        elif controls is not NONE:
            found = _terms_by_header(found, controls.cache_control, controls.cache)
        if controls.backend is None and controls.fallback:
            return found
        # Who must answer is the client's choice, and a kept answer may be another one's.
        return Terms(look_up=False, store=False, ttl=0.0, max_age=None, word="bypass")

    async def answer(self, call: Call, wanted: Terms) -> bool:
        """Answer the request; False where it must be asked for itself after all."""
        question = await self._question(call, wanted)
        if question is None:
            return False
        hit = self.cache.near(question) or await self.cache.far(question)
        if hit is not None:
            _serve(call, hit)
            return True
        call.mark(wanted.word, question.key)
        if wanted.store:
            try:
                await self._ride(call, question)
            except GoAlone:
                call.mark(wanted.word, question.key)
            else:
                return True
        self.cache.missed(question)
        return False

    async def _question(self, call: Call, wanted: Terms) -> Question | None:
        caching, body = call.caching, call.body
        if caching is None:
            return None
        scope, space = self._scope(call), caching.space
        if caching.deterministic and not await _aside(body, is_deterministic, call.endpoint, body, space.params):
            return None
        # Not by `_aside`: a hit would notice a coroutine more.
        if len(body) <= THREAD_BYTES:
            key = self._keys.key(space, scope, body)
        else:
            key = await asyncio.to_thread(self._keys.key, space, scope, body)
        if key is None:
            return None
        return Question(key, space, wanted, call.model, call.stream, call.facts.usage_asked, scope)

    def _scope(self, call: Call) -> bytes:
        """Whose answers these are: of whoever presents this API key, needed or not; of all who present none."""
        presented = b"\n".join(value for name, value in call.exchange.headers if name in _API_KEYS)
        if not presented:
            return COMMON_SCOPE
        if (scope := self._scopes.get(presented)) is None:
            if len(self._scopes) >= _SCOPES_KEPT:
                self._scopes.clear()
            scope = self._scopes[presented] = self._keys.scope(presented)
        return scope

    # One call for all.

    async def _ride(self, call: Call, question: Question) -> None:
        """Get the answer from an upstream call that is under way, or begin one. Raises ApiError, or GoAlone."""
        rider = self._flights.join(_flight(question), stream=call.stream) if question.terms.look_up else None
        if rider is None:
            self.cache.missed(question)
            rider = self._lead(call, question)
        else:
            call.mark("coalesced", question.key)
        account = self._accounts[rider.flight]
        seat = Seat(call, account)
        try:
            landing = await self._landing(call, rider, account)
            if not rider.leader:
                self.cache.coalesced(question)
            await _pass_on(call, landing, rider, account)
        except GoAlone as alone:
            if (refusal := account.refusal(call, alone.__cause__)) is not None:
                call.take_over(account, leader=False)
                raise refusal from alone
            seat.go_alone()
            raise
        finally:
            seat.leave()
            rider.close()

    def _lead(self, call: Call, question: Question) -> Rider[Landing]:
        # Who wants a fresh answer gets a call that nobody can have begun before.
        name = _flight(question) if question.terms.look_up else b"%b-%d" % (question.key, next(self._lone))
        plan = self._live.plan(Ask(call.model, call.endpoint))
        allowed = plan.decision.request_timeout if plan is not None else None
        account = SharedAccount(call, SharedClock(allowed or self._live.gateway.request_timeout))

        def drive(flight: Flight[Landing]) -> Coroutine[Any, Any, None]:
            return self._fetch(flight, account, question)

        rider = self._flights.lead(name, drive, stream=call.stream, kept_bytes=self._view.max_answer)
        self._accounts[rider.flight] = account
        rider.flight.on_landing(self._accounts.pop)
        return rider

    async def _landing(self, call: Call, rider: Rider[Landing], account: SharedAccount) -> Landing:
        """Wait for the answer's head."""
        call.begin_wait()
        try:
            landing = await rider.begun()
        except BaseException as error:
            call.end_wait()
            if not isinstance(error, GoAlone):
                call.take_over(account, leader=rider.leader)
            raise
        call.first_byte()
        call.settle()
        return landing

    async def _fetch(self, flight: Flight[Landing], account: SharedAccount, question: Question) -> None:
        """The one upstream call: tell the flight, and keep the answer."""
        try:
            async with account.clock.running():
                answer = await self._chain.walk(account)
                landing = Landing(answer)
                flight.begin(landing)
                if isinstance(answer, Streamed):
                    await pump(account, answer, FlightSink(flight, answer))
        except TimeoutError as error:
            raise out_of_time(account.allowed or account.clock.seconds, account.decision, account.met) from error
        flight.finish()
        await self._keep(flight, account, question, answer)

    async def _keep(
        self, flight: Flight[Landing], account: Account, question: Question, answer: Whole | Streamed
    ) -> None:
        stream = isinstance(answer, Streamed)
        body = flight.recorded if isinstance(answer, Streamed) else answer.body
        # The profile may have turned the cache off meanwhile.
        if body is None or self._caching(account) is None:
            return
        key = await self._kept_under(account, question, answer.hop)
        if key is None:
            return
        origin = Origin(
            key=key,
            endpoint=account.endpoint,
            backend=answer.hop.candidate.backend,
            model=answer.hop.model,
            name=account.model,
            created=time(),
            seconds=account.elapsed,
            ttl=question.terms.ttl,
            choices=account.facts.n or 1,
        )
        content_type = "text/event-stream" if isinstance(answer, Streamed) else answer.content_type.decode("latin-1")
        await self.cache.keep(origin, body, stream=stream, content_type=content_type)

    async def _kept_under(self, account: Account, question: Question, hop: Hop) -> bytes | None:
        """A fallback's answer doesn't pose as the first choice's, unless the profile allows it."""
        equal = hop.space.tag == question.space.tag or _is_drawn(account, hop)
        if equal or self._view.fallback_answers:
            return question.key
        return await _aside(account.body, self._keys.key, hop.space, question.scope, account.body)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Not in a TaskGroup: these come and go with requests, and end with the worker.
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _flight(question: Question) -> bytes:
    """Requests by different names may have the same key, and different ways on when the first candidate fails."""
    return question.key + question.name.encode()


def _is_drawn(account: Account, hop: Hop) -> bool:
    """Whether the candidate is one of several that the route holds to be equal, and draws from."""
    decision, candidate = account.decision, hop.candidate
    if decision is None or decision.balance == "order" or candidate.fallback:
        return False
    return any((one.backend, one.model) == (candidate.backend, candidate.model) for one in decision.candidates)


async def _aside(body: bytes, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Work that takes as long as this body is large."""
    if len(body) <= THREAD_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


async def _pass_on(call: Call, landing: Landing, rider: Rider[Landing], account: SharedAccount) -> None:
    """The answer of a shared call to one client. Raises ApiError."""
    call.take_over(account, leader=rider.leader)
    answer, exchange = landing.answer, call.exchange
    if isinstance(answer, Whole):
        if exchange.streaming:
            raise unstreamed(answer.hop.candidate.backend)
        exchange.respond(call.answer_head(answer.content_type, answer.hop), answer.body)
        return
    if not exchange.streaming:
        exchange.start(call.stream_head(answer.hop))
    try:
        await rider.relay(ClientSink(exchange, usage=call.facts.usage_asked))
    except UpstreamError as error:
        raise ApiError(500, f"the stream was cut: {error}", code="stream_cut") from error
    finally:
        call.take_over(account, leader=rider.leader)
    exchange.finish()


def _serve(call: Call, hit: Hit) -> None:
    origin = hit.entry.origin
    call.answered_by(origin.backend, origin.model)
    call.usage = hit.entry.usage
    call.finish_reason = hit.entry.finish
    call.cache = "hit"
    call.exchange.respond(call.kept_head(hit.entry.content_type, hit.lines, hit.age), hit.body)
