"""From a request to the first answer that a candidate gives. Nothing has reached the client yet, so failures fall back.

The usual request, not a stream, is asked of the first candidate, which is ready and has room: a look-up and a few
comparisons. Whatever is not usual (a cold or full candidate, a failure, a balanced route, a stream, a header that asks
for something) is the business of a `Walk`.
"""

from aigw_daemon.gateway import controls
from aigw_daemon.gateway.attempt import Request, Streamed, Whole, attempt
from aigw_daemon.gateway.call import Call
from aigw_daemon.gateway.failures import AttemptFailed
from aigw_daemon.gateway.requests import Facts, asks, is_special
from aigw_daemon.gateway.walk import Means, Walk


class Chain:
    """Answers requests with what all of them share: connections, lanes, circuits, the retry budget."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._live = means.live

    async def answer(self, call: Call, facts: Facts, body: bytes) -> Whole | Streamed:
        """The first answer that some candidate gives; a stream keeps its backend busy until `Streamed.close`.

        Raises ApiError when there is none.
        """
        means, request = self._means, Request(facts, body)
        usual = not call.stream and call.controls is controls.NONE and not is_special(facts, body)
        plan = self._live.plans.get((call.endpoint, facts.model)) if usual else None
        hop = plan.first if plan is not None else None
        if plan is None or hop is None or not hop.breaker.closed or not hop.lane.try_enter():
            return await self._walk(call, request).answer()
        call.decision = plan.decision
        permit = hop.breaker.permit
        try:
            answer = await attempt(means.upstream, call, hop, permit, request)
        except AttemptFailed as failure:
            walk = self._walk(call, request)
            walk.note(hop, permit, failure)
            return await walk.answer()
        if means.budget.spent:
            means.budget.succeeded()
        return answer

    def _walk(self, call: Call, request: Request) -> Walk:
        return Walk(self._means, call, request, asks(call.endpoint, request.facts, request.body))
