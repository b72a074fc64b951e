"""The candidates of one request, tried in order under one deadline and one budget of attempts (rules B2 to B5, B11).

A candidate may be cold (it is demanded, and the route says whether to wait), full (the request queues, or goes on), or
fail (the next one is asked). One whose process dies under the request comes back as another process, which is waited
for as for a cold start once nobody else is left. Whenever the snapshot or a circuit has changed meanwhile, the way on
is decided anew; what was tried stays tried (`tried.py`).
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Final

import msgspec

from aigw_daemon.gateway.account import Account
from aigw_daemon.gateway.admission import LookAgain, QueueFull, QueueTimeout
from aigw_daemon.gateway.attempt import Streamed, Whole, attempt, in_time
from aigw_daemon.gateway.balance import ordered
from aigw_daemon.gateway.breaker import Permit
from aigw_daemon.gateway.budget import RetryBudget, pause
from aigw_daemon.gateway.decision import Decision
from aigw_daemon.gateway.failures import (
    AttemptFailed,
    Kind,
    TooLong,
    foreign_backend,
    likely_killer,
    not_spoken,
    spent,
    unable,
    unknown_model,
)
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.plans import Hop, Plan
from aigw_daemon.gateway.tried import Name, Tried, key_of, name_of
from aigw_daemon.gateway.upstream.base import Upstream
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.link.messages import Demand, Up

REPEAT_DEMAND_SECONDS: Final = 5.0
"""A demand may be lost with a daemon that dies; it is repeated while the backend stays down."""
NO_PERMIT: Final = Permit(0)
"""Of a backend that is asked although its circuit is open, because nobody else is left: what it says doesn't count."""


@dataclass(frozen=True)
class Means:
    """What all requests share. ``send`` tells the daemon and never blocks; ``random`` is from 0 to 1."""

    live: Live
    upstream: Upstream
    send: Callable[[Up], None]
    budget: RetryBudget
    random: Callable[[], float] = random.random


