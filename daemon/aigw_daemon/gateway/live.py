"""What the worker routes on now: the snapshot, how backends stand, and the plans that were made of both.

A new snapshot, or a circuit that moves, throws all plans away.
"""

import asyncio

from aigw_daemon.gateway.decision import CALM, Ask, Conditions
from aigw_daemon.gateway.hosts import HostPolicy
from aigw_daemon.gateway.plans import Plan, compile_plan
from aigw_daemon.gateway.routing import RoutingTable, resolve
from aigw_daemon.gateway.standing import Standings
from aigw_daemon.link.messages import CacheView, GatewayView, Snapshot
from aigw_daemon.words import State

_PLANS_KEPT = 4_096
"""Clients choose names that a pattern matches, so there must be an end."""


class Live:
    """Holds the present snapshot; everything derived from it is replaced with it."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.gateway = GatewayView()
        self.hosts = HostPolicy()
        self.standings = Standings(self._reconsider)
        self._cache = CacheView()
        self._conditions: Conditions = CALM
        self._epoch = 0
        self.plans: dict[tuple[str, str], Plan] = {}
        """Those for requests that need nothing special, by endpoint and model: a look that spares a call of `plan`."""
        self._table: RoutingTable | None = None
        self._changed: asyncio.Future[None] | None = None

    def replace(self, snapshot: Snapshot) -> None:
        """Route on this from now on, and wake whoever waits for a change."""
        gateway = snapshot.gateway
        if (gateway.allowed_hosts, gateway.cors_origins) != (self.gateway.allowed_hosts, self.gateway.cors_origins):
            self.hosts = HostPolicy(gateway.allowed_hosts, gateway.cors_origins)
        self.snapshot = snapshot
        self.gateway = gateway
        self._cache = snapshot.cache
        self._table = RoutingTable(snapshot)
        self.standings.update(snapshot)
        self._reconsider()
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None

    async def changed(self) -> None:
        """Wait for the next snapshot."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        # Shielded: one waiter that gives up must not cancel the others' future.
        await asyncio.shield(self._changed)

    @property
    def table(self) -> RoutingTable | None:
        """The compiled snapshot; None before the first."""
        return self._table

    def plan(self, ask: Ask) -> Plan | None:
        """How to answer; None before the first snapshot."""
        if self._table is None:
            return None
        plain = not ask.needs and not ask.tokens
        if plain and (made := self.plans.get((ask.endpoint, ask.model))):
            return made
        decision = resolve(self._table, ask, self._conditions)
        plan = compile_plan(self._table, self.standings, decision, self._cache, self._epoch)
        if plain and decision.candidates:
            if len(self.plans) >= _PLANS_KEPT:
                self.plans.clear()
            self.plans[ask.endpoint, ask.model] = plan
        return plan

    def room(self, endpoint: str, model: str) -> int:
        """See `Plan.room`; 0 before the first snapshot."""
        plan = self.plan(Ask(model, endpoint))
        return 0 if plan is None else plan.room

    def is_current(self, plan: Plan) -> bool:
        """Whether nothing has changed since it was made."""
        return plan.epoch == self._epoch

    def needs_start(self, backend: str) -> bool:
        """Whether somebody must ask for this backend before it comes."""
        view = self._table.backends.get(backend) if self._table is not None else None
        return view is not None and view.state in {State.STOPPED, State.SLEEPING}

    def _reconsider(self) -> None:
        self._epoch += 1
        self._conditions = self.standings.conditions()
        self.plans = {}
