"""Requests whose answer may be kept: answered from the cache, or by one upstream call for all who ask the same.

`Cached.question` says at once, for any request, whether the cache has to do with it. If so, `Cached.hit` looks at what
this process keeps. `Cached.answer` looks further; then it joins the call that somebody else's equal request has begun,
or begins one. Such a call belongs to no client: whoever leaves takes nobody along, and what it brings is kept if it
may be.
"""

import asyncio
import logging
import os
from collections.abc import Coroutine
from functools import lru_cache
from importlib import import_module
from itertools import count
from time import time
from typing import Any, Final, NamedTuple

from aigw_daemon.gateway.account import Account
from aigw_daemon.gateway.attempt import Streamed, Whole
from aigw_daemon.gateway.cache.cache import Cache, Hit, Question
from aigw_daemon.gateway.cache.entry import Origin
from aigw_daemon.gateway.cache.flight import Flight, Flights, GoAlone, Rider
from aigw_daemon.gateway.cache.key import COMMON_SCOPE, MEMO_BYTES, MEMO_LONGEST_BODY, Keys
from aigw_daemon.gateway.cache.memory import MemoryTier
from aigw_daemon.gateway.cache.policy import Terms, is_deterministic, parse_field, terms
from aigw_daemon.gateway.call import Call
from aigw_daemon.gateway.chain import Chain
from aigw_daemon.gateway.controls import NONE
from aigw_daemon.gateway.decision import Ask
from aigw_daemon.gateway.failures import out_of_time
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.plans import Caching, Hop
from aigw_daemon.gateway.relay import pump, respond
from aigw_daemon.gateway.requests import THREAD_BYTES, Facts, is_special
from aigw_daemon.gateway.server.exchange import Exchange
from aigw_daemon.gateway.sharing import ClientSink, FlightSink, Landing, Seat, SharedAccount, SharedClock
from aigw_daemon.gateway.upstream.base import UpstreamError
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.link.messages import CacheView

_API_KEYS = (b"authorization", b"x-api-key")
_SCOPES_KEPT = 1_024
_LONGEST_KEPT: Final = 512
"""Bytes of an API key whose scope is remembered: a head may bring keys of 64 KiB."""
_MEMO_OVERHEAD: Final = 1024
"""What a remembered request takes beside its body, about."""
_NOT_YET = b""
"""In the place of a key that takes a while to make."""

_log = logging.getLogger(__name__)