class Walk:
    """One request's way along its candidates."""

    def __init__(self, means: Means, call: Account) -> None:
        self._means = means
        self._live = means.live
        self._call = call
        self._ask = call.asks(means.live.room(call.endpoint, call.model))
        self._tried = Tried()
        self._refused: str | None = None
        """Why a candidate may not be asked any more."""
        self._later = False
        """Whether it may be in a while: all traffic together asks again as often as it may."""
        self._places: dict[str, int] = {}
        """Where the request stood in the lines of backends, or stands after a death."""
        self._waited_cold: dict[str, float] = {}
        """Seconds that it waited for backends to start, or to come back."""
        self._too_long: TooLong | None = None
        self._only: Name | None = None
        """The one candidate that may answer, where the client wants no fallback."""

    async def answer(self) -> Whole | Streamed:
        """The first answer. Raises ApiError when there is none."""
        try:
            return await self._answer()
        finally:
            self._call.settle()

    async def _answer(self) -> Whole | Streamed:
        while True:
            plan, too_long = self._plan(), self._too_long
            hops = self._hops(plan)
            answer = await self._first_of(plan, hops)
            if answer is not None:
                return answer
            if self._is_overtaken(plan, too_long):
                continue
            spent_all = self._made >= self._live.gateway.max_attempts
            if spent_all or not await self._await_somebody(plan, self._tried.left(hops)):
                raise self._spent(plan)

    def note(self, hop: Hop, permit: Permit, failure: AttemptFailed) -> None:
        """An attempt failed: tell the circuit, and remember it."""
        now = monotonic()
        if failure.counts is not None:
            hop.breaker.failed(permit, failure.counts, now)
        elif failure.kind is Kind.LIMITED and failure.retry_after is not None:
            hop.breaker.limited(permit, failure.retry_after, now)
        else:
            hop.breaker.abandoned(permit)
        if isinstance(failure, TooLong):
            self._too_long = failure
        self._tried.ask(hop)
        self._tried.note(hop, failure, now)
        if failure.lost:
            self._places[hop.candidate.backend] = hop.lane.front_place()
        self._call.met += ((hop.candidate.backend, failure),)

    # Which way.

    def _plan(self) -> Plan:
        call, plan = self._call, self._live.plan(self._ask)
        if plan is not None and self._ask.tokens and plan.deserted:
            # The tokens are an estimate: before nobody is asked at all, the engine may say for itself.
            self._ask = msgspec.structs.replace(self._ask, tokens=0)
            plan = self._live.plan(self._ask)
        if plan is None:
            raise ApiError(503, "the gateway has not heard from its daemon yet", retry_after=1)
        if not plan.decision.candidates:
            raise unknown_model(plan.decision)
        if plan.decision.instead is not None:
            raise not_spoken(plan.decision)
        if self._ask.needs and plan.deserted:
            needless = self._live.plan(msgspec.structs.replace(self._ask, needs=frozenset()))
            if needless is not None and needless.hops:
                raise unable(plan.decision, self._ask.needs)
        if call.decision is None:
            call.allow(call.controls.timeout or plan.decision.request_timeout)
        call.decision = plan.decision
        return plan

    def _hops(self, plan: Plan) -> list[Hop]:
        """Those left to try, in this request's order."""
        if self._too_long is not None or (self._ask.tokens and not plan.hops):
            longer = self._wanted(list(plan.overflow), plan)
            if self._too_long is not None and not longer and not plan.overflow_returning:
                raise self._too_long.error
            return self._tried.left(longer)
        decision = plan.decision
        order = ordered(decision.kept, decision.balance, self._live.standings.counts(), self._means.random)
        return self._tried.left(self._wanted([plan.hops[place] for place in order], plan))

    def _wanted(self, hops: list[Hop], plan: Plan) -> list[Hop]:
        """Without those that the client's headers rule out."""
        controls = self._call.controls
        if controls.backend is not None:
            if all(candidate.backend != controls.backend for candidate in plan.decision.candidates):
                raise foreign_backend(plan.decision, controls.backend)
            hops = [hop for hop in hops if hop.candidate.backend == controls.backend]
        if controls.fallback:
            return hops
        if self._only is None:
            self._only = _first(plan.decision, hops)
        return [hop for hop in hops if name_of(hop) == self._only]

    def _is_overtaken(self, plan: Plan, too_long: TooLong | None) -> bool:
        """Whether the way on must be decided anew: something changed, or an engine said that the prompt is too long."""
        return not self._live.is_current(plan) or self._too_long is not too_long

    def _spent(self, plan: Plan) -> ApiError:
        failures = self._tried.failures.values()
        if self._too_long is not None and all(isinstance(failure, TooLong) for failure in failures):
            return self._too_long.error
        return spent(plan.decision, self._call.met, self._refused, later=self._later)

    def _stations(self, plan: Plan, hops: list[Hop]) -> Iterator[tuple[Hop, bool]]:
        """Each hop, and whether to queue there; a route that spills over asks everybody for room first."""
        if plan.decision.overflow == "spill":
            yield from ((hop, False) for hop in hops)
        for hop in hops:
            if key_of(hop) not in self._tried.failures:
                yield hop, True

    # Asking.

    async def _first_of(self, plan: Plan, hops: list[Hop]) -> Whole | Streamed | None:
        """The first answer of those that are ready; None when there is none, or the plan has gone out of date."""
        too_long, self._refused = self._too_long, None
        for hop, may_queue in self._stations(plan, hops):
            if hop.cold:
                self._demand(hop)
                if plan.decision.cold == "wait":
                    return None
                continue
            if self._may_not_ask(hop):
                continue
            last = len(self._tried.left(hops)) == 1
            entered = await self._enter(hop, may_queue=may_queue)
            if entered is not None and (answer := await self._at(entered, last=last)) is not None:
                return answer
            if (killed := self._tried.killed()) is not None:
                raise likely_killer(plan.decision, killed, self._call.met)
            if self._is_overtaken(plan, too_long):
                return None
        return None

    @property
    def _made(self) -> int:
        """Attempts that count."""
        return self._call.attempts - self._tried.unsent

    def _may_not_ask(self, hop: Hop) -> bool:
        """Whether there is a reason against one more attempt.

        The retry budget bounds asking the same process again. Another backend, or the next process of one that died,
        is asked as its lane has room (rule B4).
        """
        most, why = self._live.gateway.max_attempts, None
        if self._made >= most:
            why = f"{self._made} attempts were made, and gateway.max_attempts is {most}"
        elif self._tried.was_asked(hop):
            why = self._means.budget.refusal(self._live.standings.in_flight)
            self._later = why is not None
        self._refused = why or self._refused
        return why is not None

    async def _enter(self, hop: Hop, *, may_queue: bool) -> Hop | None:
        """Take a slot; the hop as it is by then, or None."""
        if hop.lane.try_enter():
            return hop
        if not may_queue:
            return None
        name, call = hop.candidate.backend, self._call
        # Waiting too long in a line is a 503, so it promises nothing (rule B11); a promise made before holds.
        self._beat(hop, f"waiting for a place at {name}", last=call.committed)
        call.begin_wait()
        try:
            await hop.lane.enter(call.controls.priority, self._live.gateway.queue_timeout, self._places.pop(name, None))
        except LookAgain as again:
            self._places[name] = again.place
            return None
        except QueueFull as full:
            self._skip(hop, AttemptFailed(Kind.LIMITED, full.detail, full.retry_after))
            return None
        except QueueTimeout as late:
            self._skip(hop, AttemptFailed(Kind.UNREACHABLE, late.detail, late.retry_after))
            return None
        finally:
            call.end_wait()
        return self._as_it_is_now(hop)

    def _as_it_is_now(self, hop: Hop) -> Hop | None:
        """The same candidate in the present plan; a slot at one that can't be asked any more is given back."""
        try:
            plan = self._plan()
        except ApiError:
            hop.lane.leave()
            raise
        hops = plan.hops if self._too_long is None else plan.overflow
        now = next((other for other in hops if name_of(other) == name_of(hop) and not other.cold), None)
        if now is None:
            hop.lane.leave()
        return now

    async def _at(self, hop: Hop, *, last: bool) -> Whole | Streamed | None:
        """Ask a candidate whose slot was taken; None when it failed."""
        budget = self._means.budget
        permit = hop.breaker.permit if hop.breaker.closed else hop.breaker.admit(monotonic()) or NO_PERMIT
        extra, failed = self._tried.ask(hop), False
        if extra:
            budget.begin()
        try:
            answer = await self._asked(hop, permit, last=last)
        except AttemptFailed as failure:
            failed = True
            self.note(hop, permit, failure)
            return None
        except BaseException:
            # The client left, or it is the client's fault: nothing was learnt about the backend.
            hop.breaker.abandoned(permit)
            raise
        finally:
            if extra:
                budget.end(failed=failed)
        budget.succeeded()
        return answer

    async def _asked(self, hop: Hop, permit: Permit, *, last: bool) -> Whole | Streamed:
        self._beat(hop, f"waiting for the first token of {hop.candidate.backend}", last=last)
        asked = attempt(self._means.upstream, self._call, hop, permit)
        if self._call.stream and hop.first_token_timeout is not None:
            return await in_time(asked, hop.first_token_timeout)
        return await asked

    def _skip(self, hop: Hop, failure: AttemptFailed) -> None:
        self._tried.skip(hop, failure)
        self._call.met += ((hop.candidate.backend, failure),)

    # Waiting.

    async def _await_somebody(self, plan: Plan, left: list[Hop]) -> bool:
        """Wait until the way is to be decided anew; False when there is nobody to wait for."""
        if plan.decision.cold == "reject":
            return await self._pause(plan)
        if not any(hop.cold for hop in left):
            returning = plan.returning if self._too_long is None else plan.overflow_returning
            left = self._tried.left(self._wanted(list(returning), plan))
        cold = next((hop for hop in left if hop.cold), None)
        if cold is not None:
            self._demand(cold)
            await self._await_start(cold, last=len(left) == 1)
            return True
        return await self._await_news() or await self._pause(plan)

    async def _await_news(self) -> bool:
        """Wait for the daemon to notice a death that this request has met; whether there was anything to wait for.

        The gateway sees a broken connection before the daemon has seen the process end: asking again right now would
        only be refused.
        """
        table = self._live.table
        found = self._tried.unnoticed(table.backends, monotonic()) if table is not None else None
        if found is None:
            return False
        self._call.begin_wait()
        try:
            async with asyncio.timeout(found[1]):
                await self._live.changed()
        except TimeoutError:
            pass  # the daemon knows of no death: the process lives, or the daemon doesn't
        finally:
            self._call.end_wait()
        return True

    def _demand(self, hop: Hop) -> None:
        if self._live.needs_start(hop.candidate.backend):
            self._means.send(Demand(hop.candidate.backend, hop.candidate.model))

    async def _await_start(self, hop: Hop, *, last: bool) -> None:
        """Wait for a change, or as long as a demand is believed to be on its way. The request's own clock stands."""
        name, clock, began = hop.candidate.backend, self._call.clock, monotonic()
        self._beat(hop, f"loading {name}", last=last)
        waited = self._waited_cold.get(name, 0.0)
        remaining = clock.remaining
        clock.allow(inf)
        self._call.begin_wait()
        try:
            async with asyncio.timeout(min(REPEAT_DEMAND_SECONDS, hop.cold_timeout - waited)):
                await self._live.changed()
        except TimeoutError:
            pass  # the way is looked at anew, and the demand repeated
        finally:
            self._call.end_wait()
            clock.allow(remaining)
        self._waited_cold[name] = waited = waited + monotonic() - began
        if waited >= hop.cold_timeout:
            late = f"it did not start within {hop.cold_timeout:g} s"
            self._skip(hop, AttemptFailed(Kind.TIMED_OUT, late))

    async def _pause(self, plan: Plan) -> bool:
        """Wait until those whose failure may have passed can be asked once more; whether there are any (rule B5)."""
        hops = plan.overflow if self._too_long is not None else plan.hops
        failures = self._tried.failures
        passing = [failure for hop in hops if (failure := failures.get(key_of(hop))) is not None and failure.passing]
        if not passing:
            return False
        call = self._call
        waits = [failure.retry_after for failure in passing if failure.retry_after is not None]
        retry_after = min(waits) if len(waits) == len(passing) else None
        seconds = pause(call.attempts, call.clock.remaining, retry_after, self._means.random())
        if seconds is None:
            return False
        call.begin_wait()
        try:
            await asyncio.sleep(seconds)
        finally:
            call.end_wait()
        self._tried.forgive(seconds)
        return True

    def _beat(self, hop: Hop, what: str, *, last: bool) -> None:
        """Tell the client that its stream is waited for, if nobody else can answer any more; else promise nothing."""
        if last:
            self._call.promise(hop, what)
        else:
            self._call.retract()


def _first(decision: Decision, hops: list[Hop]) -> Name:
    """Who alone is asked without fallback: of equal targets the one that was drawn, else the first, able or not."""
    drawn = decision.balance != "order" and hops and not hops[0].candidate.fallback
    first = hops[0].candidate if drawn else decision.candidates[0]
    return first.backend, first.model
