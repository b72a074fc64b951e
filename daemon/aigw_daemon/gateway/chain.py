"""From a request to the first answer that a candidate gives. Nothing has reached the client yet, so failures fall back.

The usual request, not a stream, is asked of the first candidate, which is ready and has room: a look-up and a few
comparisons. Whatever is not usual (a cold or full candidate, a failure, a balanced route, a stream, a header that asks
for something) is the business of a `Walk`.
"""

from aigw_daemon.gateway.account import Account
from aigw_daemon.gateway.attempt import Streamed, Whole
from aigw_daemon.gateway.breaker import Permit
from aigw_daemon.gateway.failures import AttemptFailed
from aigw_daemon.gateway.plans import Hop
from aigw_daemon.gateway.requests import is_special
from aigw_daemon.gateway.walk import Means, Walk


class Chain:
    """Answers requests with what all of them share: connections, lanes, circuits, the retry budget."""

    def __init__(self, means: Means) -> None:
        self.upstream = means.upstream
        self._budget = means.budget
        self._means = means
        self._live = means.live

    def usual(self, call: Account) -> Hop | None:
        """The candidate to ask without further thought, its slot taken; None where the way must be walked."""
        if call.stream or not call.controls.usual or is_special(call.facts, call.body):
            return None
        plan = call.plan or self._live.plans.get((call.endpoint, call.model))
        if plan is None or (hop := plan.first) is None or not hop.breaker.closed or not hop.lane.try_enter():
            return None
        call.decision = plan.decision
        return hop

    def succeeded(self) -> None:
        """The usual candidate has answered."""
        if self._budget.spent:
            self._budget.succeeded()

    async def walk(self, call: Account) -> Whole | Streamed:
        """The first answer that some candidate gives; a stream keeps its backend busy until `Streamed.close`.

        Raises ApiError when there is none.
        """
        return await Walk(self._means, call).answer()

    async def go_on(self, call: Account, hop: Hop, permit: Permit, failure: AttemptFailed) -> Whole | Streamed:
        """See `walk`; the usual candidate has been asked, and failed."""
        walk = Walk(self._means, call)
        walk.note(hop, permit, failure)
        return await walk.answer()