class Heard(NamedTuple):
    """A request that says what another one said before, and its kept answer."""

    facts: Facts
    hit: Hit


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
        self._plans = live.plans
        """Under which `_heard` was filled."""
        self._heard: dict[tuple[str, bytes, bytes], tuple[Facts, Question]] = {}
        self._heard_room = MEMO_BYTES
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
        self._forget()
        if (view.memory, view.max_answer, view.secret) != (before.memory, before.max_answer, before.secret):
            self.cache.resize(MemoryTier(view.memory), view.max_answer)
        if (view.redis, view.max_answer, view.secret) != (before.redis, before.max_answer, before.secret):
            if self._redis_task is not None:
                self._redis_task.cancel()
            self.cache.redis = self._redis_task = None
            if view.redis is not None:
                self._redis_task = self._spawn(self._use_redis(view.redis.value, view.max_answer))

    async def _use_redis(self, url: str, max_answer: int) -> None:
        # Imported when it is wanted, and aside: it takes longer than the rest of the worker together.
        redis = await asyncio.to_thread(import_module, "aigw_daemon.gateway.cache.redis_tier")
        try:
            tier = redis.RedisTier(url, self._keys.store, max_answer)
            # What was kept while it was imported is handed on.
            self.cache.use(tier)
            await tier.run()
        except Exception:  # noqa: BLE001  a bug in here must not go unseen: nobody awaits this task
            _log.exception("the cache's Redis is left out")
            self.cache.redis = None

    async def aclose(self) -> None:
        """End what still runs: nobody waits for it any more."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def question(self, call: Call) -> Question | None:
        """What a request asks of the cache; None when that has nothing to do with it. Of a large one without its key.

        Raises ApiError where it says nonsense about the cache.
        """
        if call.controls.bypass:
            call.mark("bypass")
            return None
        caching = self._caching(call)
        if caching is None:
            return None
        wanted, body = self._asked(call, caching), call.body
        if not (wanted.look_up or wanted.store):
            call.mark(wanted.word)
            return None
        call.caching, scope = caching, self._scope(call.exchange)
        key = _NOT_YET if len(body) > THREAD_BYTES else self._key(call, caching, scope)
        if key is None:
            return None
        facts = call.facts
        counted = facts.usage_open or facts.usage_asked
        return Question(key, caching.space, wanted, call.model, call.stream, facts.usage_asked, counted, scope)

    def hit(self, call: Call, question: Question) -> bool:
        """Answer from what this process keeps; whether it does. Synchronous: a coroutine would be felt by each hit."""
        hit = self.cache.near(question)
        if hit is None:
            return False
        self._remember(call, question)
        serve(call, hit)
        return True

    def heard(self, endpoint: str, exchange: Exchange) -> Heard | None:
        """A kept answer for the very bytes that were a `hit` before; the look at all that they say is spared."""
        if not self._heard or exchange.controls is not None or self._plans is not self._live.plans:
            return None
        known = self._heard.get((endpoint, self._scope(exchange), exchange.body))
        if known is None or (hit := self.cache.near(known[1])) is None:
            return None
        return Heard(known[0], hit)

    def _remember(self, call: Call, question: Question) -> None:
        if call.controls is not NONE or len(call.body) > MEMO_LONGEST_BODY:
            return
        if self._plans is not self._live.plans or self._heard_room < 0:
            # What the snapshot says of a model may be another thing now.
            self._forget()
        self._heard[call.endpoint, question.scope, call.body] = (call.facts, question)
        self._heard_room -= len(call.body) + _MEMO_OVERHEAD

    def _forget(self) -> None:
        self._plans, self._heard, self._heard_room = self._live.plans, {}, MEMO_BYTES

    def _caching(self, call: Account) -> Caching | None:
        """What the cache may do for such requests, under the first configured candidate that is able to answer them."""
        endpoint, model = call.endpoint, call.model
        call.plan = plan = self._live.plans.get((endpoint, model)) or self._live.plan(Ask(model, endpoint))
        if plan is None or plan.caching is None:
            return None
        if len(plan.decision.candidates) > 1 and is_special(call.facts, call.body):
            plan = self._live.plan(call.asks(plan.room)) or plan
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

    async def answer(self, call: Call, question: Question) -> bool:
        """Answer a request that is no `hit`; False where it must be asked for itself after all."""
        wanted, call.plan = question.terms, None
        if question.key == _NOT_YET:
            key = await asyncio.to_thread(self._key, call, call.caching, question.scope)
            if key is None:
                return False
            question.key = key
        hit = self.cache.near(question) or await self.cache.far(question)
        if hit is not None:
            serve(call, hit)
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

    def _key(self, call: Call, caching: Caching | None, scope: bytes) -> bytes | None:
        """The request's key, None where it has none: then it is not cached. Takes as long as its body is large."""
        if caching is None or (
            caching.deterministic and not is_deterministic(call.endpoint, call.body, caching.space.params)
        ):
            return None
        return self._keys.key(caching.space, scope, call.body)

    def _scope(self, exchange: Exchange) -> bytes:
        """Whose answers these are: of whoever presents this API key, needed or not; of all who present none."""
        presented = _presented(exchange)
        if not presented:
            return COMMON_SCOPE
        if (scope := self._scopes.get(presented)) is None:
            scope = self._keys.scope(presented)
            if len(presented) <= _LONGEST_KEPT:
                if len(self._scopes) >= _SCOPES_KEPT:
                    self._scopes.clear()
                self._scopes[presented] = scope
        return scope

    # One call for all.

    async def _ride(self, call: Call, question: Question) -> None:
        """Get the answer from an upstream call that is under way, or begin one. Raises ApiError, or GoAlone."""
        rider = self._flights.join(self._flight(question), stream=call.stream) if question.terms.look_up else None
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
                self.cache.coalesced(question)
                call.take_over(account, leader=False)
                raise refusal from alone
            seat.go_alone()
            raise
        finally:
            seat.leave()
            rider.close()

    def _lead(self, call: Call, question: Question) -> Rider[Landing]:
        # Who wants a fresh answer gets a call that nobody can have begun before.
        name = self._flight(question) if question.terms.look_up else b"%b-%d" % (question.key, next(self._lone))
        plan = self._live.plan(Ask(call.model, call.endpoint))
        allowed = plan.decision.request_timeout if plan is not None else None
        account = SharedAccount(call, SharedClock(allowed or self._live.gateway.request_timeout))

        clears = self.cache.clears

        def drive(flight: Flight[Landing]) -> Coroutine[Any, Any, None]:
            return self._fetch(flight, account, question, clears)

        rider = self._flights.lead(name, drive, stream=call.stream, kept_bytes=self._view.max_answer)
        self._accounts[rider.flight] = account
        rider.flight.on_landing(self._accounts.pop)
        return rider

    def _flight(self, question: Question) -> bytes:
        """Requests by different names may have the same key, and different ways on when the first candidate fails.

        Those that forbid to ask for usage get no usage, so others don't share their streams.
        """
        counted = b"" if question.counted or not question.stream else b"-"
        return b"%b%d%b:%b" % (question.key, self.cache.clears, counted, question.name.encode())

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

    async def _fetch(self, flight: Flight[Landing], account: SharedAccount, question: Question, clears: int) -> None:
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
        await self._keep(flight, account, question, answer, clears)

    async def _keep(
        self, flight: Flight[Landing], account: Account, question: Question, answer: Whole | Streamed, clears: int
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
        if isinstance(answer, Streamed):
            kind, counted = "text/event-stream", answer.counted
        else:
            kind, counted = answer.content_type.decode("latin-1"), True
        await self.cache.keep(origin, body, stream=stream, content_type=kind, counted=counted, clears=clears)

    async def _kept_under(self, account: Account, question: Question, hop: Hop) -> bytes | None:
        """A fallback's answer doesn't pose as the first choice's, unless the profile allows it."""
        equal = hop.space.tag == question.space.tag or _is_drawn(account, hop)
        if equal or self._view.fallback_answers:
            return question.key
        if len(account.body) <= THREAD_BYTES:
            return self._keys.key(hop.space, question.scope, account.body)
        return await asyncio.to_thread(self._keys.key, hop.space, question.scope, account.body)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Not in a TaskGroup: these come and go with requests, and end with the worker.
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _presented(exchange: Exchange) -> bytes:
    """The API key, in whichever header."""
    values = [value for name, value in exchange.headers if name in _API_KEYS]
    return b"\n".join(values) if values else b""


def _is_drawn(account: Account, hop: Hop) -> bool:
    """Whether the candidate is one of several that the route holds to be equal, and draws from."""
    decision, candidate = account.decision, hop.candidate
    if decision is None or decision.balance == "order" or candidate.fallback:
        return False
    return any((one.backend, one.model) == (candidate.backend, candidate.model) for one in decision.candidates)


async def _pass_on(call: Call, landing: Landing, rider: Rider[Landing], account: SharedAccount) -> None:
    """The answer of a shared call to one client. Raises ApiError."""
    call.take_over(account, leader=rider.leader)
    answer, exchange = landing.answer, call.exchange
    if isinstance(answer, Whole):
        respond(call, answer)
        return
    if not exchange.streaming:
        exchange.start(call.stream_head(answer.hop))
    try:
        await rider.relay(ClientSink(exchange, rider, usage=call.facts.usage_asked))
    except UpstreamError as error:
        raise ApiError(500, f"the stream was cut: {error}", code="stream_cut") from error
    finally:
        call.take_over(account, leader=rider.leader)
    exchange.finish()


def serve(call: Call, hit: Hit) -> None:
    """Answer with what was kept."""
    origin = hit.entry.origin
    call.answered_by(origin.backend, origin.model)
    call.usage = hit.entry.usage
    call.finish_reason = hit.entry.finish
    call.cache = "hit"
    call.exchange.respond(call.kept_head(hit.entry.content_type, hit.lines, hit.age), hit.body)
